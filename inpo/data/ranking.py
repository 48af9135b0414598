"""From a ranking of n pictures to preference pairs: which pictures are compared, and what the label is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Literal

PairPolicy = Literal["all", "adjacent", "best-worst"]
"""all: every two pictures. adjacent: neighbours in the order. best-worst: the first and the last."""

Pair = tuple[int, int, float]
"""(i, j, label of i): i < j, and the label is 1, 0, or ½ where neither is preferred."""


def ranked_pairs(values: Sequence[float], policy: PairPolicy, *, margin: float = 0.0) -> list[Pair]:
    """Pairs of n pictures whose `values` (higher is better, finite) order them; fewer than two give none.

    Values at most `margin` apart are a tie. Pictures of equal value keep the order in which they are given.
    """
    order = sorted(range(len(values)), key=lambda i: -values[i])
    chosen = {
        "all": list(combinations(range(len(values)), 2)),
        "adjacent": list(pairwise(order)),
        "best-worst": [(order[0], order[-1])] if len(order) > 1 else [],
    }[policy]
    return [(min(pair), max(pair), _label(values[min(pair)] - values[max(pair)], margin)) for pair in chosen]


def _label(gap: float, margin: float) -> float:
    return 0.5 if abs(gap) <= margin else float(gap > 0)


def crossed_pairs(liked: int, disliked: int, most: int) -> Iterator[tuple[int, int]]:
    """At most `most` different pairs (a liked picture, a disliked one), each picture used as evenly as can be."""
    if not liked or not disliked:
        return
    # Both counters together run through all combinations only where their counts share no factor; one more
    # step of the second after each round of the two takes care of the others.
    together = math.lcm(liked, disliked)
    for i in range(min(most, liked * disliked)):
        yield i % liked, (i + i // together) % disliked
