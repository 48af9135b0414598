"""The mean gain of the pictures that lost most, and how far prompts that are drawn anew move it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inpo.errors import InputError
from inpo.evaluation.worst import worst


def test_the_worst_twentieth() -> None:
    """Two of forty pictures, wherever they stand; a number that is none does not count; of three pictures it is one."""
    gains = np.full((2, 10, 2), 0.1)
    gains[0, 3, 1], gains[1, 7, 0] = -0.5, -0.3
    found = worst(gains)
    assert found.value == pytest.approx(-0.4)
    assert (found.n, found.low <= found.value <= found.high) == (10, True)
    assert worst([[[math.nan], [0.2], [0.1]]]).value == pytest.approx(0.1)


def test_a_picture_is_not_lost_in_its_prompts_mean() -> None:
    """Of four samples one fails, on every prompt: means over samples are 0, and a twentieth of the pictures lost 0.3."""
    gains = np.tile([-0.3, 0.1, 0.1, 0.1], (1, 20, 1))
    assert worst(gains).value == pytest.approx(-0.3)


def test_prompts_are_drawn_with_all_their_pictures() -> None:
    """One of twenty prompts fails, in all of its 8 × 4 pictures: it is not drawn in 0.95²⁰ = 36 % of the resamples, whose twentieth is 0.1.
    Were pictures drawn one by one, that would never happen."""
    gains = np.full((8, 20, 4), 0.1)
    gains[:, 5] = -0.5
    found = worst(gains)
    assert found.value == pytest.approx(-0.5)
    assert (found.low, found.high) == pytest.approx((-0.5, 0.1))


def test_the_interval_of_one_picture_a_prompt_by_hand() -> None:
    """Gains of 1…100, a resample's five smallest: their mean spreads as a direct bootstrap says."""
    gains, rng = np.arange(1.0, 101.0), np.random.default_rng(3)
    direct = [float(np.sort(rng.choice(gains, 100))[:5].mean()) for _ in range(4000)]
    found = worst(gains[None, :, None])
    assert found.value == 3.0
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(direct, [0.025, 0.975])), abs=0.6)


def test_gains_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match=r"gains must be \[seeds, prompts, samples\] with a finite one .* \(1, 1, 1\)"):
        worst([[[math.nan]]])
