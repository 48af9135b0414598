"""The trainer with adapters: the reference is the base whoever asks it, a cut run is the whole one, and two processes are one."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from inpo.methods import method
from inpo.models.config import Lora, ModelConfig
from inpo.models.loading import load
from inpo.models.lora import ADAPTER_FILE
from inpo.points import NoisedPairs
from inpo.training.gradient import step_times
from inpo.training.settings import OptimizerConfig
from inpo.training.stop import Stop
from inpo.training.subject import Subject
from inpo.training.trainer import Trainer
from inpo.types import Denoiser, Dtype
from tests.invariants.test_resume_stable_diffusion import PromptedLoader
from tests.training_runs import difference, final_bytes, metrics, ran_on_ranks, settings, train, trainer
from tests.two_ranks_lora import gradient_and_weights, move

FAST = OptimizerConfig(lr=1e-2, warmup_steps=0)


def subject(folder: Path, *, dora: bool = False, seed: int = 0, rank: int = 2, dtype: Dtype = "fp32") -> Subject:
    """The pipeline's UNet under adapters."""
    config = ModelConfig(str(folder), dtype=dtype, gradient_checkpointing=True)
    model = load(config, lora=Lora(rank=rank, dora=dora), seed=seed)
    return Subject(model.policy, model.reference(), model.save_policy, model.load_policy, dtype=dtype)


def test_the_reference_is_counted_where_it_is_asked(tiny_pipeline: Path) -> None:
    """InPO: 2k + 2 + 2 image-forwards a pair, all through the one module that there is."""
    use = settings(pairs_per_step=4)
    made = trainer(PromptedLoader(10), subject(tiny_pipeline), use=use)
    k = step_times(made.networks.policy.schedule, use.train, 0) * 10 // 1000 + 1
    assert made.step_once(0).line["unet_forwards_per_pair"] == float((2 * k + 2 + 2).double().mean())
    assert set(made.weights) == {name for name, _ in made.subject.policy.named_parameters() if ".lora_" in name}


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        ({"dora": True}, FAST),
        ({"dtype": "fp16"}, FAST),
        ({"dtype": "bf16", "dora": True}, FAST),
        ({"rank": 1024}, replace(FAST, name="adamw8bit")),
    ],
    ids=["dora", "fp16", "dora-bf16", "adamw8bit"],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    kind: dict[str, object], optimizer: OptimizerConfig, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """Started again from other adapters: what the checkpoint holds is all that a run is. At step 0 every u is 0."""
    use, loader = settings(optimizer, steps=3, pairs_per_step=4, save_every_steps=2, average_decay=0.5), PromptedLoader(10)
    for out in ("whole", "cut"):
        train(tmp_path / out, use, loader=loader, subject=subject(tiny_pipeline, **kind))
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-000003")
    train(tmp_path / "cut", use, loader=loader, subject=subject(tiny_pipeline, **kind, seed=7), resume="latest")
    assert final_bytes(tmp_path / "cut", 3) == final_bytes(tmp_path / "whole", 3)
    lines = metrics(tmp_path / "cut")
    assert lines == metrics(tmp_path / "whole")
    losses = [line for line in lines if "loss" in line]
    assert all(bucket["margin"] == 0 for bucket in losses[0]["by_bucket"].values())
    assert losses[-1]["margin"] != 0
    state = load_file(tmp_path / "cut" / "checkpoints" / "step-000003" / "optimizer.safetensors")
    # An adapter of rank 1024 has the 4096 numbers from which on bitsandbytes keeps 8 bits.
    assert (torch.uint8 in {tensor.dtype for tensor in state.values()}) == (optimizer.name == "adamw8bit")
    assert all(("loss_scale" in line) == (kind.get("dtype") == "fp16") for line in losses)


def points(made: Trainer) -> NoisedPairs:
    return made.gradient.points(0).noised


def test_the_reference_inverts_with_adapters_off(tiny_pipeline: Path) -> None:
    """method.noising.inverter=reference: the base's own trajectory to the last bit, though the policy has moved; the policy's differs."""
    by_reference = method("inpo")
    by_reference = replace(by_reference, noising=replace(by_reference.noising, inverter="reference"))
    adapted, base = subject(tiny_pipeline), load(ModelConfig(str(tiny_pipeline)))
    move(adapted.policy.unet)
    plain = Subject(base.policy, base.reference(), base.save_policy, base.load_policy)
    use, loader = settings(pairs_per_step=4), PromptedLoader(4)
    off, frozen = (points(Trainer(each, loader, method=by_reference, settings=use, stop=Stop())) for each in (adapted, plain))
    on = points(trainer(loader, adapted, use=use))
    assert all(torch.equal(a.x_t, b.x_t) for a, b in ((off.win, frozen.win), (off.lose, frozen.lose)))
    assert not torch.equal(on.win.x_t, off.win.x_t)


def test_the_average_is_of_adapters_and_the_reference_does_not_see_it(tiny_pipeline: Path, tmp_path: Path) -> None:
    """Inside `as_result` the policy is the average and the reference the base; after it, training goes on from its own weights."""
    trained, loader = subject(tiny_pipeline, dora=True), PromptedLoader(8)
    made = trainer(loader, trained, use=settings(FAST, pairs_per_step=4, average_decay=0.9))
    noised = points(made)

    def ask(denoiser: Denoiser) -> Tensor:
        return denoiser(noised.win.x_t, noised.win.t, noised.condition).detach()

    networks, adapters_off = made.networks, made.networks.reference
    assert adapters_off is not None
    base = ask(adapters_off)
    for step in range(3):
        made.step_once(step)
    own, weights = ask(networks.policy), {name: weight.detach().clone() for name, weight in made.weights.items()}
    with made.as_result():
        averaged = ask(networks.policy)
        assert torch.equal(ask(adapters_off), base)
        trained.save_policy(tmp_path)
    assert torch.equal(ask(networks.policy), own)
    assert all(torch.equal(weight, weights[name]) for name, weight in made.weights.items())
    assert made.average is not None
    assert made.average.tensors.keys() == weights.keys()
    made.average.copy_to_weights()
    assert torch.equal(ask(networks.policy), averaged)
    other = subject(tiny_pipeline, dora=True, seed=3)
    other.load_policy(tmp_path)
    assert torch.equal(ask(other.policy), averaged)
    assert not torch.equal(averaged, own)
    assert len(load_file(tmp_path / ADAPTER_FILE)) == len(weights)


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


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_two_processes_are_one(dora: bool, two_ranks: Path, tiny_pipeline: Path) -> None:
    """Rank 1 starts from other adapters and takes rank 0's; both have the gradient of all six pairs, and the same weights to the bit."""
    gradient, weights = gradient_and_weights(tiny_pipeline, dora=dora, seed=0, micro=6)
    found = [load_file(two_ranks / f"weights-{dora}-{rank}.safetensors") for rank in range(2)]
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
    assert difference(found[0], weights) < 1e-4
    for rank in range(2):
        assert difference(load_file(two_ranks / f"gradient-{dora}-{rank}.safetensors"), gradient) < 1e-4


@pytest.fixture(scope="module")
def two_ranks(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two gloo processes left behind; see tests/two_ranks_lora.py."""
    return ran_on_ranks(tmp_path_factory.mktemp("two-ranks-lora"), "two_ranks_lora.py", tiny_pipeline)
