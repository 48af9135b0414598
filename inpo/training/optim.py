"""Optimisers, the learning rate as a pure function of the step, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypedDict

import torch
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.training.settings import OptimizerConfig, OptimizerName

Weights = Mapping[str, nn.Parameter]


class _Adam(TypedDict):
    betas: tuple[float, float]
    eps: float


FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})
WORD = 4
EIGHT_BIT_FROM, EIGHT_BIT_BLOCK = 4096, 256
"""bitsandbytes keeps smaller parameters in 32 bits; of others it keeps one byte a number and one scale a block."""
_ADAM: _Adam = {"betas": (0.9, 0.999), "eps": 1e-8}


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
    """AdamW (0.9, 0.999, 1e-8), in 32 bits or bitsandbytes' 8, or transformers' Adafactor as InPO's SDXL recipe uses it.

    AdamW is torch's fused one wherever there is one: it needs no memory beside its state, and adds in a fixed order.
    """
    parameters = list(weights.values())
    if config.name == "adamw":
        fused = all(parameter.device.type in FUSED_DEVICES for parameter in parameters)
        return torch.optim.AdamW(parameters, lr=config.lr, **_ADAM, weight_decay=config.weight_decay, fused=fused)
    if config.name == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        eight: torch.optim.Optimizer = AdamW8bit(parameters, lr=config.lr, **_ADAM, weight_decay=config.weight_decay)
        return eight
    from transformers.optimization import Adafactor

    # Its own rate is switched off: with these on, the configured one would be multiplied or ignored.
    adafactor: torch.optim.Optimizer = Adafactor(
        parameters, lr=config.lr, weight_decay=config.weight_decay, clip_threshold=1.0, scale_parameter=False, relative_step=False
    )
    return adafactor


def state_bytes(name: OptimizerName, shape: Sequence[int]) -> int:
    """What the optimiser keeps for one parameter of this shape, in memory and in a checkpoint, but for a few numbers."""
    count = math.prod(shape)
    if name == "adafactor" and len(shape) > 1:
        # transformers takes the last two axes for the matrix: of a 3×3 convolution it keeps two thirds of a moment.
        return WORD * (count // shape[-1] + count // shape[-2])
    if name == "adafactor":
        return WORD * count
    if name == "adamw8bit" and count >= EIGHT_BIT_FROM:
        return 2 * (count + WORD * -(-count // EIGHT_BIT_BLOCK) + WORD * 256)
    return 2 * WORD * count


def optimizer_tensors(optimizer: torch.optim.Optimizer, weights: Weights) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, `<parameter>/<entry>`; a plain count becomes a 0-d int64."""
    state = optimizer.state
    return {
        f"{name}/{entry}": _as_tensor(entry, value)
        for name, parameter in weights.items()
        for entry, value in state.get(parameter, {}).items()
    }


def _as_tensor(entry: str, value: Tensor | int) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.tensor(value)
    # bitsandbytes shares its two tables of 256 numbers between all parameters; a file holds no tensor twice.
    return value.detach().clone() if entry.startswith("qmap") else value.detach()


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
    fused = bool(optimizer.defaults.get("fused"))
    for name, parameter in weights.items():
        if entries[name]:
            optimizer.state[parameter] = {entry: _beside(parameter, value, fused=fused) for entry, value in entries[name].items()}


def _beside(parameter: nn.Parameter, value: Tensor | int, *, fused: bool) -> Tensor | int:
    if not isinstance(value, Tensor):
        return value
    # Fused AdamW counts its steps on the device; the other one on the CPU, because every step would wait for it.
    return value.to(parameter.device if value.dim() or fused else "cpu", copy=True)


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
