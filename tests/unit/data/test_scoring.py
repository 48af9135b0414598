"""`inpo data score`: every sound pair with a score for each picture, in order, whole or not at all, and never scored twice."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from torch import Tensor

from inpo.data import scoring
from inpo.data.config import DataConfig
from inpo.data.scoring import SCORES, SPEC, score_pairs
from inpo.data.sources import ParquetPairs
from inpo.errors import InputError
from tests.unit.data.layouts import as_csv, as_jsonl, as_sides
from tests.unit.data.making import noise_picture, png, row, write
from tests.unit.data.test_singles import as_jsonl as as_opinions
from tests.unit.data.test_soft import Brightness


def red(seed: int) -> float:
    """What `Brightness` gives the picture `png(seed)`, from its pixels."""
    return float(noise_picture(seed)[..., 0].mean())


def scored(path: Path | str, out: Path, **settings: object) -> list[dict[str, object]]:
    score_pairs(DataConfig(str(path), **settings), Brightness(), out)  # type: ignore[arg-type]
    return list(pq.read_table(out).to_pylist())


def test_every_pair_gets_two_scores(tmp_path: Path) -> None:
    """By hand, in the order of the file and of its columns; pictures, labels and other columns as they were; who scored, with the file."""
    rows = [row(i, nsfw=i / 10, model_0="a", score_1=-9.0) for i in range(20)]
    rows[3] |= {"label_0": 0.5, "label_1": 0.5}
    path = write(tmp_path / "p.parquet", rows)
    seen: list[tuple[int, int]] = []
    report = score_pairs(DataConfig(str(path)), Brightness(), tmp_path / "out.parquet", progress=lambda done, of: seen.append((done, of)))
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [{key: line[key] for key in rows[0] if key != "score_1"} for line in found] == [
        {key: value for key, value in line.items() if key != "score_1"} for line in rows
    ]
    for i, line in enumerate(found):
        assert [line[name] for name in SCORES] == pytest.approx([red(2 * i), red(2 * i + 1)], abs=1e-4)
    agreeing = [(red(2 * i) > red(2 * i + 1)) == (i % 2 == 0) for i in range(20) if i != 3]
    assert (report.pairs, report.labelled, report.agreement) == (20, 19, pytest.approx(sum(agreeing) / 19))
    every = [red(seed) for seed in range(40)]
    assert (report.low, report.high) == (pytest.approx(min(every), abs=1e-4), pytest.approx(max(every), abs=1e-4))
    assert seen == [(i + 1, 20) for i in range(20)]
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert json.loads(schema.metadata[SPEC.encode()]) == {"scorer": "brightness", "scale": 1.0}
    assert {str(schema.field(name).type) for name in SCORES} == {"float"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "p.parquet"]


def test_what_it_writes_is_trained_on(tmp_path: Path) -> None:
    """The columns that it writes are read as soft labels: the brighter picture has won."""
    scored(write(tmp_path / "p.parquet", [row(i) for i in range(6)]), tmp_path / "out.parquet")
    source = ParquetPairs.open(DataConfig(str(tmp_path / "out.parquet"), score_columns=SCORES))
    assert source.size == 6
    for i in range(6):
        brighter = max(2 * i, 2 * i + 1, key=red)
        assert source[i].win == png(brighter)
        assert 0.5 < source[i].preference <= 1 / (1 + math.exp(-1))


@pytest.mark.parametrize("layout", [as_csv, as_jsonl, as_sides])
def test_every_layout_becomes_the_same_file(tmp_path: Path, layout: object) -> None:
    """Winner and loser, or the first and the second, by their places; labels too."""
    path = layout(tmp_path / "data", 6)  # type: ignore[operator]
    for i, line in enumerate(scored(path, tmp_path / "out.parquet")):
        first = 2 * i if (line["label_0"] == 1 and i % 2 == 0) or (line["label_0"] == 0 and i % 2) else 2 * i + 1
        second = 4 * i + 1 - first
        assert (line["jpg_0"], line["jpg_1"], line["has_label"]) == (png(first), png(second), True)
        assert [line[name] for name in SCORES] == pytest.approx([red(first), red(second)], abs=1e-4)


def test_labels_may_be_missing(tmp_path: Path) -> None:
    """In the whole file, or by has_label: the pair is scored all the same, and says that it has no label."""
    bare = [{key: value for key, value in row(i).items() if "label" not in key} for i in range(3)]
    report = score_pairs(DataConfig(str(write(tmp_path / "bare.parquet", bare))), Brightness(), tmp_path / "a.parquet")
    assert (report.pairs, report.labelled, "agreement" in "\n".join(report.lines())) == (3, 0, False)
    some = [row(i, has_label=i != 1, **({"label_0": math.nan, "label_1": 0.0} if i == 1 else {})) for i in range(3)]
    found = scored(write(tmp_path / "some.parquet", some), tmp_path / "b.parquet")
    assert [line["has_label"] for line in found] == [True, False, True]
    assert ParquetPairs.open(DataConfig(str(tmp_path / "b.parquet"))).tally.unlabelled == 1
    assert ParquetPairs.open(DataConfig(str(tmp_path / "b.parquet"), score_columns=SCORES)).size == 3


class Nanny(Brightness):
    """Gives the caption of row 5 no number."""

    def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        scores = super().score(images, prompts)
        for i, prompt in enumerate(prompts):
            if prompt == "caption 5" and i % 2:
                scores[i] = math.nan
        return scores


def test_what_is_wrong_is_listed_and_left_out(tmp_path: Path) -> None:
    """Broken pictures, inside too, labels that contradict, a score that is no number: by row and field. Filtered rows are counted."""
    rows = [row(i, keep=i != 2) for i in range(12)]
    rows[0] |= {"jpg_1": b"<html></html>"}
    rows[3] |= {"label_1": 1.0, "label_0": 1.0}
    rows[7] |= {"jpg_0": png(14)[:-20]}
    path, out = write(tmp_path / "p.parquet", rows), tmp_path / "out.parquet"
    config = DataConfig(str(path), where=("keep == true",), max_rejected_fraction=0.5)
    report = score_pairs(config, Nanny(), out)
    listed = [json.loads(line) for line in (tmp_path / "out.rejected.jsonl").read_text().splitlines()]
    assert sorted((line["row"], line["field"]) for line in listed) == [(0, "jpg_1"), (3, "label_0"), (5, "score_1"), (7, "jpg_0")]
    assert (report.pairs, report.filtered, report.rejected) == (7, 1, 4)
    assert [line["caption"] for line in pq.read_table(out).to_pylist()] == [f"caption {i}" for i in (1, 4, 6, 8, 9, 10, 11)]
    with pytest.raises(InputError, match=r"2 of \d+ rows have a fault .* more than --max-rejected-fraction 0\.1"):
        score_pairs(DataConfig(str(path)), Nanny(), tmp_path / "strict.parquet")
    assert not (tmp_path / "strict.parquet").exists()


def test_a_caption_that_a_scorer_refuses_costs_its_own_pair_alone(tmp_path: Path) -> None:
    """In a batch with others, whose scores are the same as without it."""

    class Choosy(Brightness):
        def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
            if "caption 2" in prompts:
                raise InputError("'caption 2' is not a caption of mine")
            return super().score(images, prompts)

    path = write(tmp_path / "p.parquet", [row(i) for i in range(12)])
    whole = scored(path, tmp_path / "whole.parquet")
    report = score_pairs(DataConfig(str(path)), Choosy(), tmp_path / "out.parquet")
    assert (report.pairs, report.rejected) == (11, 1)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [line for line in whole if line["caption"] != "caption 2"]
    first = json.loads((tmp_path / "out.rejected.jsonl").read_text().splitlines()[0])
    assert (first["row"], first["field"], first["reason"]) == (2, "score_0", "the scorer gives no finite number")


def test_it_is_whole_or_not_there_and_no_pair_is_scored_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the third batch: nothing at --out. The same call scores the rest alone and writes what an undisturbed one does."""
    monkeypatch.setattr(scoring, "BATCH", 4)
    path, out = write(tmp_path / "p.parquet", [row(i) for i in range(18)]), tmp_path / "out.parquet"
    whole = scored(path, tmp_path / "whole.parquet")

    class Stopped(Brightness):
        def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().score(images, prompts)

    with pytest.raises(KeyboardInterrupt):
        score_pairs(DataConfig(str(path)), Stopped(), out)
    assert not out.exists()
    kept = out.with_suffix(".scores.jsonl")
    kept.write_text(kept.read_text() + "[[1.0, 2.")
    rest = Brightness()
    report = score_pairs(DataConfig(str(path)), rest, out)
    assert (report.known, rest.calls) == (8, 3)
    assert pq.read_table(out).to_pylist() == whole
    assert not kept.exists()


def test_scores_of_another_scorer_or_file_are_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BATCH", 2)
    path, out = write(tmp_path / "p.parquet", [row(i) for i in range(4)]), tmp_path / "out.parquet"
    config = DataConfig(str(path))
    with pytest.raises(ZeroDivisionError):
        score_pairs(config, Brightness(), out, progress=lambda done, _: 1 // (done - 3))
    kept = out.with_suffix(".scores.jsonl").read_text()
    assert score_pairs(config, Brightness(2.0), tmp_path / "other.parquet").known == 0
    out.with_suffix(".scores.jsonl").write_text(kept)
    assert score_pairs(config, Brightness(2.0), out).known == 0
    out.with_suffix(".scores.jsonl").write_text(kept)
    write(path, [row(i + 1) for i in range(4)])
    assert score_pairs(config, Brightness(), out, force=True).known == 0


def test_what_cannot_be_scored_is_refused_before_anything_is(tmp_path: Path) -> None:
    judge = Brightness()
    with pytest.raises(InputError, match="single pictures, and scores are compared within pairs"):
        score_pairs(DataConfig(str(as_opinions(tmp_path / "single"))), judge, tmp_path / "out.parquet")
    path = write(tmp_path / "p.parquet", [row(0)])
    with pytest.raises(InputError, match="is the file that is read; name another one"):
        score_pairs(DataConfig(str(path)), judge, path, force=True)
    with pytest.raises(InputError, match="--force"):
        score_pairs(DataConfig(str(path)), judge, path)
    assert judge.calls == 0
