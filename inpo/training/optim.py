"""Optimisers, the learning rate as a pure function of the step, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.training.settings import OptimizerConfig

Weights = Mapping[str, nn.Parameter]


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training moves, by name. Raises `InputError` if there are none."""
    found = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not found:
        raise InputError("the policy has no trainable parameter: every requires_grad is false")
    return found


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of optimiser step `step` (from 0) of `steps`: linear warm-up to `lr`, then constant or half a cosine to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(config: OptimizerConfig, weights: Weights) -> torch.optim.Optimizer:
    """AdamW (0.9, 0.999, 1e-8), or transformers' Adafactor with its own rate switched off, as InPO's SDXL recipe uses it."""
    parameters = list(weights.values())
    if config.name == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=config.weight_decay)
    from transformers.optimization import Adafactor

    adafactor: torch.optim.Optimizer = Adafactor(
        parameters, lr=config.lr, weight_decay=config.weight_decay, clip_threshold=1.0, scale_parameter=False, relative_step=False
    )
    return adafactor


def optimizer_tensors(optimizer: torch.optim.Optimizer, weights: Weights) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, `<parameter>/<entry>`; a plain count becomes a 0-d int64."""
    state = optimizer.state
    return {
        f"{name}/{entry}": value.detach() if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in weights.items()
        for entry, value in state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, weights: Weights, tensors: Mapping[str, Tensor]) -> None:
    """Undoes `optimizer_tensors`. Raises `InputError` if a parameter's state is missing or a name belongs to none."""
    entries: dict[str, dict[str, Tensor | int]] = {name: {} for name in weights}
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        if name not in entries:
            raise InputError(f"the optimiser's state has {name!r}, which is no trainable parameter of this policy")
        # The optimisers here keep counts either as plain ints or as floating tensors, never as integer tensors.
        count = value.dtype == torch.int64 and value.dim() == 0
        entries[name][entry] = int(value) if count else value
    if any(entries.values()) and (missing := [name for name, found in entries.items() if not found]):
        raise InputError(f"the optimiser's state has nothing for {missing[0]!r} ({len(missing)} of {len(entries)} parameters)")
    for name, parameter in weights.items():
        if entries[name]:
            optimizer.state[parameter] = {entry: _beside(parameter, value) for entry, value in entries[name].items()}


def _beside(parameter: nn.Parameter, value: Tensor | int) -> Tensor | int:
    if not isinstance(value, Tensor):
        return value
    # torch keeps AdamW's step count on the CPU: on the device, every step would wait for it.
    return value.to(parameter.device if value.dim() else "cpu", copy=True)


def _wide(parameter: nn.Parameter) -> Tensor:
    # In bf16 a step of (1 − d) θ would round away.
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))


class WeightAverage:
    """ā ← d ā + (1 − d) θ after every step, with d = min(decay, (1 + n)/(10 + n)) at step n, so that short runs forget their start."""

    def __init__(self, weights: Weights, decay: float) -> None:
        self.weights, self.decay = weights, decay
        self.tensors = {name: _wide(parameter).clone() for name, parameter in weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes the weights after optimiser step `step` (from 1) in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.weights.items():
            self.tensors[name].lerp_(_wide(parameter), 1 - decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continues from saved averages. Raises `InputError` if one is missing."""
        if missing := sorted(self.tensors.keys() - tensors.keys()):
            raise InputError(f"the checkpoint has no average of {missing[0]!r} ({len(missing)} missing)")
        for name, average in self.tensors.items():
            average.copy_(tensors[name])

    @torch.no_grad()
    def copy_to_weights(self) -> None:
        """Makes the average the policy's weights, for good."""
        for name, parameter in self.weights.items():
            parameter.copy_(self.tensors[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The policy answers with the averaged weights inside, and with its own again after."""
        own = {name: parameter.detach().clone() for name, parameter in self.weights.items()}
        self.copy_to_weights()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.weights.items():
                    parameter.copy_(own[name])
