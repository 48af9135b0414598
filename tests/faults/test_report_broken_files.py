"""A run may die at any moment, and files get lost: the page is made all the same, and names what is not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from inpo.report import build_report
from tests.page_reader import Page, check_harmless
from tests.synthetic_run import prompts, write_demo


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo; read-only."""
    return write_demo(tmp_path_factory.mktemp("runs") / "demo", texts=prompts(5), null=False, steps=8)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    return Path(shutil.copytree(whole, tmp_path / "demo"))


def text_of(run: Path) -> str:
    page = Page(build_report(run).read_text(encoding="utf-8"))
    check_harmless(page)
    return " ".join(page.text.split())


FILES = [
    "summary.json", "evaluation/scores.parquet", "evaluation/base/images.jsonl", "inpo/config.yaml", "inpo/metrics.jsonl",
    "inpo/environment.json", "inpo/rejected.jsonl",
]  # fmt: skip
GARBAGE = {
    "empty": b"", "cut": b'{"step": 1, "lo', "list": b"[1, 2]", "number": b"3", "binary": bytes(range(256)), "nul": b"\x00" * 50,
    "deep": b"[" * 3000, "not finite": b'{"step": 1, "loss": NaN, "margin": Infinity, "by_bucket": {"1": null, "x": {"loss": "y"}}}',
}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_any_file_may_be_garbage(run: Path, file: str, garbage: str):
    """A page, harmless, for every file replaced by every kind of rubbish."""
    (run / file).write_bytes(GARBAGE[garbage])
    assert text_of(run)


@pytest.mark.parametrize("file", FILES)
def test_any_file_may_be_absent_or_a_folder(run: Path, file: str):
    """Neither stops the page."""
    (run / file).unlink()
    assert text_of(run)
    (run / file).mkdir()
    assert text_of(run)


def test_a_cut_last_line_is_left_out_and_told(run: Path):
    """As SIGKILL leaves it."""
    with (run / "inpo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 0.')
    assert "inpo/metrics.jsonl: 1 line is no JSON object, left out." in text_of(run)


def test_a_step_that_was_run_twice_counts_once(run: Path):
    """The later line is the resumed run's."""
    from inpo.report.files import read_run

    with (run / "inpo" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "loss": 9.0}) + "\n")
    training = next(one for one in read_run(run).trainings if one.name == "inpo")
    assert [line["step"] for line in training.metrics] == list(range(9))
    assert training.metrics[3]["loss"] == 9.0


def test_pictures_may_be_missing_or_broken(run: Path):
    """Their place says so, their number is told."""
    (run / "evaluation" / "inpo" / "00000_0.png").unlink()
    (run / "evaluation" / "base" / "00001_0.png").write_bytes(b"no picture")
    text = text_of(run)
    assert "no picture" in text
    assert "2 could not be read" in text


def test_foreign_summary_is_named(run: Path):
    """A schema of the future is not guessed at."""
    (run / "summary.json").write_text('{"schema": 99, "methods": {}}')
    assert "summary.json cannot be used" in text_of(run)


def test_file_names_cannot_leave_the_folder(run: Path, tmp_path: Path):
    """A picture listed elsewhere is not embedded."""
    index = run / "evaluation" / "base" / "images.jsonl"
    index.write_text(index.read_text().replace('"00000_0.png"', '"../../../secret.png"'))
    assert "must be a plain name" in text_of(run)
