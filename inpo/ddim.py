"""One step and what it is made of: `transfer` is the DDIM sampler, DDIM inversion and the flow's Euler step (docs/method.md §2, §3).

Every function is per example: levels are `[B]`, so that each pair has its own time and its own grid. The algebra runs in
the dtype of the latents, fp32 or wider; only the network decides its own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from inpo.schedule import Level, PredictionType, Schedule
from inpo.types import Condition, Denoiser


def to_x_0_and_eps(prediction_type: PredictionType, x_t: Tensor, prediction: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """(x̂_0, ε̂) that a network's prediction stands for at `level` (M3; DDIM, arXiv:2010.02502; v: arXiv:2202.00512, App. D).

    ε-prediction divides by α, so a level with α = 0 (zero terminal SNR) is `ValueError`; x_0-prediction divides by σ
    and is `ValueError` at the clean node. v and velocity never divide.
    """
    alpha, sigma = level.coefficients(x_t)
    if prediction_type == "v_prediction":
        return alpha * x_t - sigma * prediction, sigma * x_t + alpha * prediction
    if prediction_type == "flow":
        return x_t - sigma * prediction, x_t + alpha * prediction
    if prediction_type == "epsilon":
        # Asked of the level, which lies on the CPU: its copy beside the latents would be waited for.
        if bool((level.alpha == 0).any()):
            raise ValueError("alpha_t = 0 with ε-prediction: x_0 cannot be recovered; zero-terminal-SNR checkpoints predict v")
        return (x_t - sigma * prediction) / alpha, prediction
    if bool((level.sigma == 0).any()):
        raise ValueError("x_0-prediction has no ε at the clean node, where sigma = 0")
    return prediction, (x_t - alpha * prediction) / sigma


def target(prediction_type: PredictionType, x_0: Tensor, tau: Tensor, level: Level) -> Tensor:
    """What a network of this kind should predict at x_t = α x_0 + σ τ (M7): τ; α τ − σ x_0; τ − x_0; or x_0."""
    if prediction_type == "epsilon":
        return tau
    if prediction_type == "v_prediction":
        alpha, sigma = level.coefficients(x_0)
        return alpha * tau - sigma * x_0
    return tau - x_0 if prediction_type == "flow" else x_0


def add_noise(x_0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """x_t = α_t x_0 + σ_t ε (M1)."""
    alpha, sigma = level.coefficients(x_0)
    return alpha * x_0 + sigma * eps


def implied_noise(x_0: Tensor, x_t: Tensor, level: Level) -> Tensor:
    """τ = (x_t − α_t x_0)/σ_t (M5): the noise that takes x_0 exactly to x_t."""
    alpha, sigma = level.coefficients(x_0)
    return (x_t - alpha * x_0) / sigma


@dataclass(frozen=True)
class StochasticStep:
    """How a stochastic step departs from DDIM: x_s = α_s x̂_0 + `direction` ε̂ + `noise`; `[B,1,1,1]` and `[B,C,H,W]`."""

    direction: Tensor
    noise: Tensor


StochasticRule = Callable[[int, Tensor, Level, Level], StochasticStep | None]
"""(step, x_r, r, s): how the step from r to s departs from DDIM; None where it does not."""


def transfer(prediction_type: PredictionType, x_r: Tensor, prediction: Tensor, r: Level, s: Level) -> Tensor:
    """x_s = α_s x̂_0(x_r) + σ_s ε̂(x_r) (M2), from level r to level s. To less noise it samples, to more it inverts.

    With x̄ = x/α and ς = σ/α it is x̄_s = x̄_r + (ς_s − ς_r) ε̂, the paper's reparametrised DDIM, and x̂_0 = x̄_r − ς_r ε̂
    is the one-step generator (M3).
    """
    x_0, eps = to_x_0_and_eps(prediction_type, x_r, prediction, r)
    alpha, sigma = s.coefficients(x_r)
    return alpha * x_0 + sigma * eps


def stochastic_transfer(
    prediction_type: PredictionType, x_r: Tensor, prediction: Tensor, levels: tuple[Level, Level], step: StochasticStep
) -> Tensor:
    """`transfer` with a shrunk direction and fresh noise (M6): x_s = α_s x̂_0 + √(σ_s² − ω²) ε̂ + ω n."""
    r, s = levels
    x_0, eps = to_x_0_and_eps(prediction_type, x_r, prediction, r)
    return s.coefficients(x_r)[0] * x_0 + step.direction * eps + step.noise


def eta_step(x: Tensor, r: Level, s: Level, *, eta: float, noise: Tensor) -> StochasticStep:
    """(M6): ω² = η² (σ_s² − (α_s/α_r)² σ_r²), towards more noise. η = 0 is DDIM inversion, η = 1 the forward process."""
    (alpha_r, sigma_r), (alpha_s, sigma_s) = r.coefficients(x), s.coefficients(x)
    omega_squared = eta**2 * (sigma_s**2 - (alpha_s / alpha_r * sigma_r) ** 2).clamp(min=0)
    return StochasticStep((sigma_s**2 - omega_squared).clamp(min=0).sqrt(), omega_squared.sqrt() * noise)


def predict_at(denoiser: Denoiser, x: Tensor, level: Level, condition: Condition) -> Tensor:
    """The network's prediction at a level, for a whole batch."""
    return denoiser(x, level.t.to(x.device), condition)


def sample(denoiser: Denoiser, x_t: Tensor, nodes: Sequence[Level], condition: Condition) -> Tensor:
    """Deterministic sampling from nodes[0] down to nodes[-1] by (M2); `x_t`: `[B,C,H,W]`, one network evaluation a step."""
    for r, s in pairwise(nodes):
        x_t = transfer(denoiser.prediction_type, x_t, predict_at(denoiser, x_t, r, condition), r, s)
    return x_t


@dataclass(frozen=True)
class Step:
    """One step of a walk, for the examples that take it: from x_r at level r to x_s at level s, `[n,C,H,W]`."""

    x_r: Tensor
    x_s: Tensor
    r: Level
    s: Level

    def __getitem__(self, rows: slice | Tensor) -> Step:
        return Step(self.x_r[rows], self.x_s[rows], self.r[rows], self.s[rows])


@torch.no_grad()
def walk(
    denoiser: Denoiser,
    x_0: Tensor,
    nodes: Sequence[Level],
    condition: Condition,
    *,
    solver: Solver | None = None,
    stochastic: StochasticRule | None = None,
) -> Iterator[Step]:
    """The steps from x_0 `[B,C,H,W]` up the deterministic trajectory (M4), each example on its own grid; nodes[0] is the clean node.

    A node has a row for each example that reaches it, and examples that stop early stand last (`Schedule.inversion_nodes`).
    With the default first-order solver an example of k steps costs k network evaluations: the first at the clean node, the last
    one Δ before t. `stochastic` mixes noise into steps (order 1 only). Raises `ValueError` for a solver that cannot run here.
    """
    solver = solver or Solver()
    solver.require(denoiser.prediction_type, nodes, stochastic=stochastic is not None)
    history, x = _History(denoiser, condition, solver), x_0
    for j, (r, s) in enumerate(pairwise(nodes)):
        x, r = x[: len(s)], r[: len(s)]
        prediction = history.prediction(x, r, s)
        added = None if stochastic is None else stochastic(j, x, r, s)
        kind = history.kind
        there = transfer(kind, x, prediction, r, s) if added is None else stochastic_transfer(kind, x, prediction, (r, s), added)
        yield Step(x, there, r, s)
        x = there


def invert(
    denoiser: Denoiser,
    x_0: Tensor,
    nodes: Sequence[Level],
    condition: Condition,
    *,
    solver: Solver | None = None,
    stochastic: StochasticRule | None = None,
) -> Tensor:
    """x_t `[B,C,H,W]` of each example: the end of its `walk` (M4)."""
    x, arrived = x_0, []
    for step in walk(denoiser, x_0, nodes, condition, solver=solver, stochastic=stochastic):
        arrived.append(x[len(step.s) :])
        x = step.x_s
    return torch.cat([x, *reversed(arrived)])


def step_noise(step: Step) -> tuple[Tensor, Tensor]:
    """(x̂_0, ε̂) of a deterministic step from its two ends alone (M11): the only ones with which (M2) leads from x_r to x_s.

    Raises `ValueError` for two levels of one signal-to-noise ratio, between which there is no step.
    """
    x_r, x_s, r, s = step.x_r, step.x_s, step.r, step.s
    if bool((r.alpha * s.sigma == s.alpha * r.sigma).any()):
        raise ValueError("a step between two levels of one signal-to-noise ratio has no noise of its own")
    (alpha_r, sigma_r), (alpha_s, sigma_s) = r.coefficients(x_r), s.coefficients(x_s)
    determinant = alpha_r * sigma_s - alpha_s * sigma_r
    return (sigma_s * x_r - sigma_r * x_s) / determinant, (alpha_r * x_s - alpha_s * x_r) / determinant


MAX_RATIO = 10.0
"""The largest ρ of order 2. After a first step (t mod T/N) of almost no length, the difference of two slopes is rounding alone, and ρ
would blow it up; so would a last step that ends at α = 0. Beyond it a step tends to Euler's: one of a walk, or two; the order stays 2."""


@dataclass(frozen=True)
class Solver:
    """How the trajectory is integrated. `order` 1: Euler. `order` 2: Adams–Bashforth in ς (flow: in t), started by Heun.

    `corrector_steps`: times that each step is repeated with the mean of the slopes at its two ends (Heun, at the
    *destination's* time). Evaluations for k steps: k; k + 1 for order 2; k (1 + corrector_steps) with a corrector.
    """

    order: int = 1
    corrector_steps: int = 0

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order={self.order} is not an order of the solver; expected 1 or 2")
        if self.corrector_steps < 0:
            raise ValueError(f"corrector_steps={self.corrector_steps} must not be negative")
        if self.order == 2 and self.corrector_steps:
            raise ValueError("order=2 and corrector_steps are two ways to the same end: choose one")

    @property
    def plain(self) -> bool:
        """Whether this is Euler, which alone can be combined with added noise."""
        return self.order == 1 and self.corrector_steps == 0

    def evaluations(self, k: Tensor) -> Tensor:
        """How often a walk of `k` steps asks the network."""
        return k + 1 if self.order == 2 else k * (1 + self.corrector_steps)

    def require(self, prediction_type: PredictionType, nodes: Sequence[Level], *, stochastic: bool) -> None:
        """Raises `ValueError` where a higher order meets noise, or a walk that starts at an α of 0, where ς is infinite."""
        if self.plain:
            return
        if stochastic:
            raise ValueError("added noise (eta > 0) needs order=1 without a corrector: slopes of a noisy path have no second order")
        # A flow's slope is a function of t. The last step may end where ς is infinite: it is not divided by, and `MAX_RATIO` bounds ρ.
        asked = nodes[:0] if prediction_type == "flow" else nodes[:-1]
        if any(bool((node.alpha == 0).any()) for node in asked):
            raise ValueError("a second-order step cannot start at alpha_t = 0, where ς is infinite")


class _History:
    """The slope of each step. A slope is ε̂ as a function of ς = σ/α, and for rectified flow u as a function of t:
    the variable in which the trajectory of an exact network is smoothest, and in which `transfer` is linear."""

    def __init__(self, denoiser: Denoiser, condition: Condition, solver: Solver) -> None:
        self.denoiser, self.condition, self.solver = denoiser, condition, solver
        self.previous: tuple[Tensor, Level] | None = None
        # Euler uses the prediction as it is: no conversion, so v at α = 0 stays exact.
        self.kind: PredictionType = denoiser.prediction_type if solver.plain or denoiser.prediction_type == "flow" else "epsilon"

    def prediction(self, x: Tensor, r: Level, s: Level) -> Tensor:
        slope = self._slope(x, r)
        if self.solver.order == 2:
            mixed = self._heun(x, slope, (r, s)) if self.previous is None else self._extrapolated(slope, x, (r, s))
            self.previous = (slope, r)
            return mixed
        mixed = slope
        for _ in range(self.solver.corrector_steps):
            mixed = self._heun(x, slope, (r, s), predicted=mixed)
        return mixed

    def _slope(self, x: Tensor, level: Level) -> Tensor:
        answer = predict_at(self.denoiser, x, level, self.condition[: len(level)])
        return answer if self.kind == self.denoiser.prediction_type else to_x_0_and_eps(self.denoiser.prediction_type, x, answer, level)[1]

    def _heun(self, x: Tensor, slope: Tensor, levels: tuple[Level, Level], predicted: Tensor | None = None) -> Tensor:
        there = transfer(self.kind, x, slope if predicted is None else predicted, *levels)
        return (slope + self._slope(there, levels[1])) / 2

    def _extrapolated(self, slope: Tensor, x: Tensor, levels: tuple[Level, Level]) -> Tensor:
        """ε̃ = (1 + ρ/2) ε̂_n − (ρ/2) ε̂_{n−1} with ρ the ratio of this step to the last one, in ς, at most `MAX_RATIO`."""
        assert self.previous is not None
        before, q = self.previous[0][: len(x)], self.previous[1][: len(x)]
        at_q, at_r, at_s = (self._variable(level, x) for level in (q, *levels))
        half_ratio = ((at_s - at_r) / (at_r - at_q)).clamp(max=MAX_RATIO) / 2
        return (1 + half_ratio) * slope - half_ratio * before

    def _variable(self, level: Level, x: Tensor) -> Tensor:
        alpha, sigma = level.coefficients(x)
        return sigma if self.kind == "flow" else sigma / alpha


@dataclass(frozen=True)
class Guided:
    """A denoiser with classifier-free guidance (arXiv:2207.12598): u + scale · (c − u), both in one batch of 2B.

    `unconditional` has one row (broadcast) or one per example. At scale 1 the network is asked once, without it.
    """

    denoiser: Denoiser
    unconditional: Condition
    scale: float

    @property
    def schedule(self) -> Schedule:
        """The wrapped denoiser's schedule."""
        return self.denoiser.schedule

    @property
    def prediction_type(self) -> PredictionType:
        """The wrapped denoiser's prediction type: guidance is linear, so it holds for all of them."""
        return self.denoiser.prediction_type

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if self.scale == 1.0:
            return self.denoiser(x_t, t, condition)
        rows = [0] * len(x_t) if len(self.unconditional) == 1 else slice(None)
        both = Condition.cat([self.unconditional[rows], condition])
        unconditional, conditional = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return unconditional + self.scale * (conditional - unconditional)
