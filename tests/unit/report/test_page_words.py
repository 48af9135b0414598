"""What a reader who did not write the program needs beside the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inpo.evaluation.summary import MethodSummary, write_summary
from inpo.report import build_report
from inpo.report.gallery import Case, Gallery
from tests.page_reader import Page


def header(run: Path) -> str:
    text = Page(build_report(run).read_text(encoding="utf-8")).text
    return " ".join(text[: text.index("How sure are we?")].split())


def test_the_headline_says_the_mean_gain_with_its_interval(demo: Path) -> None:
    """Of the method that the page is about, as in the file."""
    entry = json.loads((demo / "summary.json").read_text())["methods"]["inpo"]
    gain, low, high = (f"{entry[key]:+.3f}".replace("-", "−") for key in ("mean_gain", "gain_low", "gain_high"))
    assert f"changes by {gain} , 95 % interval {low} to {high}".replace(" ,", ",") in header(demo).replace(" ,", ",").replace("\xa0", " ")


@pytest.mark.parametrize(("gain_low", "said"), [(0.01, True), (-0.01, False)])
def test_a_gain_beside_an_open_win_rate_is_explained(gain_low: float, said: bool, demo_copy: Path) -> None:
    """The two intervals may disagree about zero and one half; then the page says what that is."""
    entry = MethodSummary(scorer="oracle", win_rate=0.55, low=0.45, high=0.65, n=90, mean_gain=0.02, gain_low=gain_low, gain_high=0.03)
    write_summary(demo_copy / "summary.json", kind="demo", baseline="base", methods={"inpo": entry})
    assert ("more prompts would decide" in header(demo_copy)) is said


def test_symbols_are_explained_on_the_page(demo: Path) -> None:
    """Each word of the charts that is no everyday word."""
    page = Page((demo / "report.html").read_text())
    terms = " ".join(element.text for element in page.all("dt"))
    assert all(word in terms for word in ("policy, reference", "margin, u", "implicit accuracy", "β", "τ", "t, k, bucket"))
    assert "docs/reading-the-curves.md" in page.text


@pytest.mark.parametrize(("gain", "loss", "slight"), [(0.5, -0.01, True), (0.5, -0.3, False), (0.5, 0.1, False), (-0.1, -0.2, False)])
def test_a_slight_loss_is_not_told_as_a_failure(gain: float, loss: float, slight: bool) -> None:
    """One that is small next to the largest gain."""
    best, worst = (Case("p", 0, 0, (), value) for value in (gain, loss))
    assert Gallery((), (best,), (worst,), 2).slight_loss is slight
