"""Cells to results, with scores that are easy to add up."""

from __future__ import annotations

import numpy as np
import pytest

from inpo.comparing.cells import Cell, Point
from inpo.comparing.runs import Runs

MAIN = (20, 3.0)
ORACLE, CLIP = "oracle", "clip"


def point(step: int, scores: list[float | None], *, forwards: float = 0.0, sampling: tuple[int, float] = MAIN) -> Point:
    """Four prompts, one sample each; the second scorer is ten times the first, and its part "size" is half of it."""
    rows = [[value] for value in scores]
    times = {name: [[None if row[0] is None else k * row[0]] for row in rows] for name, k in ((CLIP, 10.0), ("oracle#size", 0.5))}
    return Point(step, *sampling, forwards, {ORACLE: rows, **times})


def cell(*points: Point, seed: int = 0) -> Cell:
    return Cell("a", "table", seed, "0" * 16, {}, {}, ["p"] * 4, list(points))


BASE = cell(point(0, [0.5, 0.5, 0.5, 0.5]), point(0, [0.1, 0.1, 0.1, 0.1], sampling=(1, 3.0)))


def runs(*cells: Cell) -> Runs:
    return Runs("a", cells, BASE, ORACLE, CLIP, MAIN)


def test_gains_and_win_rates_by_hand() -> None:
    """Won, lost, tied and won, in two runs: gains 0.1 and 0.2; won 2½ of 4 and 3½ of 4."""
    found = runs(
        cell(point(4, [0.7, 0.3, 0.5, 0.9], forwards=8)), cell(point(4, [0.7, 0.5, 0.7, 0.9], forwards=12), seed=1)
    )  # fmt: skip
    moment = found.moment(4)
    assert moment.gain.value == pytest.approx(0.15)
    assert moment.runs == pytest.approx([0.1, 0.2])
    assert moment.win_rate.value == pytest.approx(6 / 8)
    assert 0 <= moment.win_rate.low <= moment.win_rate.high <= 1
    assert moment.forwards == 10
    assert moment.second_gain is not None
    assert moment.second_gain.value == pytest.approx(1.5)
    assert found.parts()["size"].value == pytest.approx(0.075)


def test_scores_between_points_lie_on_straight_lines_from_the_base() -> None:
    """Base 0.5 at 0 forwards, 0.7 at 100, 0.9 at 300: 0.6 at 50, 0.8 at 200, and 0.9 wherever the run has ended."""
    found = runs(cell(point(2, [0.7] * 4, forwards=100), point(6, [0.9] * 4, forwards=300)))
    for forwards, expected in ((0, 0.5), (50, 0.6), (100, 0.7), (200, 0.8), (300, 0.9), (500, 0.9)):
        assert found.at_forwards(forwards) == pytest.approx(np.full((1, 4), expected))


def test_only_steps_and_samplings_that_all_runs_have() -> None:
    """And a way of sampling is compared with the base that is sampled the same way."""
    first = cell(point(2, [0.6] * 4), point(4, [0.7] * 4), point(4, [0.3] * 4, sampling=(1, 3.0)), point(4, [0.3] * 4, sampling=(5, 3.0)))
    second = cell(point(4, [0.7] * 4), point(4, [0.2] * 4, sampling=(1, 3.0)), seed=1)
    found = runs(first, second)
    assert found.steps == [4]
    sampled = {(each.sampler_steps, each.guidance): each for each in found.samplings()}
    assert set(sampled) == {MAIN, (1, 3.0)}
    assert sampled[1, 3.0].score == pytest.approx(0.25)
    assert sampled[1, 3.0].gain.value == pytest.approx(0.15)


def test_a_picture_without_a_score_takes_its_prompt_out() -> None:
    found = runs(cell(point(4, [0.7, None, 0.5, 0.9])))
    assert found.moment(4).gain.value == pytest.approx(0.2)
    assert found.moment(4).win_rate.value == pytest.approx(2.5 / 3)
