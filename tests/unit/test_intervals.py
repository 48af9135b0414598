"""Intervals against numbers worked out by hand, and against how often they hold what they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inpo.intervals import around_mean, wilson


@pytest.mark.parametrize(("right", "count", "low", "high"), [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)])
def test_the_interval_is_wilsons(right: int, count: int, low: float, high: float) -> None:
    """(p + z²/2n ± z √(p(1−p)/n + z²/4n²))/(1 + z²/n), z = 1.96: for 0 of 10 the upper end is z²/(10 + z²) = 3.8415/13.8415 = 0.2775."""
    assert wilson(right / count, count) == pytest.approx((low, high), abs=1e-4)


def test_a_means_interval_by_hand() -> None:
    """1, 2, 3: mean 2, s = 1, and t = 4.3027 at two degrees of freedom, so 2 ± t/√3. Equal values have no width; one value has no end."""
    half = 4.302653 / math.sqrt(3)
    assert around_mean([1, 2, 3]) == pytest.approx((2, 2 - half, 2 + half))
    assert around_mean([0.1] * 3) == pytest.approx((0.1, 0.1, 0.1))
    assert around_mean([4]) == (4, -math.inf, math.inf)


@pytest.mark.parametrize("count", [2, 10, 100])
def test_a_means_interval_holds_the_mean_as_often_as_it_says(count: int) -> None:
    """Of 2000 samples of normal draws, few or many, 95 % of the intervals hold 0, to three deviations of that share (±1.5 %)."""
    draws = np.random.default_rng(0).standard_normal((2000, count))
    held = sum(low <= 0 <= high for _, low, high in (around_mean(row.tolist()) for row in draws))
    assert abs(held / 2000 - 0.95) < 0.015
