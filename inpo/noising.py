"""Where a training point comes from: `Forward` draws the noise, `Inversion` finds the latent that belongs to the image.

The two are ends of one dial, η (M6). A noising is a frozen value: calling it with a network, pairs and their times gives
the points at which policy and reference are then compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from inpo import ddim
from inpo.ddim import Solver, Step, StochasticRule, StochasticStep
from inpo.grid import Grid, LandingGrid
from inpo.points import Noised, NoisedPairs
from inpo.randomness import PairNoise
from inpo.release import ReleaseGrid
from inpo.schedule import WHOLE_PATH, Level, Schedule, Span
from inpo.types import Denoiser, PairBatch

Inverter = Literal["policy", "reference"]


class Noising(Protocol):
    """Pairs and times to training points. `inverter` says whose trajectory is walked; None where no network is asked.

    `t_range`: the part of the path in which the times lie. `points_per_pair`: how many training points each pair gives; the points of
    a pair stand together, in the pairs' order.
    """

    @property
    def inverter(self) -> Inverter | None: ...

    @property
    def t_range(self) -> Span: ...

    @property
    def points_per_pair(self) -> int: ...

    def at_one_time(self) -> Noising:
        """The same, with one training point for each pair: the one at its own time."""

    def mean_evaluations(self, schedule: Schedule) -> float:
        """Network evaluations per image, averaged over the law of t."""

    def __call__(self, denoiser: Denoiser, pairs: PairBatch, t: Tensor, noise: PairNoise, *, lose: bool, batch_pairs: int) -> NoisedPairs:
        """`t`: `[B]`, one time per pair, shared by winner and loser; further points of a pair are at nodes of its own walk.

        `t` lies on the CPU wherever the pairs are, as do levels, k and draws: grids are worked out without waiting for the device, and
        all devices walk the same ones. `lose=False` leaves the losers out; single pictures have none.
        `batch_pairs` bounds how many pairs go through the network together; results do not depend on it. Points are on the device of
        `pairs.win`, even if indexing `pairs` moves rows to another, as the trainer's pairs do.
        """


@dataclass(frozen=True)
class Forward:
    """Forward noising, x_t = α_t x_0 + σ_t ε (M1). `shared_noise`: winner and loser get the same ε, as Diffusion-DPO does.

    `t_range`: the part of the path in which t is drawn. Raises `ValueError` for a range that is none.
    """

    shared_noise: bool = True
    t_range: Span = WHOLE_PATH
    inverter: ClassVar[Inverter | None] = None
    points_per_pair: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_range(self.t_range)

    def at_one_time(self) -> Forward:
        """Itself: it has one point per pair."""
        return self

    def mean_evaluations(self, schedule: Schedule) -> float:
        """0: noise is drawn, not found by the network."""
        del schedule
        return 0.0

    def __call__(self, denoiser: Denoiser, pairs: PairBatch, t: Tensor, noise: PairNoise, *, lose: bool, batch_pairs: int) -> NoisedPairs:
        """See `Noising`. The network is not asked; its schedule and prediction type are."""
        del batch_pairs
        level = denoiser.schedule.at(t)
        win = self._point(denoiser, pairs.win, level, noise.normal("forward/win", pairs.win))
        loser = None
        if lose and pairs.lose is not None:
            eps = noise.normal("forward/win" if self.shared_noise else "forward/lose", pairs.lose)
            loser = self._point(denoiser, pairs.lose, level, eps)
        return NoisedPairs(win, loser, pairs.condition, pairs.preference)

    @staticmethod
    def _point(denoiser: Denoiser, x_0: Tensor, level: Level, eps: Tensor) -> Noised:
        return Noised(ddim.add_noise(x_0, eps, level), level.t, ddim.target(denoiser.prediction_type, x_0, eps, level), eps)


@dataclass(frozen=True)
class Inversion:
    """DDIM inversion along a network's own trajectory, landing exactly on each pair's t (InPO, arXiv:2503.18454; M4, M5).

    `inversion_steps` N: grid of T/N; a pair at t takes k(t) evaluations per image, (N+1)/2 on average. `eta` η: share of the
    forward process mixed in (M6); `shared_noise`: one n for winner and loser. `order`, `corrector_steps`: see `ddim.Solver`.
    `inverter`: whose trajectory; the policy's is the paper's. `compat="inpo-release"`: the released code's grid, which does
    not land on t, and its noise (`inpo.release`). `first_eta`: η of the first step alone, None for the same as `eta`; 1 draws the first
    node's noise and walks the trajectory from there. `t_range`: the part of the path in which t is drawn. `times_per_trajectory` m:
    training points of each pair, at m nodes of one walk. Raises `ValueError` for settings that contradict one another.
    """

    inversion_steps: int = 10
    eta: float = 0.0
    shared_noise: bool = False
    order: int = 1
    corrector_steps: int = 0
    inverter: Inverter = "policy"
    compat: Literal["inpo-release"] | None = None
    first_eta: float | None = None
    t_range: Span = WHOLE_PATH
    times_per_trajectory: int = 1

    def __post_init__(self) -> None:
        if self.inversion_steps < 1:
            raise ValueError(f"inversion_steps={self.inversion_steps} must be at least 1")
        for name in ("eta", "first_eta"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1]: 0 is inversion, 1 the forward process")
        _check_range(self.t_range)
        if self.shared_noise and not self.noisy and self.compat is None:
            raise ValueError("shared_noise=true has no effect at eta=0: set eta, or leave shared_noise out")
        if self.compat and (self.noisy or self.first_eta is not None or not self.solver.plain):
            raise ValueError(f"compat={self.compat!r} fixes eta, order and corrector_steps: leave them out")
        if self.noisy and not self.solver.plain:
            raise ValueError("eta > 0 needs order=1 and corrector_steps=0: slopes of a noisy path have no second order")
        self._check_sharing()

    def _check_sharing(self) -> None:
        if not 1 <= self.times_per_trajectory <= self.inversion_steps:
            raise ValueError(f"times_per_trajectory={self.times_per_trajectory} must be in 1…{self.inversion_steps}, the steps of a walk")
        if self.times_per_trajectory > 1 and (self.compat or self.t_range != WHOLE_PATH):
            raise ValueError("times_per_trajectory > 1 takes nodes of the whole path: leave compat and t_range out")

    @property
    def noisy(self) -> bool:
        """Whether any step is mixed with the forward process."""
        return bool(self.eta or self.first_eta)

    @property
    def solver(self) -> Solver:
        """The integrator that `order` and `corrector_steps` name."""
        return Solver(self.order, self.corrector_steps)

    @property
    def points_per_pair(self) -> int:
        """m."""
        return self.times_per_trajectory

    def at_one_time(self) -> Inversion:
        """m = 1."""
        return replace(self, times_per_trajectory=1)

    def __call__(self, denoiser: Denoiser, pairs: PairBatch, t: Tensor, noise: PairNoise, *, lose: bool, batch_pairs: int) -> NoisedPairs:
        """See `Noising`. Pairs walk together, the longest walks first; each leaves when it has landed. They return in their order."""
        m, k = self.times_per_trajectory, self._grid(denoiser.schedule).bucket(t)
        at = self._training_steps(k, noise)
        end = t if m == 1 else denoiser.schedule.advance(t, at[:, -1] - k, self.inversion_steps)
        order = at[:, -1].argsort(descending=True, stable=True).tolist()
        groups = [order[i : i + batch_pairs] for i in range(0, len(order), batch_pairs)]
        walks = (self._walk(denoiser, pairs[rows], noise[rows], t=end[rows], at=at[rows], lose=lose) for rows in groups)
        done = [[side.to(pairs.win.device) for side in sides] for sides in walks]
        back = (m * torch.tensor(order).argsort()[:, None] + torch.arange(m)).flatten()
        win, *losers = (Noised.cat(parts, back) for parts in zip(*done, strict=True))
        return NoisedPairs(win, losers[0] if losers else None, pairs.condition, pairs.preference, points_per_pair=m)

    def _grid(self, schedule: Schedule) -> Grid:
        if self.compat == "inpo-release":
            return ReleaseGrid.of(schedule, self.inversion_steps)
        return LandingGrid(schedule, self.inversion_steps, self.eta, self.first_eta)

    def mean_evaluations(self, schedule: Schedule) -> float:
        """E over t of what the solver asks in as many steps as the walk takes: (N+1)/2 for Euler, and m (N+1)/(m+1) for m points.

        Raises `ValueError` for a schedule that cannot be walked so.
        """
        m, N = self.times_per_trajectory, self.inversion_steps
        t = schedule.draw(torch.arange(1000, dtype=torch.float64) / 1000, self.t_range)
        k = self._grid(schedule).bucket(t).double()
        if m > 1:
            schedule.advance(t, torch.zeros_like(t), N)
            # The largest of m that are drawn from 1…N without replacement.
            k = torch.tensor(m * (N + 1) / (m + 1), dtype=torch.float64)
        return float(self.solver.evaluations(k).mean())

    def _training_steps(self, k: Tensor, noise: PairNoise) -> Tensor:
        """The steps of each pair's walk that end in a training point, `[B,m]` ascending: k and m − 1 of the others, each as likely."""
        if self.times_per_trajectory == 1:
            return k[:, None]
        keys = noise.normal("invert/times", torch.zeros(len(k), self.inversion_steps, dtype=torch.float64))
        keys.scatter_(1, k[:, None] - 1, torch.inf)
        return keys.topk(self.times_per_trajectory, dim=1).indices.sort(dim=1).values + 1

    def _walk(self, denoiser: Denoiser, pairs: PairBatch, noise: PairNoise, *, t: Tensor, at: Tensor, lose: bool) -> list[Noised]:
        """Training points of winners, then of losers if asked for: m per pair, at the steps `at` `[B,m]` of walks to `t` `[B]`."""
        # Winner and loser of a pair stand together: they share time, grid and condition, and end together.
        both = [pairs.win, pairs.lose] if lose and pairs.lose is not None else [pairs.win]
        x_0, sides = torch.stack(both, dim=1).flatten(0, 1), len(both)
        rows = [row for row in range(len(pairs)) for _ in range(sides)]
        t, at = t[rows], at[rows]
        grid = self._grid(denoiser.schedule)
        nodes, stochastic = grid.nodes(t, at[:, -1]), self._stochastic(grid, noise, sides)
        points, owners = [], []
        steps = ddim.walk(denoiser, x_0, nodes, pairs.condition[rows], solver=self.solver, stochastic=stochastic)
        for j, step in enumerate(steps, start=1):
            here = (at[: len(step.s)] == j).any(dim=1).nonzero().flatten()
            if len(here):
                # Walks that end stand last, and a slice need not take their places to the device.
                ended = step[slice(int(here[0]), len(step.s)) if self.times_per_trajectory == 1 else here]
                points.append(self._points(denoiser, x_0[here], grid.end(ended, t[here])))
                owners.append(here)
        order = torch.cat(owners).argsort(stable=True).view(len(pairs), sides, -1)
        return [Noised.cat(points, order[:, side].flatten()) for side in range(sides)]

    def _stochastic(self, grid: Grid, noise: PairNoise, sides: int) -> StochasticRule | None:
        if not self.noisy and not self.compat:
            return None

        def rule(j: int, x: Tensor, r: Level, s: Level) -> StochasticStep | None:
            def draw() -> Tensor:
                walking = noise[range(len(x) // sides)]
                win = walking.normal(f"invert/win/{j}", x[::sides])
                other = win if self.shared_noise or sides == 1 else walking.normal(f"invert/lose/{j}", x[::sides])
                return torch.stack([win, other][:sides], dim=1).flatten(0, 1)

            return grid.mix(j, x, (r, s), draw)

        return rule

    def _points(self, denoiser: Denoiser, x_0: Tensor, step: Step) -> Noised:
        tau = ddim.implied_noise(x_0, step.x_s, step.s)
        return Noised(step.x_s, step.s.t, ddim.target(denoiser.prediction_type, x_0, tau, step.s), tau)


@dataclass(frozen=True)
class InversionStep(Inversion):
    """A step of the inverted trajectory, with that step's own noise as the target (M11): Inversion-DPO (arXiv:2507.11554). Experimental.

    Where `Inversion` asks the networks at x_t for τ, the mean slope of the whole path, this asks for the slope of the last step, r → t.
    The paper scores every step of a trajectory; here t picks one, without bias over the steps, so the loss is of a step and not of
    their sum. The trajectory is the reference's.
    """

    inverter: Inverter = "reference"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noisy or self.compat:
            raise ValueError("eta and compat add noise to a step, which then has no noise of its own to be a target: leave them out")

    def _points(self, denoiser: Denoiser, x_0: Tensor, step: Step) -> Noised:
        tau = ddim.implied_noise(x_0, step.x_s, step.s)
        return Noised(step.x_s, step.s.t, ddim.target(denoiser.prediction_type, *ddim.step_noise(step), step.s), tau)


def _check_range(t_range: Span) -> None:
    low, high = t_range
    if not 0 <= low < high <= 1:
        raise ValueError(f"t_range={list(t_range)} must be two shares of the path, 0 ≤ low < high ≤ 1, as [0.3, 1.0]")
