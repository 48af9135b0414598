"""`inpo score` as it is typed: a run trained, its implicit reward of its own pictures and of its held-out pairs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inpo.evaluation.scores import read_scores
from tests.end_to_end.conftest import Run, small


@pytest.fixture(scope="module")
def trained(tiny_pipeline: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of InPO, with a fifth of the pairs held out."""
    from inpo.config import load_experiment
    from inpo.verbs import alignment

    out = tmp_path_factory.mktemp("score") / "run"
    changes = small(tiny_pipeline, pairs_file, "inpo", "data.validation_fraction=0.3", "optimizer.lr=0.01")
    alignment.train(load_experiment("sd15-inpo", changes), out)
    return out


@pytest.fixture(scope="module")
def pictures(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from inpo.compose import generate_pictures
    from inpo.generation import GenerationConfig

    folder = tmp_path_factory.mktemp("pictures")
    (folder / "prompts.txt").write_text("a red circle\na blue square\n")
    generate_pictures(str(trained), str(folder / "prompts.txt"), folder / "made", GenerationConfig(steps=2, samples=2, resolution=16))
    return folder / "made"


def test_pictures_are_scored_and_ranked(run: Run, trained: Path, pictures: Path, tmp_path: Path) -> None:
    """A row a picture and ten for its parts; the best of each prompt is named; typed again, nothing is asked."""
    words = ("score", "--scorer", f"implicit:{trained}", "--images", pictures, "--out", tmp_path / "s.parquet")
    done = run(*words)
    assert done.code == 0, done.err
    rows = read_scores(tmp_path / "s.parquet")
    assert len(rows) == 4 * 11
    best = max((row for row in rows if "#" not in row.scorer and row.prompt_index == 0), key=lambda row: row.score)
    assert f"a red circle: best 00000_{best.sample_index}.png" in done.out
    assert "4 pictures, 0 scores given now" in run(*words).out


def test_held_out_pairs_are_measured_and_reported(run: Run, trained: Path, tmp_path: Path) -> None:
    """--pairs held-out:RUN into the run's folder: JSON, a page, and a section of the run's report."""
    done = run("score", "--scorer", f"implicit:{trained}", "--pairs", f"held-out:{trained}", "--out", trained / "accuracy.json")
    assert done.code == 0, done.err
    found = json.loads((trained / "accuracy.json").read_text())
    assert len(found["scorers"][f"implicit:{trained}"]["by_t"]) == 10
    assert "accuracy" in done.out
    assert done.out.splitlines()[-1] == f"page: {trained / 'accuracy.html'}"
    assert run("report", trained).code == 0
    assert "Accuracy by t" in (trained / "report.html").read_text(encoding="utf-8")


def test_it_is_a_scorer_like_any_other(run: Run, trained: Path, pictures: Path, tmp_path: Path) -> None:
    """inpo evaluate judges by it, and inpo data generate ranks by it."""
    prompts, judge = pictures.parent / "prompts.txt", f"implicit:{trained}?times=2"
    common = ("--prompts", prompts, "--steps", "2")
    done = run("evaluate", "--candidate", trained, "--baseline", trained, "--scorers", judge, *common, "--out", tmp_path / "e")
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert summary["methods"]["candidate"]["scorer"] == judge
    assert summary["methods"]["candidate"]["win_rate"] == 0.5
    done = run("data", "generate", "--model", trained, "--scorer", judge, *common, "--samples", "2", "--out", tmp_path / "p.parquet")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --images, a folder of pictures to score, or --pairs, preference pairs to measure the scorers on"),
        (("--images", "x", "--pairs", "y"), "give --images, a folder of pictures to score, or --pairs"),
        (("--pairs", "y", "--prompt", "z"), "--pairs bring their prompts with them: leave --prompts and --prompt out"),
        (("--images", "nowhere"), "--images nowhere: there is no such folder"),
        (("--pairs", "held-out:nowhere"), "nowhere is not a run: it has no config.yaml"),
    ],
)
def test_bad_input_is_one_line(run: Run, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    out = tmp_path / ("a.json" if "--pairs" in words else "s.csv")
    done = run("score", "--scorer", "world:clip", *words, "--out", out)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}")
    assert done.err.count("\n") == 1


def test_an_interruption_says_how_to_go_on(run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inpo.verbs import judging

    def stop(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(judging, "score_images", stop)
    done = run("score", "--scorer", "world:clip", "--images", pictures, "--out", tmp_path / "s.csv")
    assert done.code == 130
    assert done.err == f"interrupted; what was scored is kept at {tmp_path / 's.csv'}, and the same command goes on from there\n"
