"""Learning rate, optimisers, their state on disk, and the average of the weights."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from inpo.errors import InputError
from inpo.training import OptimizerConfig
from inpo.training.optim import (
    WeightAverage,
    learning_rate,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    state_bytes,
    trainable,
)  # fmt: skip
from inpo.training.settings import OPTIMIZERS


def net(seed: int = 0) -> nn.Module:
    """Matrices, vectors and a convolution, below and above 4096 numbers: what is factored, what is kept in 8 bits, and what is not."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 400), nn.Linear(400, 1))


def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """One step on random data."""
    optimizer.zero_grad()
    module(torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
    optimizer.step()


def test_warm_up_is_linear_and_its_first_step_moves() -> None:
    """4 steps to lr = 8: 2, 4, 6, 8, then constant."""
    config = OptimizerConfig(lr=8.0, warmup_steps=4)
    assert [learning_rate(config, step, 100) for step in range(6)] == [2, 4, 6, 8, 8, 8]
    assert learning_rate(OptimizerConfig(lr=8.0, warmup_steps=0), 0, 100) == 8


def test_cosine_falls_from_lr_towards_zero() -> None:
    """Half way down it is lr/2; the step after the last would be 0."""
    config = OptimizerConfig(lr=8.0, warmup_steps=2, schedule="cosine")
    assert learning_rate(config, 2, 12) == 8
    assert math.isclose(learning_rate(config, 7, 12), 4)
    assert math.isclose(learning_rate(config, 12, 12), 0, abs_tol=1e-15)


def test_adamw_is_the_papers() -> None:
    """(0.9, 0.999), 1e-8, decoupled weight decay."""
    made = make_optimizer(OptimizerConfig(weight_decay=0.5), trainable(net()))
    assert isinstance(made, torch.optim.AdamW)
    assert [made.defaults[name] for name in ("betas", "eps", "weight_decay", "fused")] == [(0.9, 0.999), 1e-8, 0.5, True]


def test_adafactor_takes_its_rate_from_us() -> None:
    """With scale_parameter or relative_step on, the configured rate would be multiplied or ignored."""
    made = make_optimizer(OptimizerConfig(name="adafactor"), trainable(net()))
    options = ("scale_parameter", "relative_step", "warmup_init", "clip_threshold", "beta1")
    assert [made.defaults[name] for name in options] == [False, False, False, 1.0, None]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_survives_the_disk_bit_for_bit(tmp_path: Path, name: str) -> None:
    """Three steps, save, load into a new optimiser, two more steps = five steps. The file is as large as was expected."""
    first = net()
    optimizer = make_optimizer(OptimizerConfig(name=name, lr=1e-2), trainable(first))
    for seed in range(3):
        step(first, optimizer, seed)
    save_file(optimizer_tensors(optimizer, trainable(first)), tmp_path / "o.safetensors")
    expected = sum(state_bytes(name, parameter.shape) for parameter in first.parameters())
    assert expected == pytest.approx(sum(tensor.nbytes for tensor in load_file(tmp_path / "o.safetensors").values()), abs=100)
    second = copy.deepcopy(first)
    resumed = make_optimizer(OptimizerConfig(name=name, lr=1e-2), trainable(second))
    load_optimizer_tensors(resumed, trainable(second), load_file(tmp_path / "o.safetensors"))
    for seed in range(3, 5):
        step(first, optimizer, seed)
        step(second, resumed, seed)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_adamw_in_8_bits_is_adamw_to_a_few_percent() -> None:
    """Ten steps of both: the large matrix keeps one byte a moment, and the weights move as far and in the same direction."""
    moved = []
    for name in ("adamw", "adamw8bit"):
        module = net()
        before = module[2].weight.detach().clone()
        optimizer = make_optimizer(OptimizerConfig(name=name, lr=1e-3), trainable(module))
        for seed in range(10):
            step(module, optimizer, seed)
        moved.append((module[2].weight - before).detach())
    assert {value.dtype for key, value in optimizer.state[module[2].weight].items() if key.startswith("state")} == {torch.uint8}
    assert float((moved[1] - moved[0]).norm() / moved[0].norm()) < 0.05


def test_without_bitsandbytes_8_bits_are_refused_at_the_entrance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a pair or a weight is read, with the line to type."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=r"needs bitsandbytes: pip install 'inpo\[bnb\]'"):
        OptimizerConfig(name="adamw8bit")


def test_fused_counts_stay_on_the_device() -> None:
    """A count on the CPU beside moments on a GPU would end the first resumed step. `meta` stands for the GPU."""
    weight = {"w": nn.Parameter(torch.zeros(2, device="meta"))}
    tensors = {"w/step": torch.tensor(3.0), "w/exp_avg": torch.zeros(2)}
    for fused, device in ((True, "meta"), (False, "cpu")):
        optimizer = torch.optim.AdamW(weight.values())
        optimizer.defaults["fused"] = fused
        load_optimizer_tensors(optimizer, weight, tensors)
        state = optimizer.state[weight["w"]]
        assert (state["step"].device.type, state["exp_avg"].device.type) == (device, "meta")


def test_a_state_that_does_not_fit_is_refused_by_name() -> None:
    """Neither a parameter too many nor one too few passes."""
    module = net()
    optimizer = make_optimizer(OptimizerConfig(), trainable(module))
    step(module, optimizer, 0)
    tensors = optimizer_tensors(optimizer, trainable(module))
    with pytest.raises(InputError, match=r"has 'lora\.up', which is no trainable parameter"):
        load_optimizer_tensors(optimizer, trainable(module), tensors | {"lora.up/exp_avg": torch.zeros(1)})
    short = {name: value for name, value in tensors.items() if not name.startswith("2.bias")}
    with pytest.raises(InputError, match=r"has nothing for '2\.bias' \(1 of 6 parameters\)"):
        load_optimizer_tensors(optimizer, trainable(module), short)


def test_nothing_to_train_is_refused() -> None:
    """A policy with every parameter frozen is a mistake."""
    with pytest.raises(InputError, match="no trainable parameter"):
        trainable(net().requires_grad_(False))


def test_the_average_follows_its_definition() -> None:
    """d = min(0.9, (1 + n)/(10 + n)): 2/11 at the first step, 3/12 at the second; 0.9 from step 80 on."""
    weight = nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage({"w": weight}, 0.9)
    weight.data.fill_(2.0)
    average.update(1)
    assert torch.allclose(average.tensors["w"], torch.tensor([2 / 11 * 1 + 9 / 11 * 2]))
    average.tensors["w"].fill_(0.0)
    average.update(1000)
    assert torch.allclose(average.tensors["w"], torch.tensor([0.2]))


def test_the_average_is_wide_and_steps_aside_again() -> None:
    """In bf16, 1000 + 0.1 · 1 would be 1000. The policy's own weights come back bit for bit, also after an error."""
    weight = nn.Parameter(torch.tensor([1000.0], dtype=torch.bfloat16))
    average = WeightAverage({"w": weight}, 0.9)
    weight.data.fill_(1001.0 + 3)
    average.update(1000)
    assert average.tensors["w"].item() == pytest.approx(1000.4)
    own = weight.detach().clone()

    def fail() -> None:
        with average.in_place():
            raise RuntimeError(f"inside {weight.item():g}")

    with pytest.raises(RuntimeError, match="inside 1000"):
        fail()
    assert torch.equal(weight, own)
