"""95 % intervals in closed form, for shares and for means."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054


def wilson(rate: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` (Wilson, JASA 22, 1927): never outside [0, 1], and honest at its ends."""
    z2 = Z95**2 / count
    centre, half = rate + z2 / 2, math.sqrt(z2 * (rate * (1 - rate) + z2 / 4))
    return max(0.0, (centre - half) / (1 + z2)), min(1.0, (centre + half) / (1 + z2))


def around_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of independent values and its 95 % interval, mean ± 1.96 s/√n. A single value says nothing of its spread: (v, −∞, ∞)."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, -math.inf, math.inf
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = Z95 * spread / math.sqrt(count)
    return mean, mean - half, mean + half
