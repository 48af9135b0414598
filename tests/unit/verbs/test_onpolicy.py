"""Pictures and scores become pairs: winners score higher, near ties and faulty pictures are left out and counted, scores are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from inpo.data.validate import validate
from inpo.errors import InputError
from inpo.generation import GenerationConfig, ImageRecord, write_png
from inpo.verbs import onpolicy
from inpo.verbs.onpolicy import OnPolicy, OnPolicyReport, generate_pairs

GREYS = {0: [10, 40, 20, 30], 1: [50, 50, 50, 90]}
"""Prompt index → the grey of each sample: pictures whose score is known. Equal greys of one prompt are one picture."""


class Brightness:
    """The mean grey; not a number for a grey in `mute`. Counts the pictures it is shown."""

    name = "brightness"

    def __init__(self, mute: Sequence[int] = ()) -> None:
        self.spec: Mapping[str, object] = {}
        self.mute, self.shown = mute, 0

    def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        self.shown += len(images)
        values = torch.stack([image.float().mean() for image in images])
        return torch.where(torch.isin(values, torch.tensor(self.mute, dtype=torch.float32)), torch.nan, values)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Brightness:
    """A world without models: pictures of `GREYS`, judged by their brightness."""
    found = Brightness()
    monkeypatch.setattr(onpolicy, "check_generator", lambda model, config, option: None)
    monkeypatch.setattr(onpolicy, "load", lambda model, frozen: None)
    monkeypatch.setattr(onpolicy, "scorer", lambda name: found)
    monkeypatch.setattr(onpolicy, "generate", draw)
    return found


def draw(model: object, prompts: Sequence[str], folder: Path, config: GenerationConfig, **how: object) -> list[ImageRecord]:
    """What `generate` returns, without a model; the darkest two are given faults."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i, prompt in enumerate(prompts):
        for j in range(config.samples):
            grey, name = GREYS[i][j], f"{i:05d}_{j}.png"
            sha256 = write_png(folder / name, np.full((16, 16, 3), grey, np.uint8))
            records.append(ImageRecord(name, i, j, 100 * i + j, prompt, sha256, {0: "black", 1: "non-finite"}.get(grey)))
    return records


def job(folder: Path, **settings: object) -> tuple[OnPolicyReport, list[dict[str, object]]]:
    """Runs it and returns the report and the rows, valid as a pairs file."""
    (folder / "prompts.txt").write_text("a cat\na dog\n")
    out = folder / "pairs.parquet"
    asked = OnPolicy("m", str(folder / "prompts.txt"), "s", **settings)  # type: ignore[arg-type]
    report = generate_pairs(asked, out, force=True)
    assert validate(str(out)).ok
    return report, pq.read_table(out).to_pylist()


def sides(rows: Sequence[Mapping[str, object]]) -> list[tuple[object, ...]]:
    return [(row["score_0"], row["score_1"], row["label_0"]) for row in rows]


@pytest.mark.usefixtures("judge")
def test_the_best_wins_against_the_worst(tmp_path: Path) -> None:
    """One pair a prompt, in the pictures' order, the brighter one wins; what made and judged it stands beside it."""
    report, rows = job(tmp_path)
    assert sides(rows) == [(10.0, 40.0, 0.0), (50.0, 90.0, 0.0)]
    assert (report.pairs, report.prompts, report.near_ties, report.same, report.faults, report.mean_gap) == (2, 2, 0, 0, {}, 35.0)
    first = {name: rows[0][name] for name in ("caption", "model_0", "model_1", "scorer", "seed_0", "seed_1", "ranking_id", "image_1_uid")}
    assert first == {
        "caption": "a cat", "model_0": "m", "model_1": "m", "scorer": "s", "seed_0": 0, "seed_1": 1, "ranking_id": "0",
        "image_1_uid": "00000_1.png",
    }  # fmt: skip
    assert rows[1]["jpg_1"] == (tmp_path / "pairs.work" / "pictures" / "00001_3.png").read_bytes()


@pytest.mark.usefixtures("judge")
def test_a_margin_drops_near_ties_or_halves_them(tmp_path: Path) -> None:
    """Scores 10, 40, 20, 30: neighbours are 10 apart, which is within a margin of 10. Copies of one picture are no pair at all."""
    with pytest.raises(InputError, match="no pair came of 4 pictures: 3 near ties"):
        job(tmp_path, limit=1, pairs="adjacent", margin=10.0)
    report, rows = job(tmp_path, limit=1, pairs="adjacent", margin=9.5)
    assert (len(rows), report.near_ties) == (3, 0)
    report, rows = job(tmp_path, limit=1, pairs="all", margin=10.0)
    assert (sides(rows), report.near_ties) == ([(10.0, 40.0, 0.0), (10.0, 30.0, 0.0), (40.0, 20.0, 1.0)], 3)
    report, rows = job(tmp_path, limit=1, pairs="all", margin=10.0, near_ties="half")
    assert (len(rows), report.pairs, report.near_ties, sum(row["label_0"] == 0.5 for row in rows)) == (6, 6, 3, 3)
    report, rows = job(tmp_path, pairs="all")
    assert (len(rows), report.same) == (9, 3)


def test_faulty_pictures_are_left_out_and_counted(judge: Brightness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Black, not finite, without a score: each is counted; a prompt with one sound picture left has no pair."""
    monkeypatch.setitem(GREYS, 0, [0, 1, 7, 30])
    judge.mute = [7]
    report, rows = job(tmp_path)
    assert report.faults == {"black": 1, "non-finite": 1, "without a score": 1}
    assert (sides(rows), report.prompts) == ([(50.0, 90.0, 0.0)], 2)
    assert "pictures left out: 1 black, 1 non-finite, 1 without a score" in list(report.lines())


def test_scores_are_kept_beside_the_pictures(judge: Brightness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption between two savings costs only what came after; another margin asks the scorer nothing; another spec all."""
    monkeypatch.setattr(onpolicy, "_CHUNK", 4)
    whole = judge.score
    monkeypatch.setattr(judge, "score", lambda images, prompts: interrupt() if judge.shown == 4 else whole(images, prompts))
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path)
    assert not (tmp_path / "pairs.parquet").exists()
    monkeypatch.setattr(judge, "score", whole)
    job(tmp_path)
    assert judge.shown == 8
    job(tmp_path, margin=1.0, pairs="all")
    assert judge.shown == 8
    judge.spec = {"another": True}
    job(tmp_path)
    assert judge.shown == 16


def interrupt() -> Tensor:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("judge")
def test_a_file_that_is_there_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").write_text("mine")
    with pytest.raises(InputError, match="--force"):
        generate_pairs(OnPolicy("m", "world:train", "s"), tmp_path / "pairs.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.parquet"]


WRONG = {
    "pairs": ({"pairs": "best"}, r"pairs='best' is not known \(did you mean 'best-worst'\?\)"),
    "near ties": ({"near_ties": "keep"}, "near_ties='keep' is not known"),
    "margin": ({"margin": -1.0}, "margin=-1.0 must be a finite number"),
    "limit": ({"limit": 0}, "limit=0 must be a whole number of at least 1"),
    "samples": ({"generation": GenerationConfig(samples=1)}, "samples=1 must be a whole number of at least 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_setting_that_cannot_be_is_named(case: str) -> None:
    settings, words = WRONG[case]
    with pytest.raises(InputError, match=words):
        OnPolicy("m", "p", "s", **settings)  # type: ignore[arg-type]
