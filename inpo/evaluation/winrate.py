"""Is the candidate preferred? Paired statistics whose unit is the prompt (numpy only).

A *comparison* is one (prompt, sample): both models saw the same prompt and, as a rule, the same noise. Comparisons of one
prompt are correlated, so they are averaged inside the prompt and the bootstrap resamples prompts: as independent draws they
would claim more than they know. The win rate estimates P(candidate's picture scores higher) + ½ P(tie) for a random prompt and
seed, whatever the number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inpo.errors import InputError
from inpo.intervals import of_share

Array = NDArray[np.float64]
Missing = Literal["refuse", "exclude"]

_CHUNK = 2_000_000
"""Random indices drawn at a time, so that 10,000 resamples of 3,200 prompts need 16 MB and not 256."""


@dataclass(frozen=True)
class Difference:
    """A mean paired difference in score with its 95 % interval. `n`: prompts; `excluded`: comparisons without a finite score."""

    gain: float
    low: float
    high: float
    n: int
    excluded: int = 0

    def __str__(self) -> str:
        return f"{self.gain:+.3f} [{self.low:+.3f}, {self.high:+.3f}] (n={self.n})"


@dataclass(frozen=True)
class WinRate:
    """How often the candidate scores higher, and by how much, with 95 % percentile intervals of a prompt bootstrap (Wilson's at 0 and 1).

    `n` counts prompts; `wins`, `ties`, `losses` count comparisons (they sum to `n` with one sample a prompt); `excluded` counts
    comparisons left out because a score is not finite. `sign_test_p`: exact, two-sided, over prompts, tied prompts dropped.
    """

    win_rate: float
    low: float
    high: float
    n: int
    wins: int
    ties: int
    losses: int
    mean_gain: float
    gain_low: float
    gain_high: float
    sign_test_p: float
    excluded: int = 0

    def __str__(self) -> str:
        left_out = f", excluded {self.excluded}" if self.excluded else ""
        return f"{self.win_rate:.2f} [{self.low:.2f}, {self.high:.2f}] (n={self.n}, ties {self.ties}{left_out})"


def win_rate(
    candidate: ArrayLike,
    baseline: ArrayLike,
    *,
    tie_tolerance: float = 0.0,
    resamples: int = 10_000,
    seed: int = 0,
    missing: Missing = "refuse",
) -> WinRate:
    """Candidate against baseline. Scores are `[prompts]` or `[prompts, samples]`, paired by position, higher is better.

    A difference of at most `tie_tolerance` is a tie and counts ½. `missing`: what to do with a comparison one of whose scores
    is not finite. Raises `InputError` for shapes that differ, for no comparison at all, and for missing scores unless excluded.
    """
    if tie_tolerance < 0 or not math.isfinite(tie_tolerance):
        raise InputError(f"tie_tolerance={tie_tolerance} must be finite and at least 0")
    gains, excluded = _paired(candidate, baseline, missing)
    outcomes = np.where(np.abs(gains) <= tie_tolerance, 0.5, (gains > 0).astype(np.float64))
    outcomes[np.isnan(gains)] = np.nan
    by_prompt = np.stack([np.nanmean(outcomes, axis=1), np.nanmean(gains, axis=1)], axis=1)
    (rate, gain), (low, high) = _bootstrap(by_prompt, resamples, seed)
    won, tied, lost = (int(np.sum(outcomes == value)) for value in (1.0, 0.5, 0.0))
    ahead, behind = int(np.sum(by_prompt[:, 0] > 0.5)), int(np.sum(by_prompt[:, 0] < 0.5))
    p = sign_test(ahead, behind)
    return WinRate(rate, *of_share(rate, len(gains), low[0], high[0]), len(gains), won, tied, lost, gain, low[1], high[1], p, excluded)


def paired_difference(a: ArrayLike, b: ArrayLike, *, resamples: int = 10_000, seed: int = 0, missing: Missing = "refuse") -> Difference:
    """Mean of a − b over prompts with its 95 % percentile interval. Shapes, `missing` and errors as in `win_rate`."""
    gains, excluded = _paired(a, b, missing)
    by_prompt = np.nanmean(gains, axis=1)[:, None]
    (gain,), (low, high) = _bootstrap(by_prompt, resamples, seed)
    return Difference(gain, low[0], high[0], len(gains), excluded)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p of `wins` against `losses` fair coin flips: min(1, 2 P(X ≤ min)), X ~ Binomial(wins + losses, ½). Exact."""
    flips = wins + losses
    term, tail = 1, 0
    for heads in range(min(wins, losses) + 1):
        tail += term
        term = term * (flips - heads) // (heads + 1)
    return min(1.0, 2 * tail / (1 << flips))


def _paired(a: ArrayLike, b: ArrayLike, missing: Missing) -> tuple[Array, int]:
    """a − b as `[prompts, samples]`, not-a-number where excluded, and how many comparisons were; empty prompts are gone."""
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape or left.ndim not in (1, 2):
        raise InputError(f"scores must have equal shapes, [prompts] or [prompts, samples]; found {left.shape} and {right.shape}")
    finite = np.isfinite(left) & np.isfinite(right)
    excluded = int(np.sum(~finite))
    if excluded and missing == "refuse":
        first = int(np.argwhere(~finite)[0][0])
        raise InputError(f"{excluded} of {finite.size} comparisons have a score that is not finite, the first at prompt {first}")
    gains: Array = np.full(left.shape, np.nan)
    np.subtract(left, right, out=gains, where=finite)
    gains = gains.reshape(left.shape[0], math.prod(left.shape[1:]))
    gains = gains[np.isfinite(gains).any(axis=1)]
    if not len(gains):
        raise InputError(f"there is nothing to compare: none of {finite.size} comparisons has two finite scores")
    return gains, excluded


def _bootstrap(values: Array, resamples: int, seed: int) -> tuple[list[float], list[list[float]]]:
    """Means of the columns of `values` `[prompts, columns]`, and the 2.5 % and 97.5 % points of their resampled means."""
    means = np.concatenate([values[rows].mean(axis=1) for rows in _resampled(len(values), resamples, seed)])
    points: list[list[float]] = np.quantile(means, [0.025, 0.975], axis=0).tolist()
    centre: list[float] = values.mean(axis=0).tolist()
    return centre, points


def _resampled(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        yield rng.integers(0, n, size=(min(step, resamples - start), n))
