"""Gaussian truth: data laws whose perfect denoiser, and for one Gaussian the whole trajectory, are known in closed form.

For x_0 ~ N(μ, diag(s²)), x_t is N(α μ, diag(α² s² + σ²)) and the perfect network is linear:
    ε*(x_t, t) = σ (x_t − α μ) / (α² s² + σ²).
The deterministic trajectory through x_0 is x_t = α μ + √(α² s² + σ²)/s · (x_0 − μ), per coordinate. A mixture's ε* is the
mean of its components' under their posterior. These are the ground truth for schedules, samplers, inversion and objectives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inpo.schedule import FlowSchedule, Level, PredictionType, Schedule
from inpo.types import Condition


@dataclass(frozen=True)
class GaussianDenoiser:
    """The perfect network for a mixture of diagonal Gaussians over latents `[C,H,W]`.

    `means`, `stds`: `[M,C,H,W]`; `weights`: `[M]`, summing to 1. It answers in any prediction type, whatever the condition.
    """

    schedule: Schedule
    prediction_type: PredictionType
    means: Tensor
    stds: Tensor
    weights: Tensor

    @classmethod
    def single(cls, schedule: Schedule, mean: Tensor, std: Tensor, prediction_type: PredictionType = "epsilon") -> GaussianDenoiser:
        """One Gaussian; `mean`, `std`: `[C,H,W]`."""
        return cls(schedule, prediction_type, mean[None], std[None], torch.ones(1, dtype=mean.dtype))

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The prediction at x_t `[B,C,H,W]`. Time 0 of a flow, at which only a clean latent is asked, is the clean node."""
        del condition
        clean = isinstance(self.schedule, FlowSchedule) and bool((t == 0).all())
        return self.at_level(x_t, self.schedule.clean(len(t)) if clean else self.schedule.at(t))

    def at_level(self, x_t: Tensor, level: Level) -> Tensor:
        """The prediction at a noise level."""
        alpha, sigma = level.coefficients(x_t)
        eps, x_0 = self._eps_and_x_0(x_t, alpha, sigma)
        if self.prediction_type == "epsilon":
            return eps
        if self.prediction_type == "v_prediction":
            return alpha * eps - sigma * x_0
        return eps - x_0 if self.prediction_type == "flow" else x_0

    def _eps_and_x_0(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        x, a, s = x_t[:, None], alpha[:, None], sigma[:, None]
        variance = (a * self.stds) ** 2 + s**2
        offset = x - a * self.means
        log_density = -0.5 * (offset**2 / variance + variance.log()).sum(dim=(2, 3, 4)) + self.weights.log()
        posterior = log_density.softmax(dim=1)[:, :, None, None, None]
        eps = (posterior * s * offset / variance).sum(dim=1)
        x_0 = (posterior * (self.means + a * self.stds**2 * offset / variance)).sum(dim=1)
        return eps, x_0

    def trajectory(self, x_0: Tensor, level: Level) -> Tensor:
        """Where the deterministic trajectory through the clean x_0 `[B,C,H,W]` is at `level`. One Gaussian only."""
        if len(self.means) != 1:
            raise ValueError("a mixture's trajectory has no closed form")
        alpha, sigma = level.coefficients(x_0)
        mean, std = self.means[0], self.stds[0]
        return alpha * mean + ((alpha * std) ** 2 + sigma**2).sqrt() / std * (x_0 - mean)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Clean latents from the law, `[count,C,H,W]`."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, *self.means.shape[1:], generator=generator, dtype=self.means.dtype)
        return self.means[which] + self.stds[which] * noise
