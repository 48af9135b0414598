"""Scores in place of labels: P(w ≻ l) by hand, from columns in every layout that has them, or from a scorer as pairs are read."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from inpo.compose import open_pairs, scorer
from inpo.data.config import DataConfig
from inpo.data.derived import ScoredPairs, scores_of
from inpo.data.index import INDEX_FILE, REJECTED_FILE
from inpo.data.loader import EncodedPairs
from inpo.data.order import held_out
from inpo.data.soft import soft_preference
from inpo.data.sources import ParquetPairs
from inpo.data.validate import validate
from inpo.errors import InputError
from inpo.objectives import Dpo
from inpo.points import Denoising
from inpo.types import PairRecord
from inpo.world.pairs import WorldPairs
from tests.unit.data.layouts import as_csv, as_jsonl, as_parquet, as_sides
from tests.unit.data.making import SIDE, MadePairs, SmallEncoder, pair_record, png, row, write

COLUMNS = ("score_0", "score_1")
SCORES = ((0.0, 1.0), (3.0, 1.0), (2.0, 2.0), (0.5, 4.0), (1.0, 1.0 + 1e-9), (4.0, 0.0))
"""Of six pairs, the third of them a tie. Least 0, largest 4."""


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def scored_rows(scores: Sequence[tuple[object, object]] = SCORES) -> list[dict[str, object]]:
    """Rows whose labels say the first picture, whatever the scores."""
    return [row(i, label_0=1.0, label_1=0.0, score_0=first, score_1=second) for i, (first, second) in enumerate(scores)]


def opened(path: Path, **settings: object) -> list[PairRecord]:
    source = ParquetPairs.open(DataConfig(str(path), score_columns=COLUMNS, **settings))  # type: ignore[arg-type]
    return [source[i] for i in range(source.size)]


@pytest.mark.parametrize(
    ("scores", "limits", "expected"),
    [
        ((0.2, 0.1), (0.0, 1.0), sigmoid(0.1)),
        ((1.0, 3.0), (1.0, 3.0), sigmoid(1.0)),
        ((-5.0, 9.0), (0.0, 4.0), sigmoid(1.0)),
        ((5.0, 9.0), (0.0, 4.0), 0.5),
        ((0.28201571, 0.11543526), (0.11543526, 0.28201571), math.e / (math.e + 1)),
        ((2.0, 2.0), (2.0, 2.0), 0.5),
    ],
)
def test_a_soft_label_by_hand(scores: tuple[float, float], limits: tuple[float, float], expected: float) -> None:
    """exp(r_w)/(exp(r_w) + exp(r_l)) of min–max normalised, clamped scores; the fifth has the release's two ends of PickScore."""
    assert soft_preference(np.array([scores, scores[::-1]]), limits) == pytest.approx([expected, expected], abs=1e-12)


def test_the_better_score_wins_whatever_the_labels_say(tmp_path: Path) -> None:
    """By the columns' own range, 0 to 4: P(w ≻ l) = σ of a quarter of the difference. The tie is left out."""
    pairs = opened(write(tmp_path / "p.parquet", scored_rows()))
    kept = [(i, first, second) for i, (first, second) in enumerate(SCORES) if first != second]
    assert [pair.caption for pair in pairs] == [f"caption {i}" for i, _, _ in kept]
    for pair, (i, first, second) in zip(pairs, kept, strict=True):
        better = int(second > first)
        assert (pair.win, pair.lose) == (png(2 * i + better), png(2 * i + 1 - better))
        assert pair.preference == pytest.approx(sigmoid(abs(first - second) / 4), abs=1e-7)


def test_a_range_of_the_settings_clamps(tmp_path: Path) -> None:
    """Between 1 and 2: scores beyond count as these, so that (0, 1) and (3, 1)… differ by nothing or by all. Ties are kept as ½."""
    pairs = opened(write(tmp_path / "p.parquet", scored_rows()), score_range=(1.0, 2.0), ties="half")
    expected = [0.5, sigmoid(1), 0.5, sigmoid(1), sigmoid(1e-9), sigmoid(1)]
    assert [pair.preference for pair in pairs] == pytest.approx(expected, abs=1e-7)
    assert len(opened(tmp_path / "p.parquet", score_range=(1.0, 2.0))) == 4
    with pytest.raises(InputError, match=r"p\.parquet, row 0, score_0 and score_1: equal, a tie, and data\.ties=error"):
        opened(tmp_path / "p.parquet", score_range=(1.0, 2.0), ties="error")


def as_scored_jsonl(folder: Path) -> Path:
    """win and lose name the first and the second picture, no more."""
    path = as_jsonl(folder, len(SCORES))
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    lines = [line | {"win": line["lose"], "lose": line["win"]} if i % 2 else line for i, line in enumerate(lines)]
    path.write_text("\n".join(json.dumps(line | dict(zip(COLUMNS, SCORES[i], strict=True))) for i, line in enumerate(lines)))
    return path


def as_scored_csv(folder: Path) -> Path:
    """Without any label."""
    path = as_csv(folder, len(SCORES))
    rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([*line[:2], line[4], *(COLUMNS if i == 0 else map(str, SCORES[i - 1]))] for i, line in enumerate(rows))
    return path


@pytest.mark.parametrize("ties", ["drop", "half"])
def test_listings_give_the_pairs_that_parquet_gives(tmp_path: Path, ties: str) -> None:
    unlabelled = [{key: value for key, value in line.items() if "label" not in key} for line in scored_rows()]
    expected = [replace(pair, row="") for pair in opened(write(tmp_path / "p.parquet", unlabelled), ties=ties)]
    for path in (as_scored_jsonl(tmp_path / "jsonl"), as_scored_csv(tmp_path / "csv")):
        assert [replace(pair, row="") for pair in opened(path, ties=ties)] == expected
        report = validate(DataConfig(str(path), score_columns=COLUMNS))
        assert (report.problems, report.tally.pairs, report.tally.ties) == ((), 5, 1)


@pytest.mark.parametrize(
    ("value", "reason"), [(None, "is missing"), (math.nan, "is not finite"), (math.inf, "is not finite"), ("high", "is not a number")]
)
def test_a_score_that_is_none_is_named_by_row(tmp_path: Path, value: object, reason: str) -> None:
    """Its row is rejected and tells nothing about the columns' range."""
    path = as_scored_jsonl(tmp_path / "data")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[3] |= {"score_0": value, "score_1": 1e9}
    path.write_text("\n".join(map(json.dumps, lines)))
    config = DataConfig(str(path), score_columns=COLUMNS, max_rejected_fraction=0.5)
    source = ParquetPairs.open(config, folder=tmp_path / "run")
    line = json.loads((tmp_path / "run" / REJECTED_FILE).read_text())
    assert (line["row"], line["field"], line["reason"]) == (3, "score_0", reason)
    assert source[0].preference == pytest.approx(sigmoid(1 / 4), abs=1e-7)


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = as_parquet(tmp_path, 4)
    with pytest.raises(InputError, match=r"pairs\.parquet: data\.score_columns: there is no column 'score_0' beside .*inpo data score"):
        opened(path)
    with pytest.raises(InputError, match="the column caption holds text, not numbers"):
        ParquetPairs.open(DataConfig(str(write(tmp_path / "p.parquet", scored_rows())), score_columns=("score_0", "caption")))
    with pytest.raises(InputError, match="there is no column 'score_0' beside name"):
        opened(as_sides(tmp_path / "set", 4))


def test_another_range_is_another_data_set(tmp_path: Path) -> None:
    """The list of a run is read again under the same settings, and refused under others by their key; ids and the split stay."""
    path = write(tmp_path / "p.parquet", scored_rows())
    labelled, own, wide = (
        ParquetPairs.open(DataConfig(str(path), **settings), folder=tmp_path / name)  # type: ignore[arg-type]
        for name, settings in {"a": {}, "b": {"score_columns": COLUMNS}, "c": {"score_columns": COLUMNS, "score_range": (0, 9)}}.items()
    )
    assert len({labelled.fingerprint, own.fingerprint, wide.fingerprint}) == 3
    assert set(own.ids) < set(labelled.ids)
    again = ParquetPairs.open(DataConfig(str(path), score_columns=COLUMNS), folder=tmp_path / "b")
    assert (again.fingerprint, [again[i] for i in range(5)]) == (own.fingerprint, [own[i] for i in range(5)])
    with pytest.raises(InputError, match=r"data\.score_range was None and is \[0, 9\]"):
        ParquetPairs.open(DataConfig(str(path), score_columns=COLUMNS, score_range=(0, 9)), folder=tmp_path / "b")
    with pytest.raises(InputError, match=r"data\.score_columns was None and is \['score_0', 'score_1'\]"):
        ParquetPairs.open(DataConfig(str(path), score_columns=COLUMNS), folder=tmp_path / "a")


def test_labels_alone_are_fingerprinted_as_ever(tmp_path: Path) -> None:
    """A run that was begun before scores and single pictures were known goes on: the same fingerprint, computed here by hand."""
    labels = (1.0, 0.0, 0.5, 1.0, 0.0, 1.0)
    path = write(tmp_path / "p.parquet", [row(i, label_0=label, label_1=1 - label) for i, label in enumerate(labels)])
    source = ParquetPairs.open(DataConfig(str(path), ties="half"), folder=tmp_path / "run")
    digest = hashlib.sha256(json.dumps([[4, 2]]).encode())
    digest.update(b"".join(bytes.fromhex(name) for name in source.ids))
    digest.update(np.array([0.5 if label == 0.5 else 1.0 for label in labels], dtype=np.float32))
    digest.update(np.array([label == 0 for label in labels], dtype=np.float32))
    assert source.fingerprint == digest.hexdigest()
    kept = json.loads(pq.read_schema(tmp_path / "run" / INDEX_FILE).metadata[b"inpo"])
    assert set(kept["made_from"]) == {"layout", "ties", "verify", "where", "files"}


def test_the_worlds_pairs_are_what_they_were() -> None:
    """Fingerprints and the ids of packaged pairs as the first revision had them, so that its runs go on."""
    pairs, shuffled = WorldPairs(), WorldPairs(shuffled=True)
    assert pairs.fingerprint == "46f72ae6f845fa8339f08846b75aa9435a8cc1a93d23bc62532347d3010e1787"
    assert shuffled.fingerprint == "49fcad1ce4587e9664784e6b42bea98e781667f2a1ff3f444805744e41e2334e"
    assert [pairs[i].id[:16] for i in (0, 7)] == ["7b9477e1ea1f0fd0", "65e502622fe1d990"]


class Brightness:
    """A scorer that can be checked by hand: the mean of a picture's red, and a count of what it was asked."""

    name = "brightness"

    def __init__(self, scale: float = 1.0) -> None:
        self.spec: Mapping[str, object] = {"scale": scale}
        self.scale = scale
        self.calls = 0

    def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        self.calls += 1
        assert len(images) == len(prompts)
        return torch.tensor([self.scale * float(image[..., 0].float().mean()) for image in images])


class Same(Brightness):
    """Everything scores the same, or nothing at all."""

    def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        return torch.full((len(images),), self.scale)


LIMITED = DataConfig("made", scorer="brightness", score_range=(100.0, 150.0), resolution=SIDE, validation_fraction=0.0)


def test_a_scorer_judges_pairs_as_they_are_read() -> None:
    """Each by itself and not before it is asked for; the same whenever and in whatever order; ids are the pairs' own."""
    judge = Brightness()
    source = ScoredPairs(MadePairs(8), judge, LIMITED)
    assert (source.size, source.singles, judge.calls, list(source.ids)) == (8, False, 0, [pair_record(i).id for i in range(8)])
    judged = {i: source[i] for i in (3, 1, 5)}
    assert (judge.calls, source[5] == judged[5], judge.calls) == (3, True, 4)
    for i, pair in judged.items():
        (first, second), original = scores_of(Brightness(), [pair_record(i)])[0], pair_record(i)
        assert (pair.win, pair.lose) == ((original.win, original.lose) if first > second else (original.lose, original.win))
        gap = abs(np.clip(first, 100, 150) - np.clip(second, 100, 150)) / 50
        assert pair.preference == pytest.approx(sigmoid(gap), abs=1e-6)


def test_a_scorer_and_its_range_are_part_of_the_fingerprint() -> None:
    sources = [
        ScoredPairs(MadePairs(8), Brightness(), LIMITED), ScoredPairs(MadePairs(8), Brightness(2.0), LIMITED),
        ScoredPairs(MadePairs(8), Brightness(), replace(LIMITED, score_range=(0.0, 150.0))),
        ScoredPairs(MadePairs(9), Brightness(), LIMITED),
    ]  # fmt: skip
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert ScoredPairs(MadePairs(8), Brightness(), LIMITED).fingerprint == sources[0].fingerprint


def test_ties_that_a_scorer_finds() -> None:
    """In a list they are kept as ½, or an error; a source without end gives another pair in their stead."""
    assert ScoredPairs(MadePairs(8), Same(), LIMITED)[2].preference == 0.5
    with pytest.raises(InputError, match=r"made, row 2: both pictures score 100, a tie, and data\.ties=error allows none"):
        ScoredPairs(MadePairs(8), Same(), replace(LIMITED, ties="error"))[2]
    with pytest.raises(InputError, match=r"made, row 2: data\.scorer='brightness' gave no finite score"):
        ScoredPairs(MadePairs(8), Same(math.nan), LIMITED)[2]

    class OftenSame(Brightness):
        def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
            return super().score(images, prompts) if int(prompts[0].split()[1]) >= 1000 else torch.full((len(images),), 120.0)

    class Endless(MadePairs):
        def __getitem__(self, index: int) -> PairRecord:
            return replace(pair_record(index % 100), caption=f"caption {min(index, 1000)}")

    assert ScoredPairs(Endless(None), OftenSame(), LIMITED)[7].caption == "caption 1000"
    assert ScoredPairs(Endless(None), OftenSame(), replace(LIMITED, ties="half"))[7].preference == 0.5


def test_a_scorer_is_asked_about_no_pair_that_validation_leaves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a source without end, validation pairs come from many rows, and few of them are held out."""
    monkeypatch.setattr("inpo.data.order.ENDLESS_VALIDATION_ROWS", 40)
    judge, config = Brightness(), replace(LIMITED, validation_fraction=0.2)
    with EncodedPairs(ScoredPairs(MadePairs(None), judge, config), SmallEncoder(), config=config, seed=0, pairs_per_step=1) as loader:
        ids = [name for batch in loader.validation() for name in batch.ids]
    assert ids == [pair_record(i).id for i in range(40) if held_out(pair_record(i).id, 0.2)]
    assert 0 < judge.calls == len(ids) < 20


def test_the_worlds_pairs_under_its_own_scorer() -> None:
    """The stream `world:pairs` and the scorer by its name: the winner is the one that world:clip prefers."""
    pairs = open_pairs(DataConfig("world:pairs", scorer="world:clip", score_range=(13.0, 21.0)))
    plain, judge = WorldPairs(), scorer("world:clip")
    for i in range(3):
        first, second = scores_of(judge, [plain[i]])[0]
        assert pairs[i].id == plain[i].id
        assert pairs[i].win == (plain[i].win if first > second else plain[i].lose)
        assert 0.5 < pairs[i].preference < sigmoid(1)
    with pytest.raises(InputError, match=r"world:pairs has no columns for data\.score_columns: use data\.scorer"):
        open_pairs(DataConfig("world:pairs", score_columns=COLUMNS))


def test_soft_labels_reach_the_objective(tmp_path: Path) -> None:
    """Through the loader to DPO: its loss at u is the cross-entropy of p, −p log σ(u) − (1−p) log σ(−u)."""
    config = DataConfig(str(write(tmp_path / "p.parquet", scored_rows())), score_columns=COLUMNS, resolution=SIDE, validation_fraction=0.0)
    with EncodedPairs(ParquetPairs.open(config), SmallEncoder(), config=config, seed=0, pairs_per_step=5) as loader:
        batch = loader.fetch(range(5))
    assert sorted(batch.preference.tolist()) == pytest.approx(sorted(sigmoid(abs(a - b) / 4) for a, b in SCORES if a != b), abs=1e-6)
    target = torch.zeros(5, 1, 2, 2)
    win, lose = Denoising(target, target, target + 1), Denoising(target, target + 1, target)
    loss = Dpo(beta=0.5)(win, lose, batch.preference)
    # L_w − L_l = −1, R_w − R_l = 1, so u = −(0.5/2)·(−2) = ½.
    expected = [-p * math.log(sigmoid(0.5)) - (1 - p) * math.log(sigmoid(-0.5)) for p in batch.preference.tolist()]
    assert loss.tolist() == pytest.approx(expected, abs=1e-6)
