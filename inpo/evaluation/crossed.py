"""Intervals over prompts *and* training seeds: which prompts were asked and how a run's dice fell are two sources of chance.

Scores of a method are a table, training seeds × prompts. Its rows share prompts, its columns share runs, so neither cell nor row
nor column can be resampled alone as if it were all there is: both margins are, independently (a two-way bootstrap; McCullagh,
Bernoulli 2000; Owen, Annals of Applied Statistics 2007). Prompts are many and resampled as they are. Seeds are few, and three numbers
have no distribution to draw from: theirs is a normal one of their own variance, and quantiles are widened to Student's (the "expanded
percentile" interval; Hesterberg, The American Statistician 2015). numpy only.
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
    """Quantiles of the deviations of both margins, of the prompts' (paired over the sides) and of each side's seeds', to scale."""
    columns = np.sum([sign * table.mean(axis=0) for sign, table in sides], axis=0)
    value, n = float(columns.mean()), len(columns)
    deviations = math.sqrt(n / max(1, n - 1)) * _resampled(columns - value, resamples, seed) / n
    spread = math.sqrt(sum(_Variance.of_mean(table.mean(axis=1)).value for _, table in sides))
    deviations = deviations + spread * np.random.default_rng((seed, resamples)).normal(size=resamples)
    low, high = (float(end) * _scale(columns, [table for _, table in sides]) for end in np.quantile(deviations, [0.025, 0.975]))
    return Crossed(value, value + low, value + high, len(columns), tuple(len(table) for _, table in sides))


def _scale(columns: Array, tables: list[Array]) -> float:
    """What takes the margins' spread to that of the mean, and a normal quantile to Student's.

    Both margins of a table hold what seed and prompt do to one another, so the sum of their variances counts it twice: once is
    taken off, as in the analysis of variance of a two-way table (but never more than leaves the larger of the two). The degrees of
    freedom are Satterthwaite's.
    """
    prompts = [_Variance.of_mean(columns)]
    runs = [_Variance.of_mean(table.mean(axis=1)) for table in tables]
    both = [_Variance.of_interaction(table) for table in tables]
    first, second, twice = (sum(each.value for each in kind) for kind in (prompts, runs, both))
    if first + second == 0:
        return 1.0
    total = max(first + second - twice, first, second)
    uncertain = sum(each.value**2 / each.freedom for each in (*prompts, *runs, *both) if each.freedom)
    freedom = max(1, int(total**2 / uncertain)) if uncertain else 1
    return math.sqrt(total / (first + second)) * student_t(freedom) / Z95


@dataclass(frozen=True)
class _Variance:
    """An estimated variance of a table's mean, and how many degrees of freedom the estimate has; 0 where there is nothing to estimate."""

    value: float
    freedom: int

    @staticmethod
    def of_mean(margin: Array) -> _Variance:
        n = len(margin)
        return _Variance(float(margin.var(ddof=1)) / n, n - 1) if n > 1 else _Variance(0.0, 0)

    @staticmethod
    def of_interaction(table: Array) -> _Variance:
        """What is left of a table once its rows' and columns' means are taken off, as it enters the mean."""
        freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
        if not freedom:
            return _Variance(0.0, 0)
        left = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        return _Variance(float((left**2).sum()) / freedom / table.size, freedom)


@lru_cache(maxsize=2)
def _counts(n: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """How often each of n is drawn, `[resamples, n]`; kept, because a table of results asks for the same again and again."""
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, n), dtype=np.uint16)
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(drawn.ravel(), minlength=n * rows).reshape(rows, n)
    return counts


def _resampled(values: Array, resamples: int, seed: int) -> Array:
    """Sums of the values that each resample draws, `[resamples]`."""
    counts = _counts(len(values), resamples, seed)
    return np.concatenate([counts[start : start + CHUNK] @ values for start in range(0, resamples, CHUNK)])
