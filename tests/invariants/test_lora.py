"""The trainer with adapters: the reference's evaluations are counted though it is no network of its own, and a cut run is the whole one."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch

from inpo.models.config import Lora, ModelConfig
from inpo.models.loading import load
from inpo.training.gradient import step_times
from inpo.training.settings import OptimizerConfig
from inpo.training.subject import Subject
from tests.invariants.test_resume_stable_diffusion import PromptedLoader
from tests.training_runs import final_bytes, metrics, settings, train, trainer


def subject(folder: Path, *, dora: bool = False, seed: int = 0) -> Subject:
    """The pipeline's UNet under adapters."""
    model = load(ModelConfig(str(folder), gradient_checkpointing=True), lora=Lora(rank=2, dora=dora), seed=seed)
    return Subject(model.policy, model.reference(), model.save_policy, model.load_policy)


def test_the_reference_is_counted_where_it_is_asked(tiny_pipeline: Path) -> None:
    """InPO: 2k + 2 + 2 image-forwards a pair, all through the one module that there is."""
    use = settings(pairs_per_step=4)
    made = trainer(PromptedLoader(10), subject(tiny_pipeline), use=use)
    k = step_times(made.networks.policy.schedule, use.train, 0) * 10 // 1000 + 1
    assert made.step_once(0).line["unet_forwards_per_pair"] == float((2 * k + 2 + 2).double().mean())
    assert set(made.weights) == {name for name, _ in made.subject.policy.named_parameters() if ".lora_" in name}


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tiny_pipeline: Path, tmp_path: Path) -> None:
    """DoRA, started again from other adapters: what the checkpoint holds is all that a run is. At step 0 every u is 0."""
    use, loader = settings(steps=3, pairs_per_step=4, save_every_steps=2), PromptedLoader(10)
    for out in ("whole", "cut"):
        train(tmp_path / out, use, loader=loader, subject=subject(tiny_pipeline, dora=True))
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-000003")
    train(tmp_path / "cut", use, loader=loader, subject=subject(tiny_pipeline, dora=True, seed=7), resume="latest")
    assert final_bytes(tmp_path / "cut", 3) == final_bytes(tmp_path / "whole", 3)
    first = next(line for line in metrics(tmp_path / "whole") if "loss" in line)
    assert all(bucket["margin"] == 0 for bucket in first["by_bucket"].values())


def test_adapters_learn(tiny_pipeline: Path) -> None:
    """Eight updates at the same points: the loss falls from its start, ln 2, and the frozen weights are as they were."""
    trained = subject(tiny_pipeline)
    frozen = {name: weight.clone() for name, weight in trained.policy.named_parameters() if not weight.requires_grad}
    use = settings(OptimizerConfig(lr=1e-3, warmup_steps=0), pairs_per_step=4)
    made = trainer(PromptedLoader(4), trained, name="diffusion-dpo", use=use)
    losses = [float(str(made.step_once(1).line["loss"])) for _ in range(8)]
    assert abs(losses[0] - math.log(2)) < 1e-5
    assert losses[-1] < losses[0]
    assert all(torch.equal(weight, frozen[name]) for name, weight in trained.policy.named_parameters() if name in frozen)
