"""Randomness as a pure function of names."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from inpo.randomness import PairNoise, seed_for, stratified_uniform, torch_rng


def test_parts_are_kept_apart() -> None:
    """("ab", "c") and ("a", "bc"), 1 and "1", are different streams; the value itself is part of the file format, so it is pinned."""
    assert len({seed_for("ab", "c"), seed_for("a", "bc"), seed_for(1), seed_for("1"), seed_for(1, 2), seed_for(12)}) == 6
    assert seed_for(0, "t") == seed_for(0, "t")
    assert 0 <= seed_for("anything") < 2**63


def test_noise_of_a_row_does_not_depend_on_its_neighbours() -> None:
    """Rows (3, 5, 8) drawn together equal each drawn alone; streams and steps are independent of one another."""
    noise, like = PairNoise(7, 2, (3, 5, 8)), torch.zeros(3, 4, 2, 2)
    together = noise.normal("a", like)
    for i in range(3):
        assert torch.equal(noise[[i]].normal("a", like[:1])[0], together[i])
    assert not torch.equal(noise.normal("b", like), together)
    assert not torch.equal(PairNoise(7, 3, (3, 5, 8)).normal("a", like), together)


def test_noise_is_standard_normal() -> None:
    """Over 2000 positions × 16 numbers: mean 0 and variance 1 within 4 standard errors, and no correlation between neighbours."""
    drawn = PairNoise(0, 0, tuple(range(2000))).normal("a", torch.zeros(2000, 16, dtype=torch.float64))
    assert abs(float(drawn.mean())) < 4 / 32_000**0.5
    assert abs(float(drawn.var()) - 1) < 4 * (2 / 32_000) ** 0.5
    assert abs(float((drawn[1:] * drawn[:-1]).mean())) < 4 / 32_000**0.5


@given(st.integers(1, 300), st.integers(0, 5))
def test_one_number_in_every_stratum(count: int, seed: int) -> None:
    """Sorted, the i-th number lies in [i/count, (i+1)/count), and all are below 1."""
    drawn = stratified_uniform(count, torch_rng(seed)).sort().values
    assert torch.equal((drawn * count + 1e-9).floor(), torch.arange(count, dtype=torch.float64))
    assert float(drawn.max()) < 1
