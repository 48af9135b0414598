"""What a step costs: UNet image-forwards per pair are docs/method.md §4's, counted by hooks."""

from __future__ import annotations

import pytest
import torch

from inpo.training.gradient import step_times
from inpo.training.metrics import ForwardCounter
from tests.tiny_denoiser import MemoryLoader, tiny_subject
from tests.training_runs import SETTINGS, settings, trainer


@pytest.mark.parametrize(("name", "per_pair"), [("sft", 1), ("diffusion-dpo", 2 + 2)])
def test_forward_noising_costs_the_training_forwards(name: str, per_pair: int) -> None:
    """SFT: one image. DPO: two through the policy and two through the reference."""
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


def test_the_mean_over_steps_is_fifteen() -> None:
    """E[2k + 4] = 11 + 4 for N = 10; 20 pairs a step hold two of each k, because t is stratified."""
    made = trainer(use=settings(pairs_per_step=20))
    assert made.step_once(0).line["unet_forwards_per_pair"] == 15
    assert made.step_once(1).line["unet_forwards_per_pair"] == 15


def test_sft_loads_no_reference() -> None:
    """It reads none, so none is needed."""
    from dataclasses import replace

    subject = replace(tiny_subject(), reference=None)
    assert trainer(subject=subject, name="sft").step_once(0).line["ref_win_error"] is None
    with pytest.raises(ValueError, match="inpo compares with a reference"):
        trainer(subject=subject).step_once(0)


def test_validation_is_not_counted_as_training() -> None:
    """Only what happens inside a step is its cost."""
    made = trainer(MemoryLoader(held_out=7), use=settings(pairs_per_step=20))
    before = made.validation()
    assert made.step_once(0).line["unet_forwards_per_pair"] == 15
    assert (before["implicit_accuracy"], before["margin"], before["n"]) == (0.5, 0.0, 7)
    assert torch.is_grad_enabled()
