"""Cells to results, with scores that are easy to add up."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from inpo.comparing.cells import Cell, Point
from inpo.comparing.duels import duels
from inpo.comparing.runs import Runs
from inpo.evaluation.compared import Duel, Estimate

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
    assert moment.worst.value == pytest.approx(-0.2)
    assert moment.left_out == 0


def sampled(step: int, scores: list[list[float | None]]) -> Point:
    """Two samples a prompt."""
    return Point(step, *MAIN, 8.0, {ORACLE: scores})


def test_differences_are_taken_picture_by_picture() -> None:
    """One noise is worth 0.9, the other 0.1, for every model, and ours is better by 0.1 under both. A picture without a score takes the
    other side's out, and leaves the difference what it is; a mean of its own samples less a mean of two would be −0.3."""
    base = Cell("base", "base", 0, "", {}, {}, ["p"] * 2, [sampled(0, [[0.9, 0.1], [0.9, 0.1]])])
    ours = Cell("a", "table", 0, "", {}, {}, ["p"] * 2, [sampled(4, [[None, 0.2], [1.0, 0.2]])])
    theirs = Cell("b", "table", 0, "", {}, {}, ["p"] * 2, [sampled(4, [[0.9, 0.1], [0.9, None]])])
    for shift in (0, 5):
        moved = (dataclasses.replace(theirs, seed=shift), dataclasses.replace(theirs, seed=shift + 1))
        a, b = (Runs(name, cells, base, ORACLE, None, MAIN) for name, cells in (("a", (ours,)), ("b", moved)))
        assert a.gain((4, *MAIN)).value == pytest.approx(0.1)
        assert b.gain((4, *MAIN)).value == pytest.approx(0.0)
        found = duel("last", a, b)
        assert found.difference.value == pytest.approx(0.1)
        assert found.median == pytest.approx(0.1)
        if found.win_rate is not None:
            assert found.win_rate.value == 1.0


def test_two_common_seeds_are_paired() -> None:
    """Seeds 0–2 of ours, 1–3 of theirs: the difference and the share are of 1 and 2 on both sides. With one common seed none is paired."""
    ours = [cell(point(4, [0.6 + 0.1 * seed] * 4, forwards=8), seed=seed) for seed in range(3)]
    theirs = [cell(point(4, [0.5 + 0.1 * seed] * 4, forwards=8), seed=seed) for seed in range(1, 5)]
    found = duel("last", runs(*ours), runs(*theirs[:3]))
    assert found.seeds == (2, 2)
    assert found.difference.value == pytest.approx(0.1)
    assert found.win_rate is not None
    assert found.win_rate.value == 1.0
    apart = duel("last", runs(*ours), runs(*theirs[1:]))
    assert (apart.seeds, apart.win_rate) == ((3, 3), None)


def test_scores_between_points_lie_on_straight_lines() -> None:
    """0.7 at 100 forwards, 0.9 at 300: 0.8 at 200, and 0.9 wherever the run has ended. Before 100 nothing was measured."""
    found = runs(cell(point(2, [0.7] * 4, forwards=100), point(6, [0.9] * 4, forwards=300)))
    for forwards, expected in ((100, 0.7), (200, 0.8), (300, 0.9), (500, 0.9)):
        assert found.at_forwards(forwards) == pytest.approx(np.full((1, 4, 1), expected))
    assert [found.measured_by(forwards) for forwards in (99, 100, 200)] == [False, True, True]
    alone = runs(cell(point(6, [0.9] * 4, forwards=300)))
    assert alone.at_forwards(300) == pytest.approx(np.full((1, 4, 1), 0.9))


def test_one_seed_and_all_won_are_said() -> None:
    """Of one run the interval is over prompts alone and decides nothing; four of four won is Wilson's [0.51, 1], and not [1, 1]."""
    one = runs(cell(point(4, [0.7, 0.8, 0.9, 1.0]))).moment(4)
    two = runs(cell(point(4, [0.7, 0.8, 0.9, 1.0])), cell(point(4, [0.7, 0.8, 0.9, 1.1]), seed=1)).moment(4)
    assert [each.gain.prompts_alone for each in (one, two)] == [True, False]
    assert [each.gain.verdict for each in (one, two)] == ["level", "ahead"]
    assert one.gain.low > 0
    assert (one.win_rate.value, one.win_rate.low, one.win_rate.high) == (1.0, pytest.approx(0.5101, abs=1e-4), 1.0)


def duel(kind: str, a: Runs, b: Runs) -> Duel:
    """The only one of its kind."""
    (found,) = [each for each in duels([a, b], ()) if each.kind == kind]
    return found


def test_runs_of_equal_seeds_are_paired() -> None:
    """Two seeds whose luck is shared and large, and a lead of 0.1 in each: sure where paired, not where seeds are thought independent."""
    ours = [cell(point(4, [0.6, 0.61, 0.59, 0.6], forwards=8), seed=0), cell(point(4, [0.9, 0.89, 0.91, 0.9], forwards=8), seed=1)]
    theirs = [cell(point(4, [0.5, 0.5, 0.5, 0.5], forwards=8), seed=0), cell(point(4, [0.8, 0.8, 0.8, 0.8], forwards=8), seed=1)]
    found = duel("last", runs(*ours), runs(*theirs))
    assert found.difference.value == pytest.approx(0.1)
    assert found.difference.verdict == "ahead"
    moved = [dataclasses.replace(each, seed=each.seed + 5) for each in theirs]
    apart = duel("last", runs(*ours), runs(*moved))
    assert apart.difference.value == pytest.approx(0.1)
    assert apart.difference.verdict == "level"
    assert (found.win_rate is None, apart.win_rate) == (False, None)
    # Of three runs, one of another luck, those two are taken whose seeds the other arm has too.
    third = cell(point(4, [0.2] * 4, forwards=8), seed=2)
    among = duel("last", runs(*ours, third), runs(*theirs))
    assert (among.difference, among.seeds) == (found.difference, (2, 2))


def test_a_mean_that_few_prompts_carry() -> None:
    """Forty prompts: on two of them far ahead, on the rest a hair behind or ahead in turn. The mean is ahead, the median a hair."""
    base = dataclasses.replace(BASE, prompts=["p"] * 40, points=[point(0, [0.5] * 40)])
    scores = [0.9, 0.9, *([0.5 + 0.001, 0.5 - 0.001] * 19)]
    ours = tuple(cell(point(4, scores, forwards=8), seed=seed) for seed in range(3))
    theirs = tuple(cell(point(4, [0.5] * 40, forwards=8), seed=seed) for seed in range(3))
    a, b = (Runs(name, cells, base, ORACLE, None, MAIN) for name, cells in (("a", ours), ("b", theirs)))
    found = duel("last", a, b)
    assert found.difference.value == pytest.approx(0.02)
    assert found.win_rate is not None
    assert found.win_rate.value == pytest.approx(21 / 40)
    assert found.median == pytest.approx(0.001, abs=1e-9)
    wide = Estimate(0.02, 0.001, 0.04)
    assert dataclasses.replace(found, difference=wide).carried
    assert not dataclasses.replace(found, difference=wide, win_rate=Estimate(0.7, 0.6, 0.8)).carried
    assert not dataclasses.replace(found, difference=Estimate(0.02, -0.001, 0.04)).carried


def test_equal_forwards_need_measured_points_on_both_sides() -> None:
    """The cheaper one ends at 64; the other's first point is at 50 or at 100: read off in the first case, left out in the second."""
    cheap = runs(cell(point(4, [0.6] * 4, forwards=64)))
    for first, there in ((50, 1), (100, 0)):
        dear = runs(cell(point(1, [0.6] * 4, forwards=first), point(4, [0.9] * 4, forwards=200)))
        assert [each.at for each in duels([cheap, dear], ()) if each.kind == "forwards"] == [(64, 64)] * there
    assert sum(each.kind == "forwards" for each in duels([cheap, cheap], {"a"})) == 0


def test_the_lead_at_equal_forwards_by_hand() -> None:
    """Ours is 0.7 after 100 forwards and 0.9 after 300, 0.8 half-way; theirs has ended at 200 with 0.5: ahead by 0.3, whoever is first."""
    ours = runs(cell(point(2, [0.7] * 4, forwards=100), point(6, [0.9] * 4, forwards=300)))
    theirs = runs(cell(point(1, [0.4] * 4, forwards=50), point(4, [0.5] * 4, forwards=200)))
    found, turned = duel("forwards", ours, theirs), duel("forwards", theirs, ours)
    assert (found.at, turned.at) == ((200, 200), (200, 200))
    assert found.difference.value == pytest.approx(0.3)
    assert turned.difference.value == pytest.approx(-0.3)
    # Of other seeds, and so not paired: means of 0.8 and 1.0 less means of 0.5 and 0.3.
    ours = runs(*ours.cells, cell(point(2, [0.9] * 4, forwards=100), point(6, [1.1] * 4, forwards=300), seed=1))
    theirs = runs(*(cell(point(1, [0.4] * 4, forwards=50), point(4, [end] * 4, forwards=200), seed=s) for s, end in ((7, 0.5), (8, 0.3))))
    assert duel("forwards", ours, theirs).difference.value == pytest.approx(0.5)


def test_the_lead_at_equal_steps_by_hand() -> None:
    """Steps 2 and 4 both were judged at: 0.6 − 0.5 and 0.9 − 0.3; at the ends, 4 and 6, it is 0.9 − 0.8."""
    ours = runs(cell(point(1, [0.0] * 4), point(2, [0.6] * 4), point(4, [0.9] * 4)))
    theirs = runs(cell(point(2, [0.5] * 4), point(4, [0.3] * 4), point(6, [0.8] * 4)))
    found = [(each.at, each.difference.value, each.median) for each in duels([ours, theirs], ()) if each.kind == "steps"]
    assert [at for at, *_ in found] == [(2, 2), (4, 4)]
    assert [value for _, value, _ in found] == pytest.approx([0.1, 0.6])
    assert [median for *_, median in found] == pytest.approx([0.1, 0.6])
    last = duel("last", ours, theirs)
    assert last.at == (4, 6)
    assert last.difference.value == pytest.approx(0.1)


def test_ways_of_sampling_that_both_have_are_compared() -> None:
    a = runs(cell(point(4, [0.6] * 4, forwards=8), point(4, [0.4] * 4, sampling=(1, 3.0)), point(4, [0.9] * 4, sampling=(5, 3.0))))
    b = runs(cell(point(4, [0.6] * 4, forwards=8), point(4, [0.1] * 4, sampling=(1, 3.0))))
    assert duel("samplings", a, b).sampling == (1, 3.0)
    assert duel("samplings", a, b).difference.value == pytest.approx(0.3)


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
    assert found.moment(4).left_out == 1
