"""Small exact worlds for the mathematics' tests: schedules, Gaussian denoisers, and spies that record what was asked."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from inpo.schedule import FlowSchedule, PredictionType, Schedule, VPSchedule, vp_from_config
from inpo.types import Condition, PairBatch
from inpo.world.gaussian import GaussianDenoiser

F64 = torch.float64
SD_CONFIG = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000,
    "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False,
}  # fmt: skip


def sd_schedule(dtype: torch.dtype = F64, **changes: object) -> VPSchedule:
    """Stable Diffusion's schedule, in fp64."""
    return vp_from_config({**SD_CONFIG, **changes}, dtype)


def fine_schedule(length: int = 100_000) -> VPSchedule:
    """The same path cut into many more times, so that rounding of nodes does not hide the order of a solver."""
    scale = 1000 / length
    return sd_schedule(num_train_timesteps=length, beta_start=0.00085 * scale, beta_end=0.012 * scale)


def flow_schedule() -> FlowSchedule:
    return FlowSchedule(dtype=F64)


def gaussian(schedule: Schedule, prediction_type: PredictionType = "epsilon") -> GaussianDenoiser:
    """One Gaussian over 1×1×2 latents with different mean and spread in each coordinate."""
    mean, std = torch.tensor([[[0.5, -0.3]]], dtype=F64), torch.tensor([[[0.6, 1.2]]], dtype=F64)
    return GaussianDenoiser.single(schedule, mean, std, prediction_type)


def mixture(schedule: Schedule, prediction_type: PredictionType = "epsilon") -> GaussianDenoiser:
    """Two modes at ±1, one coordinate."""
    means, stds = torch.tensor([-1.0, 1.0], dtype=F64).view(2, 1, 1, 1), torch.full((2, 1, 1, 1), 0.3, dtype=F64)
    return GaussianDenoiser(schedule, prediction_type, means, stds, torch.tensor([0.5, 0.5], dtype=F64))


def condition(count: int) -> Condition:
    """A condition whose rows are told apart by their number."""
    return Condition({"prompt": torch.arange(count, dtype=F64).view(count, 1)})


def pairs(count: int, shape: tuple[int, ...] = (4, 2, 2), seed: int = 0) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)
    win, lose = (torch.randn(count, *shape, generator=generator, dtype=F64) for _ in range(2))
    return PairBatch(win, lose, condition(count), torch.ones(count, dtype=F64), tuple(f"pair-{i}" for i in range(count)))


@dataclass
class ConstantDenoiser:
    """Answers one ε whatever it is asked, in its prediction type, and remembers the times."""

    schedule: Schedule
    eps: Tensor
    prediction_type: PredictionType = "epsilon"
    asked: list[Tensor] = field(default_factory=list)
    conditions: list[Tensor] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.asked.append(t.clone())
        self.conditions.append(condition.tensors["prompt"].clone())
        return self.eps.expand_as(x_t)


@dataclass
class AffineDenoiser:
    """ε = x·a + b(t) + condition: cheap, different for every example, time and condition, so that mixing rows up shows."""

    schedule: Schedule
    prediction_type: PredictionType = "epsilon"
    asked: int = 0

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.asked += len(x_t)
        shift = (0.01 * t.to(x_t.dtype).abs().sqrt() + 0.1 * condition.tensors["prompt"][:, 0]).view(-1, 1, 1, 1)
        return 0.3 * x_t + shift
