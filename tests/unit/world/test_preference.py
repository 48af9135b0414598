"""Bradley–Terry labels."""

from __future__ import annotations

import numpy as np
import pytest

from inpo.world.preference import BradleyTerry


def test_labels_follow_bradley_terry() -> None:
    """The share of labels 1 at a gap is σ(gap / temperature)."""
    law, rng = BradleyTerry(temperature=0.05), np.random.default_rng(0)
    for gap in (-0.1, -0.02, 0.05):
        share = np.mean([law.label(gap, rng) for _ in range(4000)])
        assert share == pytest.approx(law.probability(gap), abs=0.025)
    assert law.probability(0.05) == pytest.approx(0.7311, abs=1e-4)


def test_near_ties_are_ties() -> None:
    """Below the threshold a label is ½ whatever the draw; above it never is."""
    law, rng = BradleyTerry(tie=0.01), np.random.default_rng(0)
    assert {law.label(gap, rng) for gap in (0.0, 0.009, -0.009)} == {0.5}
    assert 0.5 not in {law.label(gap, rng) for gap in (0.011, -0.011) for _ in range(50)}


def test_best_agreement_is_what_the_known_order_attains() -> None:
    """Who orders every pair by its true scores agrees as often as `best_agreement` says, and nobody can more."""
    law, rng = BradleyTerry(temperature=0.08), np.random.default_rng(1)
    gaps = rng.normal(0, 0.1, 20_000)
    clear = gaps[np.abs(gaps) >= law.tie]
    agreed = np.mean([law.label(gap, rng) == (gap > 0) for gap in clear])
    assert law.best_agreement(gaps) == pytest.approx(agreed, abs=0.01)


def test_best_agreement_of_ties_alone_is_undefined() -> None:
    """Where every pair is a tie there is nothing to agree with."""
    assert np.isnan(BradleyTerry().best_agreement(np.zeros(3)))
