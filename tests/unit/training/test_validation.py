"""What the held-out pairs say: the same question every time, and the answer with its doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from inpo.intervals import wilson
from inpo.training.tally import BUCKETS
from inpo.training.watch import Tracked
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


@dataclass
class Tied(MemoryLoader):
    """Held-out pairs of which only those at some places have a winner."""

    held_out: int = 20
    decided: frozenset[int] = frozenset()

    def validation(self) -> Sequence[PairBatch]:
        """One batch."""
        pairs = self.pairs(range(self.size, self.size + self.held_out))
        return [replace(pairs, preference=torch.tensor([1.0 if i in self.decided else 0.5 for i in range(self.held_out)]))]


def tied(*decided: int) -> dict[str, object]:
    return trainer(Tied(decided=frozenset(decided)), subject=moved_subject(), name="diffusion-dpo").validation()


def test_ties_are_no_labelled_pairs() -> None:
    """The accuracy is the mean of its labelled pairs' own, its interval is of so many pairs, and a tenth of ties alone has none."""
    places = (0, 3, 4, 9, 13)
    alone = {place: tied(place) for place in places}
    assert {found["implicit_accuracy"] for found in alone.values()} == {0.0, 1.0}
    found = tied(*places)
    accuracy = sum(each["implicit_accuracy"] for each in alone.values()) / 5
    assert math.isclose(found["implicit_accuracy"], accuracy)
    assert [found[f"implicit_accuracy_{end}"] for end in ("low", "high")] == pytest.approx(wilson(accuracy, 5))
    labelled = {k for each in alone.values() for k, row in each["by_bucket"].items() if row["implicit_accuracy"] is not None}
    assert {k for k, row in found["by_bucket"].items() if row["implicit_accuracy"] is not None} == labelled
    assert len(labelled) < len(found["by_bucket"]) == BUCKETS
    assert found["n"] == sum(row["pairs"] for row in found["by_bucket"].values()) == 20
    assert "labelled" not in found


def test_ties_alone_have_no_accuracy() -> None:
    """No pair to be right about: no number, and never the best one."""
    found = tied()
    assert [found[name] for name in ("implicit_accuracy", "implicit_accuracy_low", "implicit_accuracy_high")] == [None] * 3
    assert found["margin"] == tied(1)["margin"] != 0
    assert not Tracked("validation.implicit_accuracy").update(1, found)


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
