"""95 % intervals in closed form, for shares and for means, and Student's t that those of few values need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


def wilson(rate: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` (Wilson, JASA 22, 1927): never outside [0, 1], and honest at its ends."""
    z2 = Z95**2 / count
    centre, half = rate + z2 / 2, math.sqrt(z2 * (rate * (1 - rate) + z2 / 4))
    return max(0.0, (centre - half) / (1 + z2)), min(1.0, (centre + half) / (1 + z2))


def of_share(rate: float, count: int, low: float, high: float) -> tuple[float, float]:
    """Its interval `low`…`high` kept in [0, 1]. Where all of `count` were won, or none, no spread says how sure that is: Wilson's then."""
    return wilson(rate, count) if rate in (0.0, 1.0) else (max(0.0, low), min(1.0, high))


def around_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of independent values and its 95 % interval, mean ± t s/√n. A single value says nothing of its spread: (v, −∞, ∞)."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, -math.inf, math.inf
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = student_t(count - 1) * spread / math.sqrt(count)
    return mean, mean - half, mean + half


@cache
def student_t(freedom: int) -> float:
    """The 97.5 % point of Student's t. Found by bisection of its distribution, which is a finite sum (Abramowitz & Stegun 26.7.3–4)."""
    low, high = 0.0, 20.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return low


def _within(t: float, freedom: int) -> float:
    """P(|T| ≤ t)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for i in range(3, freedom - 1, 2):
            term *= cosine * cosine * (i - 1) / i
            total += term
        return 2 / math.pi * (angle + math.sin(angle) * total)
    term = total = 1.0
    for i in range(2, freedom - 1, 2):
        term *= cosine * cosine * (i - 1) / i
        total += term
    return math.sin(angle) * total
