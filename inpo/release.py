"""The released InPO code's inversion, for runs that must be comparable with published checkpoints.

It differs from the method in four ways that its documentation does not name. With the scheduler it pins, the grid is
{−99, 1, 101, …, 801} for N = 10, each step goes from g to g + 100, and steps are taken while g < t. So
1. the walk ends at the next level 1, 101, …, 901 and not at t, although network and τ then use t;
2. the first node is −99, where ᾱ is ᾱ_0 and the network is asked at −99;
3. after each step, 0.1 √variance(g + 100, g) of fresh noise is added without shrinking the direction;
4. E[evaluations] is 6.38 and not 5.5.
Everything here is per pair; the release reads the first pair's time for the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inpo.ddim import Step, StochasticStep
from inpo.grid import Draw
from inpo.schedule import Level, Schedule, VPSchedule, rows_per_node

NOISE_SHARE = 0.1
FIRST_INDEX = 1


@dataclass(frozen=True)
class ReleaseGrid:
    """An `inpo.grid.Grid`: `steps` nodes, `stride` = T/steps apart, the first at 1 − stride."""

    schedule: VPSchedule
    steps: int

    @classmethod
    def of(cls, schedule: Schedule, steps: int) -> ReleaseGrid:
        """Raises `ValueError` for schedules that the released code cannot run on."""
        if not isinstance(schedule, VPSchedule):
            raise ValueError("compat='inpo-release' exists for variance-preserving schedules only")
        most = schedule.length // 2
        if not 1 <= steps <= most:
            raise ValueError(f"inversion_steps={steps} must be in 1…{most} with compat='inpo-release': nodes are whole times apart")
        return cls(schedule, steps)

    @property
    def stride(self) -> int:
        """Distance of two nodes, in training times."""
        return self.schedule.length // self.steps

    def bucket(self, t: Tensor) -> Tensor:
        """How many nodes lie strictly before t, `[B]` in 1…steps."""
        grid = FIRST_INDEX - self.stride + self.stride * torch.arange(self.steps, device=t.device)
        return (grid[None, :] < t[:, None]).sum(dim=1)

    def nodes(self, t: Tensor, k: Tensor) -> list[Level]:
        """The levels walked through, source first, for walks of k steps (both `[B]`, k falling); the last ones are the grid's, not t."""
        rows = [len(t), *rows_per_node(k)]
        return [self._level(FIRST_INDEX - self.stride + j * self.stride, t[:count]) for j, count in enumerate(rows)]

    def _level(self, index: int, t: Tensor) -> Level:
        times = torch.full_like(t, index)
        inside = self.schedule.at(times.clamp(min=0))
        return Level(inside.alpha, inside.sigma, times)

    def mix(self, j: int, x: Tensor, levels: tuple[Level, Level], draw: Draw) -> StochasticStep:
        """The full direction plus a share of the DDIM variance between the two levels (2010.02502, Eq. 16 with η = 1), in every step."""
        del j
        (alpha_r, sigma_r), (alpha_s, sigma_s) = (level.coefficients(x) for level in levels)
        variance = (sigma_r / sigma_s) ** 2 * (1 - (alpha_s / alpha_r) ** 2)
        return StochasticStep(sigma_s, NOISE_SHARE * variance.clamp(min=0).sqrt() * draw())

    def end(self, step: Step, t: Tensor) -> Step:
        """The latent of the grid's level, though networks and τ then use t."""
        return replace(step, s=self.schedule.at(t))
