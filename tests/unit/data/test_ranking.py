"""Which pictures of a ranking are compared, and with which label."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpo.data.ranking import crossed_pairs, ranked_pairs

VALUES = st.lists(st.integers(-3, 3).map(float), max_size=7)


def test_policies_by_hand() -> None:
    """Values 1, 3, 2, 3: all six pairs; neighbours in the order 3, 3, 2, 1; the first best against the worst."""
    values = [1.0, 3.0, 2.0, 3.0]
    assert ranked_pairs(values, "all") == [(0, 1, 0.0), (0, 2, 0.0), (0, 3, 0.0), (1, 2, 1.0), (1, 3, 0.5), (2, 3, 0.0)]
    assert ranked_pairs(values, "adjacent") == [(1, 3, 0.5), (2, 3, 0.0), (0, 2, 0.0)]
    assert ranked_pairs(values, "best-worst") == [(0, 1, 0.0)]


@pytest.mark.parametrize("policy", ["all", "adjacent", "best-worst"])
@given(values=VALUES)
def test_a_label_is_the_order_of_the_values(policy: str, values: list[float]) -> None:
    """i < j, no pair twice, the higher value wins, equal values tie; n(n − 1)/2, n − 1 or one pair."""
    pairs = ranked_pairs(values, policy)  # type: ignore[arg-type]
    n = len(values)
    assert len({(i, j) for i, j, _ in pairs}) == len(pairs)
    assert len(pairs) == {"all": n * (n - 1) // 2, "adjacent": max(n - 1, 0), "best-worst": int(n > 1)}[policy]
    for i, j, label in pairs:
        assert i < j
        assert label == (0.5 if values[i] == values[j] else float(values[i] > values[j]))


def test_a_margin_makes_near_ties() -> None:
    """Values exactly the margin apart are a tie, wider ones are not."""
    assert [label for *_, label in ranked_pairs([0.0, 0.25, 1.0], "all", margin=0.25)] == [0.5, 0.0, 0.0]


@given(liked=st.integers(0, 7), disliked=st.integers(0, 7), most=st.integers(1, 60))
def test_crossed_pairs_are_different_and_even(liked: int, disliked: int, most: int) -> None:
    """As many as asked for or as there are, none twice, and no picture used more than once more often than another."""
    pairs = list(crossed_pairs(liked, disliked, most))
    assert len(set(pairs)) == len(pairs) == min(most, liked * disliked)
    for side, count in enumerate((liked, disliked)):
        uses = [sum(pair[side] == i for pair in pairs) for i in range(count)]
        if pairs:
            assert max(uses) <= math.ceil(len(pairs) / count)
            assert min(uses) >= len(pairs) // count
