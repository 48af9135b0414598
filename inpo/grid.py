"""The grid that an inversion walks: which nodes, how much noise is mixed into each step, and where the walk ends.

`LandingGrid` is the method's: it ends exactly at each pair's own t. `inpo.release.ReleaseGrid` is the released program's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from inpo.ddim import Step, StochasticStep, eta_step
from inpo.schedule import Level, Schedule

Draw = Callable[[], Tensor]
"""Draws the noise of one step, `[n,C,H,W]`; called only if the step takes any."""


class Grid(Protocol):
    """A grid of N steps on one schedule."""

    def bucket(self, t: Tensor) -> Tensor:
        """k(t), `[B]` in 1…N: the number of steps that a walk to each t takes."""

    def nodes(self, t: Tensor, k: Tensor) -> list[Level]:
        """The levels of walks of k steps that end at t (both `[B]`, k falling): the clean node first, the last one at the end."""

    def mix(self, j: int, x: Tensor, levels: tuple[Level, Level], draw: Draw) -> StochasticStep | None:
        """How step `j` (from 0) between two levels departs from DDIM; None if it does not."""

    def end(self, step: Step, t: Tensor) -> Step:
        """A walk's last step with the level at which the networks are then asked, for walks to `t`."""


@dataclass(frozen=True)
class LandingGrid:
    """Nodes T/N apart that end at t itself, so the first step is the short one; η of each step (M6), `first_eta` that of the first."""

    schedule: Schedule
    steps: int
    eta: float
    first_eta: float | None

    def bucket(self, t: Tensor) -> Tensor:
        """See `Schedule.bucket`."""
        return self.schedule.bucket(t, self.steps)

    def nodes(self, t: Tensor, k: Tensor) -> list[Level]:
        """See `Schedule.inversion_nodes`."""
        return [self.schedule.clean(len(t)), *self.schedule.inversion_nodes(t, self.steps, k)]

    def mix(self, j: int, x: Tensor, levels: tuple[Level, Level], draw: Draw) -> StochasticStep | None:
        """A share η of the forward process."""
        eta = self.eta if j > 0 or self.first_eta is None else self.first_eta
        return eta_step(x, *levels, eta=eta, noise=draw()) if eta else None

    def end(self, step: Step, t: Tensor) -> Step:
        """The step as it is: it ends at t."""
        del t
        return step
