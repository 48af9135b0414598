"""What the held-out pairs say: the same question every time, and the answer with its doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from inpo.training.tally import BUCKETS
from inpo.types import PairBatch
from tests.tiny_denoiser import MemoryLoader, tiny_subject
from tests.training_runs import moved_subject, settings, trainer


def test_it_is_the_same_every_time_and_of_the_current_weights() -> None:
    """Fixed pairs, times and noise: only the policy moves it. Pairs are held out, so they are never fetched."""
    made = trainer(MemoryLoader(held_out=7), subject=moved_subject())
    first = made.validation()
    assert first == made.validation()
    assert first["n"] == 7
    assert 0 <= first["implicit_accuracy_low"] <= first["implicit_accuracy"] <= first["implicit_accuracy_high"] <= 1
    made.step_once(1)
    assert made.validation()["margin"] != first["margin"]


def test_runs_of_other_seeds_and_methods_are_asked_the_same() -> None:
    """Curves of two runs lie on one another only if their times and noise do: another seed changes no number."""
    first, second = (trainer(MemoryLoader(held_out=7), subject=moved_subject(), use=settings(seed=seed)).validation() for seed in (0, 1))
    assert first == second
    buckets = [
        {k: row["pairs"] for k, row in trainer(MemoryLoader(held_out=7), name=name).validation()["by_bucket"].items()}
        for name in ("inpo", "diffusion-dpo", "sft")
    ]
    assert buckets[0] == buckets[1] == buckets[2]


def test_times_are_spread_evenly_over_the_path() -> None:
    """Twenty pairs, stratified: two in each tenth; the tenths add up to the whole."""
    found = trainer(MemoryLoader(held_out=20), subject=moved_subject(), name="diffusion-dpo").validation()
    rows = found["by_bucket"]
    assert {k: row["pairs"] for k, row in rows.items()} == {str(k): 2 for k in range(1, BUCKETS + 1)}
    for name in ("implicit_accuracy", "margin", "loss", "win_drift"):
        assert math.isclose(sum(row[name] for row in rows.values()) / BUCKETS, found[name], rel_tol=1e-9, abs_tol=1e-12)


def test_before_the_first_step_nothing_has_drifted() -> None:
    """Policy ≡ reference: accuracy ½, margin and both drifts 0, loss ln 2."""
    found = trainer(MemoryLoader(held_out=7)).validation()
    assert (found["implicit_accuracy"], found["margin"], found["win_drift"], found["lose_drift"]) == (0.5, 0.0, 0.0, 0.0)
    assert math.isclose(found["loss"], math.log(2), rel_tol=1e-6)


class OneBatch(MemoryLoader):
    """The held-out pairs, all at once."""

    def validation(self) -> Sequence[PairBatch]:
        """One batch."""
        return [self.pairs(range(self.size, self.size + self.held_out))]


def test_held_out_numbers_do_not_depend_on_the_batches() -> None:
    """Batches of 5 and 2, or one of 7: each pair keeps its own time and noise."""
    loaders = (MemoryLoader(held_out=7), OneBatch(held_out=7))
    cut, whole = (trainer(loader, subject=moved_subject(), name="diffusion-dpo").validation() for loader in loaders)
    assert cut["implicit_accuracy"] == whole["implicit_accuracy"]
    assert math.isclose(cut["margin"], whole["margin"], rel_tol=1e-4)


def test_without_margin_or_pairs() -> None:
    """SFT has an error and no margin; with nothing held out there is no such entry; what is not finite is null, as JSON has it."""
    found = trainer(MemoryLoader(held_out=3), name="sft").validation()
    assert found["loss"] == found["win_error"] > 0
    names = ("implicit_accuracy", "implicit_accuracy_low", "margin", "lose_error", "win_drift", "lose_drift")
    assert [found[name] for name in names] == [None] * 6
    assert trainer().validation() is None
    broken = tiny_subject()
    with torch.no_grad():
        broken.policy.out.bias.fill_(math.inf)
    assert trainer(MemoryLoader(held_out=3), subject=broken, name="sft").validation()["loss"] is None
