"""Soft labels: from the scores of two pictures to P(w ≻ l) (SmPO-Diffusion, arXiv:2506.02698)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from inpo.data.fields import Fault, short
from inpo.data.pairs import Examined
from inpo.errors import InputError, nearest

Range = tuple[float, float]
"""The scores that count as 0 and as 1."""


def soft_preference(scores: np.ndarray, limits: Range) -> np.ndarray:
    """P(w ≻ l) in [½, σ(1)], `[n]`, w the picture with the higher of two `scores`, `[n,2]`.

    r = (s − low)/(high − low), clamped to [0, 1], and P = exp(r_w)/(exp(r_w) + exp(r_l)) = σ(r_w − r_l). Where all scores are the same,
    so that low = high, P = ½.
    """
    low, high = limits
    rewards = np.clip((np.asarray(scores, dtype=np.float64) - low) / ((high - low) or 1.0), 0.0, 1.0)
    return np.asarray(1 / (1 + np.exp(-np.abs(rewards[:, 0] - rewards[:, 1]))))


def clamped(score: float, limits: Range | None) -> float:
    """The score between the two limits: what differs only beyond them is a tie."""
    return score if limits is None else min(max(score, limits[0]), limits[1])


def judged_by_scores(found: Examined, values: Mapping[str, object], columns: tuple[str, str], limits: Range | None) -> Examined:
    """A sound pair with the `values` of its two score columns: who won, and whether it is a tie; or what is wrong with them."""
    scores, faults = [], []
    for column in columns:
        score = _finite(values.get(column))
        if isinstance(score, str):
            faults.append(Fault(column, score, short(values.get(column))))
        else:
            scores.append(clamped(score, limits))
    if faults:
        return Examined(faults=tuple(faults))
    first, second = scores
    swap = first < second
    return replace(
        found, scores=(first, second), swap=swap, preference=0.5 if first == second else 1.0, lower_wins=found.lower_wins != swap
    )


def check_score_columns(wanted: tuple[str, str], columns: Mapping[str, str], name: str) -> None:
    """Raises `InputError` where a file does not have the two columns, or where they hold no numbers."""
    for column in wanted:
        kind = columns.get(column)
        if kind is None:
            hint, there = nearest(column, columns), ", ".join(columns)
            raise InputError(
                f"{name}: data.score_columns: there is no column {column!r}{hint} beside {there}: "
                "name the two columns with the pictures' scores; `inpo data score` writes them"
            )
        if kind not in ("any", "number"):
            raise InputError(f"{name}: data.score_columns: the column {column} holds {kind}, not numbers")


def _finite(value: object) -> float | str:
    """A finite number, or why there is none. A CSV file knows text only."""
    if value is None or value == "":
        return "is missing"
    if isinstance(value, bool) or not isinstance(value, str | numbers.Real):
        return "is not a number"
    try:
        number = float(value)
    except ValueError:
        return "is not a number"
    return number if math.isfinite(number) else "is not finite"
