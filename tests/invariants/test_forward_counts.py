"""What a step costs: network image-forwards per pair are docs/method.md §4's, counted by hooks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inpo.methods import METHODS
from inpo.training.gradient import step_times
from inpo.training.metrics import ForwardCounter
from inpo.training.stop import Stop
from inpo.training.trainer import Trainer
from inpo.verbs.plan import forwards_per_pair
from tests.tiny_denoiser import MemoryLoader, tiny_subject
from tests.training_runs import SETTINGS, settings, trainer

FORWARD = {"sft": 1, "mapo": 2} | dict.fromkeys(
    ("diffusion-dpo", "diffusion-ipo", "diffusion-cdpo", "diffusion-kto", "diffusion-sdpo", "dspo", "dmpo"), 2 + 2
)
WALKS = {"inpo": 15.0, "inpo-sdpo": 15.0, "smpo": 2 * 6 + 4.0, "inversion-dpo": 2 * 40.5 + 4}


def test_every_method_has_a_stated_cost() -> None:
    """docs/method.md §4: E[k] = (N+1)/2 evaluations of each image; SmPO's N = 5 asks twice a step, Inversion-DPO has N = 80,
    which does not divide 1000, so its k are not quite equally often."""
    assert FORWARD.keys() | WALKS.keys() == METHODS.keys()
    schedule = tiny_subject().policy.schedule
    assert {name: forwards_per_pair(METHODS[name], schedule).total for name in WALKS} == pytest.approx(WALKS, abs=0.05)


@pytest.mark.parametrize(("name", "per_pair"), FORWARD.items())
def test_forward_noising_costs_the_training_forwards(name: str, per_pair: int) -> None:
    """SFT: one image. MaPO: two. The others: two through the policy and two through the reference."""
    assert trainer(name=name).step_once(0).line["unet_forwards_per_pair"] == per_pair


def test_inversion_costs_k_evaluations_of_each_image() -> None:
    """InPO: 2k + 2 + 2 with each pair's own k = ⌊10 t / 1000⌋ + 1, through the policy: 2k + 2, and through the reference: 2."""
    made = trainer()
    times = step_times(made.networks.policy.schedule, SETTINGS.train, 0)
    k = times * 10 // 1000 + 1
    reference = ForwardCounter([made.subject.reference])
    line = made.step_once(0).line
    assert line["unet_forwards_per_pair"] == float((2 * k + 2 + 2).double().mean())
    assert reference.images == 2 * len(times)


def test_points_of_one_walk_share_its_evaluations() -> None:
    """m = 10: every node of every walk is trained on, so 2 · 10 evaluations and 2 · 10 + 2 · 10 forwards a pair; 200 rows of 20 pairs.
    The step's numbers are means over points, and its loss is that of u = 0."""
    shared = replace(METHODS["inpo"], noising=replace(METHODS["inpo"].noising, times_per_trajectory=10))
    made = Trainer(tiny_subject(), MemoryLoader(), method=shared, settings=settings(pairs_per_step=20), stop=Stop())
    line = made.step_once(0).line
    assert line["unet_forwards_per_pair"] == 60 == forwards_per_pair(shared, made.networks.policy.schedule).total
    assert [bucket["pairs"] for bucket in line["by_bucket"].values()] == [20] * 10
    assert line["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert Trainer(
        tiny_subject(), MemoryLoader(held_out=7), method=shared, settings=settings(), stop=Stop()
    ).validation()["n"] == 7  # fmt: skip


def test_the_mean_over_steps_is_fifteen() -> None:
    """E[2k + 4] = 11 + 4 for N = 10; 20 pairs a step hold two of each k, because t is stratified."""
    made = trainer(use=settings(pairs_per_step=20))
    assert made.step_once(0).line["unet_forwards_per_pair"] == 15
    assert made.step_once(1).line["unet_forwards_per_pair"] == 15


@pytest.mark.parametrize("name", WALKS)
def test_walks_cost_what_is_stated(name: str) -> None:
    """A step of 80 pairs, stratified, holds every k of N = 5, 10 and 80 equally often: its count is the stated mean."""
    line = trainer(use=settings(pairs_per_step=80), name=name).step_once(0).line
    assert line["unet_forwards_per_pair"] == pytest.approx(WALKS[name], abs=0.03)


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if not row.objective.needs.reference])
def test_what_needs_no_reference_runs_without(name: str) -> None:
    """SFT and MaPO read none, so none is needed; InPO says that it does."""
    subject = replace(tiny_subject(), reference=None)
    assert trainer(subject=subject, name=name).step_once(0).line["ref_win_error"] is None
    with pytest.raises(ValueError, match="inpo compares with a reference"):
        trainer(subject=subject).step_once(0)


def test_validation_is_not_counted_as_training() -> None:
    """Only what happens inside a step is its cost."""
    made = trainer(MemoryLoader(held_out=7), use=settings(pairs_per_step=20))
    before = made.validation()
    assert made.step_once(0).line["unet_forwards_per_pair"] == 15
    assert (before["implicit_accuracy"], before["margin"], before["n"]) == (0.5, 0.0, 7)
    assert torch.is_grad_enabled()
