"""What the terminal says about a comparison, and what it leaves out."""

from __future__ import annotations

import pytest

from inpo.console import print_summary
from inpo.evaluation.summary import MethodSummary, Summary


def shown(capsys: pytest.CaptureFixture[str], low: float, high: float, *, steps: int | None = None) -> str:
    entry = MethodSummary(win_rate=(low + high) / 2, low=low, high=high, n=24, mean_gain=0.01, steps=steps)
    print_summary(Summary("evaluate", "base", {"mine": entry}))
    return capsys.readouterr().out


def test_columns_without_a_number_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """An evaluation knows no training; a trained method does."""
    out = shown(capsys, 0.6, 0.7)
    assert "[0.600, 0.700]" in out
    assert not any(word in out for word in ("steps", "pairs/s", "second scorer", "–"))
    assert "steps" in shown(capsys, 0.6, 0.7, steps=400)


def test_a_wide_interval_and_one_around_a_half_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """In words, each where it is so and not elsewhere."""
    said = {(low, high): shown(capsys, low, high) for low, high in ((0.6, 0.7), (0.55, 0.9), (0.45, 0.6), (0.2, 0.9))}
    assert ["few prompts (24)" in out for out in said.values()] == [False, True, False, True]
    assert ["do not tell it from base" in out for out in said.values()] == [False, False, True, True]


def test_a_control_that_fails_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The base against itself should contain ½; any other method may exclude it."""
    entry = MethodSummary(win_rate=1.0, low=0.9, high=1.0, n=24)
    print_summary(Summary("demo", "base", {"inpo": entry, "base-again": entry}))
    said = [line for line in capsys.readouterr().out.splitlines() if "trust no difference" in line]
    assert [line.split(":")[0] for line in said] == ["base-again"]


def test_an_entry_that_was_not_evaluated_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(Summary("train", "base", {"mine": MethodSummary(steps=3)}))
    assert "mine" in capsys.readouterr().out
