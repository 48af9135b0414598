"""Intervals over prompts and training seeds: they cover what they claim to, and count each source of chance once."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from inpo.errors import InputError
from inpo.evaluation.crossed import Array, crossed_difference, crossed_mean
from inpo.evaluation.winrate import paired_difference
from inpo.intervals import student_t


def table(rng: np.random.Generator, shape: tuple[int, int], *, seeds: float, both: float, by_prompt: Array) -> Array:
    """Scores `[seeds, prompts]` around 0 with known deviations of seeds, of prompts (given), and of what is left."""
    rows: Array = seeds * rng.normal(size=(shape[0], 1)) + by_prompt + both * rng.normal(size=shape)
    return rows


@pytest.mark.parametrize(
    ("shape", "seeds", "prompts", "both"),
    [
        ((8, 216), 0.04, 0.3, 0.3),  # both sources about as large
        ((3, 216), 0.10, 0.1, 0.1),  # three seeds, and seeds are what matters
        ((8, 216), 0.00, 0.3, 0.3),  # prompts alone
        ((8, 60), 0.10, 0.0, 0.1),  # seeds alone
    ],
)
def test_a_mean_is_covered_as_often_as_claimed(shape: tuple[int, int], seeds: float, prompts: float, both: float) -> None:
    """Of 400 intervals for a mean that is 0, about 95 % hold it: 4 standard errors of that count are 0.044."""
    rng, held = np.random.default_rng(3), 0
    for i in range(400):
        by_prompt = prompts * rng.normal(size=(1, shape[1]))
        found = crossed_mean(table(rng, shape, seeds=seeds, both=both, by_prompt=by_prompt), resamples=500, seed=i % 4)
        held += found.low <= 0 <= found.high
    assert 0.906 <= held / 400 <= 0.994


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("seeds", "prompts", "both"), [(0.06, 0.3, 0.3), (0.10, 0.3, 0.1), (0.03, 0.0, 0.3), (0.0, 0.3, 0.3)])
def test_few_seeds_are_covered_at_least_as_often_as_claimed(count: int, seeds: float, prompts: float, both: float) -> None:
    """Of 4,000 intervals at least 95 % hold the mean, which is 0: 3 standard errors of that count are 0.010. Two seeds that agree by
    chance are no sure thing: an interval that takes them for many holds it in 88 %."""
    rng, held = np.random.default_rng(8), 0
    for i in range(4000):
        by_prompt = prompts * rng.normal(size=(1, 216))
        found = crossed_mean(table(rng, (count, 216), seeds=seeds, both=both, by_prompt=by_prompt), resamples=500, seed=i % 2)
        held += found.low <= 0 <= found.high
    assert held / 4000 >= 0.940


def test_the_interval_by_hand() -> None:
    """Two seeds and two prompts, rows [0, 4] and [2, 10]. Seeds' means 2 and 6: A = 8/2 = 4. Prompts' means 1 and 7: B = 18/2 = 9. What is
    left is ±1 in each place: C = 4/1/4 = 1. Of two prompts a resample's mean is off by 3 at most, times √2 to have their variance, and
    t(1) / 1.96 as wide: ends of 4.243 · 6.483 = 27.50. So h² = 12.706² · 4 + 27.50² · (1 − 1/9)."""
    found = crossed_mean([[0.0, 4.0], [2.0, 10.0]])
    half = math.sqrt(12.7062**2 * 4 + (3 * math.sqrt(2) * 12.7062 / 1.95996) ** 2 * (1 - 1 / 9))
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half), rel=1e-4)


def test_seeds_that_agree_leave_at_least_what_prompts_say() -> None:
    """Two runs of equal means whose pictures differ: B − C alone would be narrower than the interval over prompts."""
    rng = np.random.default_rng(9)
    half = rng.normal(size=100)
    noise = rng.normal(size=100)
    rows = np.stack([half + noise - noise.mean(), half - noise + noise.mean()])
    found, alone = crossed_mean(rows), crossed_mean(rows.mean(axis=0)[None])
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))


def test_a_difference_of_eight_and_three_seeds_is_covered() -> None:
    """Prompts are shared, seeds are not: the prompts' own level (deviation 3) must not widen the interval, the seeds' must."""
    rng, held, widths = np.random.default_rng(4), 0, []
    for i in range(400):
        level = 3.0 * rng.normal(size=(1, 100))
        ours = table(rng, (8, 100), seeds=0.05, both=0.2, by_prompt=level + 0.1 * rng.normal(size=(1, 100)))
        theirs = table(rng, (3, 100), seeds=0.05, both=0.2, by_prompt=level)
        found = crossed_difference(ours, theirs, resamples=500, seed=i % 4)
        held += found.low <= 0 <= found.high
        widths.append(found.high - found.low)
    assert 0.906 <= held / 400 <= 0.994
    # σ² = 0.0025/8 + 0.0025/3 + 0.01/100 + 0.04/800 + 0.04/300: twice 1.96 of its root is 0.148, and few degrees of freedom widen it.
    assert 0.148 < np.mean(widths) < 1.8 * 0.148


def test_chance_that_is_seeds_and_prompts_both_is_counted_once() -> None:
    """Independent noise of deviation 1 in an 8 × 200 table: half-width near 1.96/√1600 = 0.049, and not √2 times it, 0.069."""
    rng = np.random.default_rng(5)
    halves = [(found.high - found.low) / 2 for found in (crossed_mean(rng.normal(size=(8, 200)), resamples=2000) for _ in range(40))]
    assert 0.047 < np.mean(halves) < 0.063


def test_one_seed_leaves_prompts_alone() -> None:
    """The interval is that of the prompt bootstrap, a little wider as Student's is; a constant score has no width at all."""
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(2, 300))
    crossed, prompts = crossed_difference(a[None], b[None]), paired_difference(a, b)
    assert crossed.value == pytest.approx(prompts.gain)
    assert (crossed.high - crossed.low) == pytest.approx(prompts.high - prompts.low, rel=0.05)
    assert crossed.seeds == (1, 1)
    same = crossed_mean(np.full((3, 5), 0.25))
    assert (same.value, same.low, same.high) == (0.25, 0.25, 0.25)


def test_the_value_is_the_difference_of_means_and_sides_may_be_swapped() -> None:
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 1.0]])
    found, other = crossed_difference(a, b), crossed_difference(b, a)
    assert (found.value, other.value) == (2.0, -2.0)
    assert found.high == pytest.approx(-other.low, rel=0.1)
    assert (found.prompts, found.seeds) == (2, (2, 1))


def test_a_prompt_without_a_score_in_some_run_is_left_out() -> None:
    a = np.array([[1.0, math.nan, 3.0], [1.0, 9.0, 3.0]])
    found = crossed_difference(a, np.zeros((1, 3)))
    assert (found.value, found.prompts) == (2.0, 2)


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (30, 2.042), (120, 1.980)])
def test_students_t(freedom: int, expected: float) -> None:
    """Abramowitz & Stegun, table 26.10, 95 %."""
    assert student_t(freedom) == pytest.approx(expected, abs=6e-4)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="of the same prompts; found 2 and 3"):
        crossed_difference(np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(InputError, match=r"\[seeds, prompts\], at least one each; found shape \(3,\)"):
        crossed_mean(np.zeros(3))
    with pytest.raises(InputError, match="no prompt has a finite score in every run"):
        crossed_mean(np.array([[math.nan, 1.0], [1.0, math.nan]]))


def test_many_prompts_take_little_memory() -> None:
    """10,000 resamples of 3,200 prompts: 64 MB of counts are kept, and less than 200 MB are ever held; in int64 they were 512."""
    scores = np.random.default_rng(0).normal(size=(1, 3200))
    tracemalloc.start()
    try:
        found = crossed_mean(scores, seed=9)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 70e6
    assert most < 200e6
    half = 1.96 * scores.std(ddof=1) / math.sqrt(3200)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
