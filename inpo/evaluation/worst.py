"""The harm that a mean hides: the mean gain of the pictures that lost most, with its interval. numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from inpo.errors import InputError
from inpo.evaluation.compared import Estimate
from inpo.evaluation.crossed import Array, counts

WORST = 0.05
"""The part of the pictures."""
_NUMBERS = 4_000_000
"""Weights in memory at a time."""


def worst(gains: ArrayLike, *, resamples: int = 1_000, seed: int = 0) -> Estimate:
    """Mean of the smallest twentieth (at least one picture) of gains `[seeds, prompts, samples]`, those that are numbers.

    Its 95 % interval is that of a bootstrap that draws prompts with all their seeds and samples (percentiles): runs are taken as they are.
    Raises `InputError` where no gain is a number.
    """
    table = np.asarray(gains, dtype=np.float64)
    found = np.isfinite(table)
    if table.ndim != 3 or not found.any():
        raise InputError(f"gains must be [seeds, prompts, samples] with a finite one among them; found shape {table.shape}")
    prompts = np.broadcast_to(np.arange(table.shape[1])[:, None], table.shape)[found]
    _, prompts = np.unique(prompts, return_inverse=True)
    order = np.argsort(table[found], kind="stable")
    values, owners = table[found][order], prompts[order]
    n = int(owners.max()) + 1
    drawn, rows = counts(n, resamples, seed), max(1, _NUMBERS // len(values))
    means = [_smallest(values, drawn[start : start + rows][:, owners]) for start in range(0, resamples, rows)]
    low, high = (float(end) for end in np.quantile(np.concatenate(means), [0.025, 0.975]))
    value = float(_smallest(values, np.ones((1, len(values))))[0])
    return Estimate(value, min(low, value), max(high, value), n)


def _smallest(values: Array, weights: ArrayLike) -> Array:
    """`[resamples]`: the mean of the first twentieth of ascending values, each as often there as `weights` `[resamples, values]` say."""
    often = np.asarray(weights, dtype=np.float64)
    before = np.cumsum(often, axis=1) - often
    size = np.maximum(1.0, WORST * often.sum(axis=1))
    means: Array = np.clip(size[:, None] - before, 0.0, often) @ values / size
    return means
