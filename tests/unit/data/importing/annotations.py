"""Annotations in the published shapes, and pictures for them, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from inpo.data.importing import ImportConfig, ImportReport, import_pairs
from tests.unit.data.making import png


def pictures(folder: Path, names: Sequence[str], *, first: int = 0) -> Path:
    """A PNG of its own for each name."""
    for i, name in enumerate(names, start=first):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i))
    return folder


def write_json(path: Path, value: object) -> Path:
    """JSON as the publishers write it: one list, escaped only where UTF-8 cannot hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, ensure_ascii=False)
    path.write_text(text if "\ud83d" not in text else json.dumps(value), encoding="utf-8")
    return path


def write_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """One object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(path: Path, out: Path, **settings: object) -> ImportReport:
    """An import with everything allowed to be wrong, unless said otherwise."""
    return import_pairs(ImportConfig(path, **{"max_rejected_fraction": 1.0, **settings}), out)  # type: ignore[arg-type]


def listed(out: Path) -> list[tuple[str, int | None, str, str, str]]:
    """The listing's lines: file, row, field, reason, value."""
    file = out.with_suffix(".rejected.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [(line["file"], line["row"], line["field"], line["reason"], line["value"]) for line in lines]


def hpdv2_test(names: Sequence[str], ranks: Sequence[float], prompt: str = "a café at night") -> dict[str, object]:
    """A row of HPDv2's test.json."""
    raw = [{"rank": list(ranks), "user_hash": "u1"}]
    return {"prompt": prompt, "image_path": list(names), "rank": list(ranks), "raw_annotations": raw}


def hpdv2_train(names: Sequence[str], preference: Sequence[int], prompt: str = "a dog") -> dict[str, object]:
    """A row of HPDv2's train.json."""
    return {"human_preference": list(preference), "prompt": prompt, "file_path": list(names), "user_hash": "u2"}


def hpdv3(names: Sequence[str], votes: Sequence[int] | None = (12, 7), **changes: object) -> dict[str, object]:
    """A row of HPDv3's all.json."""
    kept = {"choice_dist": None if votes is None else list(votes), "confidence": None if votes is None else 0.9375}
    models = {"model1": "flux", "model2": "infinity"}
    return {"prompt": "a castle", **kept, "path1": names[0], "path2": names[1], **models, **changes}


def imagereward(name: str, rank: float, prompt_id: str = "001324-0093", **changes: object) -> dict[str, object]:
    """A row of ImageRewardDB's metadata."""
    ratings = {"overall_rating": 8 - rank, "image_text_alignment_rating": 6, "fidelity_rating": 5}
    about = {"prompt_id": prompt_id, "prompt": f"prompt of {prompt_id}", "classification": "Outdoor Scenes", "image_amount_in_total": 4}
    return {"image_path": name, **about, "rank": rank, **ratings, **changes}
