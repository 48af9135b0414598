"""From two folders of pictures to one entry of summary.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from inpo.errors import InputError
from inpo.evaluation.benchmark import evaluate
from inpo.evaluation.images import read_images
from inpo.evaluation.scores import read_scores
from inpo.evaluation.scoring import ImageSet
from inpo.evaluation.winrate import win_rate
from tests.unit.evaluation.conftest import Brightness, BrightnessByPart, write_folder

BASE = {(0, 0): 100, (1, 0): 100, (2, 0): 100, (3, 0): 100}
BETTER = {(0, 0): 151, (1, 0): 151, (2, 0): 100, (3, 0): 49}


Levels = dict[tuple[int, int], int]


def sides(tmp_path: Path, ours: Levels = BETTER, theirs: Levels = BASE) -> tuple[ImageSet, ImageSet]:
    return ImageSet("ours", write_folder(tmp_path / "ours", ours)), ImageSet("base", write_folder(tmp_path / "base", theirs))


def test_entry_by_hand(tmp_path: Path):
    """Two wins, a tie, a loss: 0.625; gains 0.2, 0.2, 0, −0.2; a judge of the opposite taste says 0.375; parts where they apply."""
    entry = evaluate(*sides(tmp_path), scorers=[BrightnessByPart(), Brightness("dark", -1)], out=tmp_path)
    assert (entry.win_rate, entry.n, entry.wins, entry.ties, entry.losses) == (0.625, 4, 2, 1, 1)
    assert entry.mean_gain == pytest.approx(0.05)
    assert entry.scorer == "brightness"
    assert entry.second_scorer is not None
    assert (entry.second_scorer.name, entry.second_scorer.win_rate) == ("dark", 0.375)
    assert {name: (part.n, pytest.approx(part.gain)) for name, part in entry.parts.items()} == {"all": (4, 0.05), "even": (2, 0.1)}
    assert entry.failures is not None
    assert entry.failures.excluded == 0


def test_statistics_can_be_redone_from_the_file(tmp_path: Path):
    """scores.parquet holds all that the entry says."""
    entry = evaluate(*sides(tmp_path), scorers=[Brightness()], out=tmp_path)
    rows = read_scores(tmp_path / "evaluation" / "scores.parquet")
    ours, theirs = ([row.score for row in rows if row.model == model] for model in ("ours", "base"))
    again = win_rate(ours, theirs)
    assert (again.win_rate, again.low, again.mean_gain, again.gain_high) == (entry.win_rate, entry.low, entry.mean_gain, entry.gain_high)
    assert {row.prompt for row in rows} == {f"prompt {i}" for i in range(4)}
    assert json.loads(rows[0].scorer_spec) == {"scorer": "brightness", "sign": 1.0}


def test_nothing_is_scored_twice(tmp_path: Path):
    """Equal pictures under equal prompts are known, across models and calls; a scorer with another spec starts anew."""
    ours, base = sides(tmp_path)
    first = evaluate(ours, base, scorers=[BrightnessByPart()], out=tmp_path)
    again = BrightnessByPart()
    assert evaluate(ours, base, scorers=[again], out=tmp_path) == first
    assert again.shown == 0
    other = BrightnessByPart(sign=-1.0)
    evaluate(ours, base, scorers=[other], out=tmp_path)
    assert other.shown == 8


def test_other_models_keep_their_rows(tmp_path: Path):
    """A second candidate adds its rows; the first one's stay, the baseline's are not doubled."""
    ours, base = sides(tmp_path)
    more = ImageSet("more", write_folder(tmp_path / "more", BETTER))
    for candidate in (ours, more, ours):
        evaluate(candidate, base, scorers=[Brightness()], out=tmp_path)
    models = [row.model for row in read_scores(tmp_path / "evaluation" / "scores.parquet")]
    assert {model: models.count(model) for model in models} == {"ours": 4, "more": 4, "base": 4}


def test_failures_are_counted_not_hidden(tmp_path: Path):
    """A missing, an unreadable, a black picture, and a score that is not a number: each counted on its side, three pairs excluded."""
    ours, base = sides(tmp_path, {(0, 0): 151, (1, 0): 0, (2, 0): 77, (3, 0): 49, (4, 0): 9}, {**BASE, (4, 0): 9})
    (ours.folder / "00000_0.png").unlink()
    (base.folder / "00003_0.png").write_bytes(b"no picture")
    relist(base.folder)
    entry = evaluate(ours, base, scorers=[Brightness(nan_level=77)], out=tmp_path)
    assert entry.failures is not None
    assert (entry.failures.candidate.missing, entry.failures.candidate.nan_scores, entry.failures.candidate.black) == (1, 1, 1)
    assert (entry.failures.baseline.unreadable, entry.failures.baseline.missing) == (1, 0)
    assert (entry.failures.excluded, entry.n, entry.win_rate) == (3, 2, 0.25)
    rows = read_scores(tmp_path / "evaluation" / "scores.parquet")
    assert sum(math.isnan(row.score) for row in rows) == 3


def relist(folder: Path) -> None:
    """Brings the index's hashes up to date, as if the pictures had been generated like this."""
    import hashlib

    entries = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    for entry in entries:
        entry["sha256"] = hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
    (folder / "images.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries))


def test_prompts_and_seeds_must_agree(tmp_path: Path):
    """Another prompt, another seed, a picture too few: named by index. Other seeds pass where they are meant."""
    base = ImageSet("base", write_folder(tmp_path / "base", BASE))
    prompts = ["prompt 0", "prompt 1", "another", "prompt 3"]
    with pytest.raises(InputError, match="prompt 2, sample 0: prompts differ"):
        evaluate(ImageSet("a", write_folder(tmp_path / "a", BASE, prompts=prompts)), base, scorers=[Brightness()], out=tmp_path)
    seeded = ImageSet("b", write_folder(tmp_path / "b", BASE, seed=9))
    with pytest.raises(InputError, match="seeds differ, 9 and 0"):
        evaluate(seeded, base, scorers=[Brightness()], out=tmp_path)
    assert evaluate(seeded, base, scorers=[Brightness()], out=tmp_path, same_seeds=False).win_rate == 0.5
    short = ImageSet("c", write_folder(tmp_path / "c", {(0, 0): 1}))
    with pytest.raises(InputError, match=r"prompt 1, sample 0 is in only one of them \(3"):
        evaluate(short, base, scorers=[Brightness()], out=tmp_path)


def test_ragged_samples_are_refused(tmp_path: Path):
    """A folder whose generation stopped half-way."""
    with pytest.raises(InputError, match="prompt 1 has 1 of 2 samples"):
        evaluate(*sides(tmp_path, *({(0, 0): 1, (0, 1): 1, (1, 0): 1},) * 2), scorers=[Brightness()], out=tmp_path)


def test_changed_pictures_are_refused(tmp_path: Path):
    """The index says what was generated; a score of something else would be filed under its name."""
    ours, base = sides(tmp_path)
    (ours.folder / "00001_0.png").write_bytes((ours.folder / "00000_0.png").read_bytes() + b" ")
    with pytest.raises(InputError, match=r"00001_0\.png: is not the picture"):
        evaluate(ours, base, scorers=[Brightness()], out=tmp_path)


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a#b"], [""]])
def test_scorers_need_names_of_their_own(tmp_path: Path, names: list[str]):
    """Rows of the file are told apart by name, and # marks a part."""
    with pytest.raises(InputError, match="scorers"):
        evaluate(*sides(tmp_path), scorers=[Brightness(name) for name in names], out=tmp_path)


def test_candidate_and_baseline_need_two_names(tmp_path: Path):
    """Otherwise their rows would be one model's."""
    ours, _ = sides(tmp_path)
    with pytest.raises(InputError, match="both called 'ours'"):
        evaluate(ours, ours, scorers=[Brightness()], out=tmp_path)


def test_scorer_of_the_wrong_shape_is_a_fault(tmp_path: Path):
    """A scorer that returns a column would be broadcast silently."""
    scorer = Brightness()
    scorer.score = lambda images, prompts: torch.zeros(len(images), 1)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="shape"):
        evaluate(*sides(tmp_path), scorers=[scorer], out=tmp_path)


GOOD = {"file": "0.png", "prompt_index": 0, "sample_index": 0, "seed": 0, "prompt": "p", "sha256": "0"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "../0.png"}, "plain name"),
        ({"file": "/etc/passwd"}, "plain name"),
        ({"file": ".."}, "plain name"),
        ({"seed": "0"}, "'seed' must be int"),
        ({"seed": True}, "'seed' must be int"),
        ({"sample_index": -1}, "at least 0"),
        ({"prompt": "\ud800"}, "surrogate"),
        ({"sha256": None}, "'sha256' must be str"),
    ],
)
def test_malformed_index(tmp_path: Path, change: dict[str, object], message: str):
    """Line and field are named; a file name cannot leave the folder."""
    (tmp_path / "images.jsonl").write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "sample_index": 1, **change}))
    with pytest.raises(InputError, match=message) as caught:
        read_images(tmp_path)
    assert "line 2" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps(GOOD) + "\n" + json.dumps(GOOD)])
def test_empty_broken_and_repeating_index(tmp_path: Path, text: str):
    """No picture, no object, no JSON, a picture twice."""
    (tmp_path / "images.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"images\.jsonl"):
        read_images(tmp_path)
