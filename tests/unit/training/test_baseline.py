"""Diffusion-KTO's baseline: the mean gain of the step before, over all pictures and processes (docs/method.md §4, M9)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inpo.errors import InputError
from inpo.methods import method
from inpo.training.baseline import GainBaseline
from inpo.training.fit import Callbacks, fit
from inpo.training.run import open_run
from inpo.types import PairBatch
from tests.tiny_denoiser import MemoryLoader, tiny_subject
from tests.training_runs import OPTIMIZER, difference, final_bytes, metrics, moved_subject, settings, trainer

KTO = "diffusion-kto"


class Singles(MemoryLoader):
    """The winners of the pairs with even numbers as desired pictures, and of the others as undesired ones."""

    def pairs(self, indices: list[int]) -> PairBatch:
        whole = super().pairs(indices)
        return PairBatch(whole.win, None, whole.condition, torch.tensor([float(i % 2 == 0) for i in indices]), whole.ids)


def gain(line: dict[str, float]) -> float:
    return (line["ref_win_error"] - line["win_error"] + line["ref_lose_error"] - line["lose_error"]) / 2


def test_the_first_step_has_none_and_each_next_one_the_mean_gain_before_it() -> None:
    """z = max(0, (R_w − L_w + R_l − L_l)/2) of the whole step before, as metrics.jsonl has it."""
    made = trainer(name=KTO, use=settings(pairs_per_step=8))
    lines = [made.step_once(step).line for step in range(4)]
    assert lines[0]["baseline"] == 0.0
    for before, line in zip(lines[:-1], lines[1:], strict=True):
        assert line["baseline"] == pytest.approx(max(0.0, gain(before)), rel=1e-9)


def test_what_was_gained_before_is_what_a_step_measures_from() -> None:
    """The gradient of the next step is that at its z, and not at 0; held-out pairs are asked at z = 0 whatever it is, so that their loss
    moves with the policy alone."""
    made = trainer(MemoryLoader(held_out=7), name=KTO, subject=moved_subject(), use=settings(optimizer=replace(OPTIMIZER, lr=1e-12)))
    points, before = made.gradient.points(1), made.validation()
    made.baseline.z = 0.25
    losses = [float(made.gradient(points, z=z).values[:, 0].mean()) for z in (0.0, 0.25)]
    made.optimizer.zero_grad()
    assert losses[0] != losses[1]
    assert made.step_once(1).line["loss"] == pytest.approx(losses[1], rel=1e-6)
    made.baseline.z = 0.25
    assert made.validation()["loss"] == pytest.approx(before["loss"], rel=1e-6)


@pytest.mark.parametrize("loader", [MemoryLoader(), Singles()], ids=["pairs", "singles"])
def test_micro_batches_change_no_gradient(loader: MemoryLoader) -> None:
    """z is known before the step, so a picture's loss does not depend on which others share its micro-batch: two steps end alike."""
    ends = []
    for size in (1, 8):
        subject = tiny_subject(0, torch.float64)
        made = trainer(replace(loader, dtype=torch.float64), subject, name=KTO, use=settings(pairs_per_step=8, micro_batch_pairs=size))
        for step in range(3):
            made.step_once(step)
        ends.append({name: weight.detach() for name, weight in subject.policy.named_parameters()})
    assert difference(*ends) < 1e-9


def test_single_pictures_train_in_both_directions() -> None:
    """One forward of policy and reference a picture; the loss starts at ½, and desired and undesired gradients differ in sign."""
    made = trainer(Singles(), name=KTO)
    line = made.step_once(0).line
    assert line["unet_forwards_per_pair"] == 2
    assert line["loss"] == pytest.approx(0.5, abs=1e-6)
    assert (line["implicit_accuracy"], line["lose_error"]) == (None, None)
    grads = []
    for label in (1.0, 0.0):
        made = trainer(Singles(), name=KTO)
        points = made.gradient.points(0)
        one = replace(points, noised=replace(points.noised, preference=torch.full_like(points.noised.preference, label)))
        made.gradient(one)
        grads.append(torch.cat([weight.grad.flatten() for weight in made.weights.values() if weight.grad is not None]))
    torch.testing.assert_close(grads[0], -grads[1])


def run(out: Path, steps: int, resume: str | None = None) -> None:
    use = settings(steps=steps, save_every_steps=2)
    with open_run(out, {"optimizer": {"schedule": "constant"}}, config_text="# a test's run\n", resume=resume) as folder:
        folder.data_sha256 = "the same pairs"
        fit(tiny_subject(), MemoryLoader(), method=method(KTO), settings=use, run=folder, callbacks=Callbacks())


def test_a_resumed_run_has_the_same_baseline(tmp_path: Path) -> None:
    """z is in the checkpoint: cut after 4 of 6 steps and continued, weights and lines are those of the run that was not cut."""
    run(tmp_path / "whole", 6)
    run(tmp_path / "cut", 4)
    state = json.loads((tmp_path / "cut/checkpoints/step-000004/state.json").read_text())
    assert state["gain_baseline"]["z"] > 0
    run(tmp_path / "cut", 6, resume="latest")
    assert final_bytes(tmp_path / "cut", 6) == final_bytes(tmp_path / "whole", 6)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_a_checkpoint_without_one_is_named() -> None:
    with pytest.raises(InputError, match="gain_baseline"):
        GainBaseline().load(None)
