"""`inpo score`: every picture once, the best of each prompt first, and an interrupted or repeated call asks only for what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from inpo.errors import InputError
from inpo.evaluation.scores import read_scores
from inpo.evaluation.tables import read_table
from inpo.intervals import around_mean
from inpo.verbs import judging
from inpo.verbs.judging import Ranked, ScoreReport, Scoring, score_pictures
from tests.unit.evaluation.conftest import Brightness, write_folder

LEVELS = {(0, 0): 51, (0, 1): 204, (0, 2): 102, (1, 0): 255}


class ByT(Brightness):
    """Brightness as the mean of two parts of a path: twice as much, and nothing."""

    def score_with_parts(self, images: Sequence[Tensor], prompts: Sequence[str]) -> tuple[Tensor, Mapping[str, Tensor]]:
        score = self.score(images, prompts)
        return score, {"k=1": 2 * score, "k=2": 0 * score}


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> dict[str, Brightness]:
    found = {"bright": Brightness("bright"), "dark": Brightness("dark", -1.0), "timed": ByT("timed")}
    monkeypatch.setattr(judging, "scorer", lambda name: found[name])
    return found


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pics", LEVELS)


def score(pictures: Path, *names: str, out: str = "s.parquet", force: bool = False) -> ScoreReport:
    return score_pictures(Scoring(names, pictures), pictures.parent / out, force=force)


@pytest.mark.usefixtures("judges")
def test_each_prompts_pictures_are_ranked(pictures: Path) -> None:
    """204 is 0.8 of white, 102 is 0.4, 51 is 0.2: mean 7/15. Another scorer ranks the other way round."""
    report = score(pictures, "bright", "dark")
    first, second = report.ranked["bright"]
    assert [file for file, _ in first.pictures] == ["00000_1.png", "00000_2.png", "00000_0.png"]
    assert [value for _, value in first.pictures] == pytest.approx([0.8, 0.4, 0.2])
    assert first.mean == pytest.approx(1.4 / 3)
    assert first.spread == pytest.approx(math.sqrt((0.8**2 + 0.4**2 + 0.2**2 - 1.4**2 / 3) / 2))
    assert (second.pictures, second.spread, second.lead) == ((("00001_0.png", 1.0),), 0.0, None)
    assert report.ranked["dark"][0].pictures[0][0] == "00000_0.png"
    assert (report.pictures, report.fresh, report.unscored) == (4, 8, {})
    assert "  prompt 1: 00001_0.png 1" in list(report.lines())
    assert "  prompt 0: best 00000_1.png 0.8, ahead of 00000_2.png by 0.4; 3 pictures, mean 0.4667, spread 0.306" in list(report.lines())


@pytest.mark.usefixtures("judges")
def test_the_file_is_the_contracts(pictures: Path) -> None:
    """The columns of scores.parquet, rows by scorer and picture, parts of a scorer beside it; the model is the folder's name."""
    rows = read_scores(score(pictures, "timed", "bright").out)
    assert [row.scorer for row in rows] == [name for _ in range(4) for name in ("timed", "timed#k=1", "timed#k=2")] + ["bright"] * 4
    assert {row.model for row in rows} == {"pics"}
    assert [(row.prompt_index, row.sample_index, row.seed, row.prompt) for row in rows[-4:]] == [
        (0, 0, 0, "prompt 0"), (0, 1, 0, "prompt 0"), (0, 2, 0, "prompt 0"), (1, 0, 1, "prompt 1"),
    ]  # fmt: skip


@pytest.mark.usefixtures("judges")
def test_a_lead_over_t_has_an_interval(pictures: Path) -> None:
    """The best is ahead by 0.4: by 0.8 in one half of the path, by 0 in the other. 0.4 ± 12.706 · 0.4, Student’s t of two values."""
    report = score(pictures, "timed")
    assert report.ranked["timed"][0].lead == pytest.approx(around_mean([0.8, 0.0]), abs=1e-6)
    assert any("(95 % over t: -4.68 to 5.48)" in line for line in report.lines())
    assert report.ranked["timed"][1].lead is None


@pytest.mark.parametrize("out", ["s.parquet", "s.csv", "s.jsonl"])
def test_a_repeated_call_asks_for_nothing(judges: dict[str, Brightness], pictures: Path, out: str) -> None:
    """In every format; another spec of the same scorer is asked anew, and its rows take the place of the old ones."""
    first = score(pictures, "bright", "timed", out=out)
    again = score(pictures, "bright", "timed", out=out)
    assert (judges["bright"].shown, again.fresh) == (4, 0)
    assert again.ranked == first.ranked or out != "s.parquet"
    judges["bright"].spec = {"sign": 0.5}
    assert score(pictures, "bright", "timed", out=out).fresh == 4
    assert len(read_table(pictures.parent / out)) == 4 + 3 * 4
    assert score(pictures, "bright", "timed", out=out, force=True).fresh == 8


def test_an_interrupted_call_goes_on(judges: dict[str, Brightness], pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture at a time; stopped at the third, two are in the file, and the next call is shown the other two."""
    monkeypatch.setattr(judging, "CHUNK", 1)
    judge, whole = judges["bright"], judges["bright"].score

    def until_third(images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        if judge.shown == 2:
            raise KeyboardInterrupt
        return whole(images, prompts)

    monkeypatch.setattr(judge, "score", until_third)
    with pytest.raises(KeyboardInterrupt):
        score(pictures, "bright")
    assert len(read_scores(pictures.parent / "s.parquet")) == 2
    monkeypatch.setattr(judge, "score", whole)
    assert score(pictures, "bright").fresh == 2
    assert judge.shown == 4


@pytest.mark.usefixtures("judges")
def test_a_killed_call_has_saved_now_and_then(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is brought up to date whenever the time has come: after each picture, where that time is none."""
    monkeypatch.setattr(judging, "CHUNK", 1)
    monkeypatch.setattr(judging, "SAVE_SECONDS", 0.0)
    saved: list[int] = []
    monkeypatch.setattr(judging, "write_table", lambda path, rows: saved.append(len(rows)))
    score(pictures, "bright")
    assert saved == [1, 2, 3, 4, 4]


@pytest.mark.usefixtures("judges")
def test_other_scores_are_not_overwritten(pictures: Path) -> None:
    """Another scorer, another folder: refused unless forced."""
    score(pictures, "bright")
    with pytest.raises(InputError, match=r"s.parquet holds scores of other pictures or by other scorers \(first: pics, bright\)"):
        score(pictures, "dark")
    other = write_folder(pictures.parent / "others", LEVELS)
    with pytest.raises(InputError, match="choose another file, or replace it with --force"):
        score(other, "bright")
    assert score(other, "bright", force=True).fresh == 4


def test_pictures_without_a_score_are_counted(judges: dict[str, Brightness], pictures: Path) -> None:
    """A missing file and a scorer that gives none: rows without a number, and the ranking without them."""
    judges["bright"]._nan_level = 102
    (pictures / "00001_0.png").unlink()
    report = score(pictures, "bright")
    assert (report.unscored, len(report.ranked["bright"]), len(report.ranked["bright"][0].pictures)) == ({"bright": 2}, 1, 2)
    assert list(report.lines())[-1] == "  without a score: 2 pictures, which cannot be read or got none"


def test_prompts_that_a_scorer_cannot_judge_are_found_first(judges: dict[str, Brightness], pictures: Path) -> None:
    def check(prompts: Sequence[str]) -> None:
        if prompts == ["prompt 1"]:
            raise InputError("no")

    judges["bright"].check_prompts = check  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"pics/00001_0\.png: no"):
        score(pictures, "bright")
    assert judges["bright"].shown == 0


@pytest.mark.usefixtures("judges")
def test_a_plain_folder_with_one_prompt_or_a_file(pictures: Path) -> None:
    """--prompt is for all pictures; --prompts may name them."""
    (pictures / "images.jsonl").unlink()
    asked = score_pictures(Scoring(("bright",), pictures, prompt="a cat"), pictures.parent / "a.csv")
    assert asked.ranked["bright"][0].prompt == "a cat"
    assert len(asked.ranked["bright"][0].pictures) == 4
    (pictures.parent / "p.csv").write_text("file,prompt\n00000_0.png,x\n00001_0.png,y\n")
    named = score_pictures(Scoring(("bright",), pictures, str(pictures.parent / "p.csv")), pictures.parent / "b.csv")
    assert [prompt.prompt for prompt in named.ranked["bright"]] == ["x", "y"]
    (pictures.parent / "p.txt").write_text("w\nx\ny\nz\n")
    lines = score_pictures(Scoring(("bright",), pictures, str(pictures.parent / "p.txt")), pictures.parent / "c.csv")
    assert [prompt.prompt for prompt in lines.ranked["bright"]] == ["w", "x", "y", "z"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorers": ()}, "--scorer: expected one or more names, each once, with commas between; found ''"),
        ({"scorers": ("a", "a")}, "found 'a,a'"),
        ({"scorers": ("implicit:run#2",)}, "--scorer implicit:run#2: a name must not hold '#'"),
        ({"prompts": "a.txt", "prompt": "a"}, "--prompts and --prompt are two ways to say the same: give one of them"),
        ({"prompt": " "}, "--prompt is empty; give the text that the pictures were made for"),
    ],
)
def test_what_cannot_be_asked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Scoring(**{"scorers": ("a",), "images": Path("x"), **settings})  # type: ignore[arg-type]


def test_long_lists_are_cut() -> None:
    """Twelve prompts are shown, the rest counted; a prompt takes one line of bearable length."""
    prompts = tuple(Ranked("a long prompt\n" * 9 + str(i), (("p.png", float(i)),), None) for i in range(14))
    lines = list(ScoreReport(Path("s.csv"), 14, 14, {"s": prompts}, {}).lines())
    assert len(lines) == 2 + 12 + 1
    assert lines[-1] == "  and 2 more prompts; over all 14 the mean is 6.5"
    assert all("\n" not in line and len(line) < 90 for line in lines)
