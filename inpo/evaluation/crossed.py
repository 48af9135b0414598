"""Intervals over prompts *and* training seeds: which prompts were asked and how a run's dice fell are two sources of chance.

Scores of a method are a table, training seeds × prompts. Three estimated variances of its mean are used: A from the means of the
seeds, B from the means of the prompts, and C from what is left once both are taken off (the interaction of seed and prompt, and noise).
In expectation A and B each hold C once, so the mean's own variance is A + B − C, as in the analysis of variance of a two-way table.

Half the interval's width h is h² = t²(S−1) · A + t²(P−1) · (B − C), with Student's 97.5 % quantile of S seeds and of P prompts, each for
its own part. For normal variables, intervals of this form hold the truth at least as often as they claim, however small S is (Banerjee,
Sankhyā A 23, 1961: each variance with the quantile of its own degrees of freedom). One quantile for the sum, with Satterthwaite's degrees
of freedom, does not: where two seeds happen to agree, it takes them for many, and 95 % intervals held the truth in 88 % of simulations.
A negative B − C counts as 0, and h is never less than that over prompts alone, t²(P−1) · B. A difference of two methods whose seeds are
independent has an A and a C of each. The prompts' part is not taken from a normal distribution: prompts are many and are resampled, so
that an interval may be longer on one side (a bootstrap with its quantiles widened to Student's; Hesterberg, The American Statistician
2015). numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inpo.errors import InputError
from inpo.intervals import Z95, student_t

Array = NDArray[np.float64]
CHUNK = 1_000
"""Resamples that are in memory at a time as floats."""


@dataclass(frozen=True)
class Crossed:
    """A mean, or a difference of two, with its 95 % interval. `seeds`: of each side; with one seed its chance is not in the interval."""

    value: float
    low: float
    high: float
    prompts: int
    seeds: tuple[int, ...]


def crossed_mean(scores: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> Crossed:
    """Mean of `[seeds, prompts]`. Not-a-number marks what could not be scored; a prompt without a score in some run is left out."""
    table = _table(scores)
    (table,) = _common([table])
    return _bootstrap([(1.0, table)], resamples, seed)


def crossed_difference(a: ArrayLike, b: ArrayLike, *, resamples: int = 10_000, seed: int = 0) -> Crossed:
    """Mean of `a` less that of `b`, `[seeds, prompts]` each: prompts are paired by position, training seeds of the two are independent.

    They may be of different numbers; a side of one seed counts as fixed. Raises `InputError` for other numbers of prompts.
    """
    left, right = _table(a), _table(b)
    if left.shape[1] != right.shape[1]:
        raise InputError(f"scores must be of the same prompts; found {left.shape[1]} and {right.shape[1]}")
    left, right = _common([left, right])
    return _bootstrap([(1.0, left), (-1.0, right)], resamples, seed)


def _table(scores: ArrayLike) -> Array:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise InputError(f"scores must be [seeds, prompts], at least one each; found shape {table.shape}")
    return table


def _common(tables: list[Array]) -> list[Array]:
    """The prompts that every run of every table has a score for."""
    kept = np.all([np.isfinite(table).all(axis=0) for table in tables], axis=0)
    if not kept.any():
        raise InputError("there is nothing to compare: no prompt has a finite score in every run")
    return [table[:, kept] for table in tables]


def _bootstrap(sides: list[tuple[float, Array]], resamples: int, seed: int) -> Crossed:
    """Each end of the interval by the formula above; the prompts are paired over the sides, the seeds are each side's own."""
    tables = [table for _, table in sides]
    columns = np.sum([sign * table.mean(axis=0) for sign, table in sides], axis=0)
    value, n = float(columns.mean()), len(columns)
    widened = math.sqrt(n / max(1, n - 1)) * student_t(max(1, n - 1)) / Z95
    ends = widened * np.quantile(_resampled(columns - value, resamples, seed) / n, [0.025, 0.975])
    prompts, both = float(columns.var(ddof=1)) / n if n > 1 else 0.0, sum(map(_interaction, tables))
    kept = max(0.0, 1 - both / prompts) if prompts else 0.0
    runs = sum(map(_seeds, tables))
    down, up = (max(abs(end), math.sqrt(kept * end**2 + runs)) for end in map(float, ends))
    return Crossed(value, value - down, value + up, n, tuple(map(len, tables)))


def _seeds(table: Array) -> float:
    """t²(S−1) · A of `[seeds, prompts]`; 0 of a single seed, whose chance nothing estimates."""
    count = len(table)
    return student_t(count - 1) ** 2 * float(table.mean(axis=1).var(ddof=1)) / count if count > 1 else 0.0


def _interaction(table: Array) -> float:
    """C of `[seeds, prompts]`: the mean's variance that seed and prompt make together; 0 where nothing is left to estimate it by."""
    freedom: int = (table.shape[0] - 1) * (table.shape[1] - 1)
    if not freedom:
        return 0.0
    left = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    return float((left**2).sum() / table.size) / freedom


@lru_cache(maxsize=4)
def counts(n: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """How often each of n is drawn, `[resamples, n]`; kept, because a table of results asks for the same again and again."""
    rng = np.random.default_rng(seed)
    found = np.empty((resamples, n), dtype=np.uint16)
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        found[start : start + rows] = np.bincount(drawn.ravel(), minlength=n * rows).reshape(rows, n)
    return found


def _resampled(values: Array, resamples: int, seed: int) -> Array:
    """Sums of the values that each resample draws, `[resamples]`."""
    drawn = counts(len(values), resamples, seed)
    return np.concatenate([drawn[start : start + CHUNK] @ values for start in range(0, resamples, CHUNK)])
