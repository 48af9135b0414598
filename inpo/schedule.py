"""Noise schedules: t ↦ (α_t, σ_t) with x_t = α_t x_0 + σ_t ε (M1), what networks predict, and the laws and grids of t.

Convention: x_0 is data, t grows with noise. Variance-preserving times (`VPSchedule`) are the integers 0…T−1, rectified
flow's (`FlowSchedule`) are reals in (0, 1]. Index 0 of a VP schedule is *not* clean (σ_0 = 0.029 for Stable Diffusion):
the clean node is a level of its own, α = 1 and σ = 0, at which the network is asked at its smallest time.

Tables stay in fp32 or wider whatever the network runs in: in bf16, 1 − ᾱ_0 is exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "flow", "sample"]
"""What a network predicts, in diffusers' words: ε, v, the velocity of a rectified flow, or x_0. No model that is loaded predicts x_0
("sample"); the mathematics has it, for exact denoisers."""
FLOW_TIME_SCALE = 1000.0
Span = tuple[float, float]
"""A part of the path from data (0) to noise (1), as shares of its length: low and high."""
WHOLE_PATH: Span = (0.0, 1.0)


@dataclass(frozen=True)
class Level:
    """A noise level for each of B examples: `alpha`, `sigma` and the time `t` at which a network is asked there, all `[B]`."""

    alpha: Tensor
    sigma: Tensor
    t: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: slice | Tensor) -> Level:
        return Level(self.alpha[rows], self.sigma[rows], self.t[rows])

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(α, σ) as `[B,1,1,1]` in the dtype of `x`. Raises `TypeError` for half precision, where the algebra loses σ_0."""
        if x.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(f"latents are {x.dtype}: schedule algebra runs in float32 or wider; cast at the network's boundary only")
        alpha, sigma = (value.to(device=x.device, dtype=x.dtype).view(-1, 1, 1, 1) for value in (self.alpha, self.sigma))
        return alpha, sigma


class Schedule(Protocol):
    """A path from data to noise, with the law of t and the nodes of an inversion."""

    def at(self, t: Tensor) -> Level:
        """The level of each time; `t`: `[B]`."""

    def clean(self, count: int) -> Level:
        """The clean node, α = 1 and σ = 0, for `count` examples."""

    def draw(self, uniform: Tensor, span: Span = WHOLE_PATH) -> Tensor:
        """Times `[B]` from numbers in [0, 1), fp64 `[B]`: the law of t, uniform over the path or a part of it."""

    def bucket(self, t: Tensor, steps: int) -> Tensor:
        """k(t), `[B]` in 1…steps: how many network evaluations an inversion that lands on t takes.

        Raises `ValueError` for more steps than the schedule has times.
        """

    def advance(self, t: Tensor, strides: Tensor, steps: int) -> Tensor:
        """t + strides · Δ with Δ = T/steps, `[B]`: the same offset in a noisier bucket.

        Raises `ValueError` if Δ is not a whole number of the schedule's times.
        """

    def inversion_nodes(self, t: Tensor, steps: int, k: Tensor | None = None) -> list[Level]:
        """The nodes n_1, n_2, … of walks that end at `t`, the longest first: n_j has a row for each walk with k ≥ j, and is t if k = j.

        `k`: the number of steps, if the caller knows it; a rounded t next to a bucket's edge may say otherwise. Raises `ValueError` if
        the walks are in another order.
        """

    def sampling_nodes(self, steps: int, count: int) -> list[Level]:
        """From pure noise to the sampler's last node, for `count` examples: `steps` + 1 levels."""

    def network_time(self, t: Tensor) -> Tensor:
        """What the network is shown for t."""


def rows_per_node(k: Tensor) -> list[int]:
    """How many walks have a node n_1, n_2, …, for walks of `k` steps, `[B]`, the longest first: the rows of each node are one block.

    Raises `ValueError` if `k` rises anywhere.
    """
    if bool((k.diff() > 0).any()):
        raise ValueError(f"walks must be sorted by falling number of steps, got {k.tolist()}")
    return [int((k >= j).sum()) for j in range(1, int(k[0]) + 1)]


@dataclass(frozen=True)
class VPSchedule:
    """Variance preserving (M1): α_t = √ᾱ_t, σ_t = √(1 − ᾱ_t) from a table ᾱ of T entries (fp64 `[T]`).

    `final_alpha_cumprod` is ᾱ of the *sampler's* last node (1, or ᾱ_0 as `set_alpha_to_one: false` says); `spacing` and
    `steps_offset` place its nodes as diffusers' DDIMScheduler does. None of the three touches training or inversion.
    """

    alphas_cumprod: Tensor
    final_alpha_cumprod: float = 1.0
    spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: int = 0
    dtype: torch.dtype = torch.float32
    _alpha: Tensor = field(init=False, repr=False, compare=False)
    _sigma: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        table = self.alphas_cumprod.to(torch.float64)
        object.__setattr__(self, "_alpha", table.sqrt().to(self.dtype))
        object.__setattr__(self, "_sigma", (1 - table).sqrt().to(self.dtype))

    @property
    def length(self) -> int:
        """T, the number of training times."""
        return len(self.alphas_cumprod)

    def at(self, t: Tensor) -> Level:
        """The level of each integer time. Raises `IndexError` outside 0…T−1."""
        index = t.cpu().long()
        if bool(((index < 0) | (index >= self.length)).any()):
            raise IndexError(f"times must be in 0…{self.length - 1}, got {index.tolist()}")
        return Level(self._alpha[index].to(t.device), self._sigma[index].to(t.device), t)

    def clean(self, count: int) -> Level:
        """α = 1, σ = 0; the network is asked at index 0."""
        return Level(torch.ones(count, dtype=self.dtype), torch.zeros(count, dtype=self.dtype), torch.zeros(count, dtype=torch.long))

    def draw(self, uniform: Tensor, span: Span = WHOLE_PATH) -> Tensor:
        """⌊u T⌋ with u in [low, high): uniform over 0…T−1, or the times of that part of the path."""
        low, high = span
        return ((low + (high - low) * uniform) * self.length).long().clamp(max=self.length - 1)

    def bucket(self, t: Tensor, steps: int) -> Tensor:
        """k(t) = ⌊t N / T⌋ + 1. Raises `ValueError` outside 1…T steps: nodes closer than one time would fall together."""
        if not 1 <= steps <= self.length:
            raise ValueError(f"inversion steps must be in 1…{self.length}, the number of the model's times, got {steps}")
        return t.long() * steps // self.length + 1

    def advance(self, t: Tensor, strides: Tensor, steps: int) -> Tensor:
        """t + strides · T/N. Raises `ValueError` where N does not divide T."""
        stride, rest = divmod(self.length, steps)
        if rest:
            raise ValueError(f"inversion_steps={steps} must divide {self.length}, the number of the model's times, to share a trajectory")
        return t + strides * stride

    def inversion_nodes(self, t: Tensor, steps: int, k: Tensor | None = None) -> list[Level]:
        """n_j = t − (k − j) T/N, rounded to whole times; the short step is the first, and the last node is t itself."""
        k = self.bucket(t, steps) if k is None else k
        back = torch.tensor([round(i * self.length / steps) for i in range(steps)], device=t.device)
        return [self.at(t[:count] - back[k[:count] - j]) for j, count in enumerate(rows_per_node(k), start=1)]

    def sampling_nodes(self, steps: int, count: int) -> list[Level]:
        """DDIMScheduler's times for this spacing, noisiest first, then the final node. Raises `ValueError` outside 1…T steps."""
        # Each node steps to the next one. diffusers steps by ⌊T/n⌋ from wherever it is: the same with leading spacing, and with trailing
        # where n divides T.
        levels = [self.at(torch.full((count,), t)) for t in self._sampling_times(steps)]
        squares = (self.final_alpha_cumprod, 1 - self.final_alpha_cumprod)
        alpha, sigma = (torch.full((count,), square**0.5, dtype=self.dtype) for square in squares)
        return [*levels, Level(alpha, sigma, torch.zeros(count, dtype=torch.long))]

    def _sampling_times(self, steps: int) -> list[int]:
        if not 1 <= steps <= self.length:
            raise ValueError(f"sampling steps must be in 1…{self.length}, got {steps}")
        if self.spacing == "leading":
            return [i * (self.length // steps) + self.steps_offset for i in reversed(range(steps))]
        if self.spacing == "trailing":
            return [round(self.length - i * self.length / steps) - 1 for i in range(steps)]
        return [round(i * (self.length - 1) / max(1, steps - 1)) for i in reversed(range(steps))]

    def network_time(self, t: Tensor) -> Tensor:
        """The index itself."""
        return t


@dataclass(frozen=True)
class FlowSchedule:
    """Rectified flow (M1): α_t = 1 − t, σ_t = t, t ∈ (0, 1]; networks are shown 1000 t. `shift` bends the sampler's grid (SD3: 3)."""

    shift: float = 1.0
    dtype: torch.dtype = torch.float32

    def at(self, t: Tensor) -> Level:
        """α = 1 − t, σ = t. Raises `ValueError` outside (0, 1]."""
        if bool(((t <= 0) | (t > 1)).any()):
            raise ValueError(f"flow times must be in (0, 1], got {t.tolist()}")
        t = t.to(self.dtype)
        return Level(1 - t, t, t)

    def clean(self, count: int) -> Level:
        """α = 1, σ = 0; the network is asked at time 0."""
        zero = torch.zeros(count, dtype=self.dtype)
        return Level(1 - zero, zero, zero)

    def draw(self, uniform: Tensor, span: Span = WHOLE_PATH) -> Tensor:
        """high − (high − low) u: uniform over (0, 1], or over (low, high]."""
        low, high = span
        return (high - (high - low) * uniform).to(self.dtype)

    def bucket(self, t: Tensor, steps: int) -> Tensor:
        """k(t) = ⌈t N⌉, with a whole multiple of 1/N kept in its own bucket whatever the rounding of t N."""
        return (t.double() * steps - 1e-6).ceil().clamp(1, steps).long()

    def advance(self, t: Tensor, strides: Tensor, steps: int) -> Tensor:
        """t + strides/N, at most 1."""
        return (t + strides.to(t.dtype) / steps).clamp(max=1)

    def inversion_nodes(self, t: Tensor, steps: int, k: Tensor | None = None) -> list[Level]:
        """n_j = t − (k − j)/N; the short step is the first."""
        k = self.bucket(t, steps) if k is None else k
        least = torch.finfo(self.dtype).tiny
        nodes = []
        for j, count in enumerate(rows_per_node(k), start=1):
            time = t[:count] - (k[:count] - j).to(self.dtype) / steps
            nodes.append(self.at(time.clamp(min=least)))
        return nodes

    def sampling_nodes(self, steps: int, count: int) -> list[Level]:
        """FlowMatchEulerDiscreteScheduler's grid: it bends the ends of the training table, then the grid between them again."""
        ends = torch.tensor([1.0, 1 / FLOW_TIME_SCALE], dtype=torch.float64)
        first, last = self._bend(ends).tolist()
        grid = self._bend(torch.linspace(first, last, steps, dtype=torch.float64))
        return [*(self.at(sigma.to(self.dtype).expand(count)) for sigma in grid), self.clean(count)]

    def _bend(self, sigma: Tensor) -> Tensor:
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def network_time(self, t: Tensor) -> Tensor:
        """1000 t."""
        return t * FLOW_TIME_SCALE


def vp_from_config(config: Mapping[str, object], dtype: torch.dtype = torch.float32) -> VPSchedule:
    """The schedule of a diffusers scheduler_config.json (DDIM, PNDM, Euler …, all of which name the same training betas).

    Raises `ValueError` for a `beta_schedule` that is not known.
    """
    betas = _betas(config)
    cumulative = torch.cumprod(1 - betas, dim=0)
    if config.get("rescale_betas_zero_snr"):
        cumulative = zero_terminal_snr(cumulative)
    final = 1.0 if config.get("set_alpha_to_one", True) else float(cumulative[0])
    spacing = config.get("timestep_spacing", "leading")
    if spacing not in ("leading", "trailing", "linspace"):
        raise ValueError(f"timestep_spacing={spacing!r} is not known; expected leading, trailing or linspace")
    return VPSchedule(cumulative, final, spacing, int(str(config.get("steps_offset", 0))), dtype)


def _betas(config: Mapping[str, object]) -> Tensor:
    if config.get("trained_betas") is not None:
        trained = config["trained_betas"]
        if not isinstance(trained, Sequence):
            raise ValueError(f"trained_betas must be a list of numbers, got {trained!r}")
        return torch.tensor(trained, dtype=torch.float64)
    kind, length = config.get("beta_schedule", "linear"), int(str(config.get("num_train_timesteps", 1000)))
    first, last = float(str(config.get("beta_start", 0.0001))), float(str(config.get("beta_end", 0.02)))
    if kind == "linear":
        return torch.linspace(first, last, length, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, length, dtype=torch.float64).square()
    if kind == "squaredcos_cap_v2":
        edges = torch.arange(length + 1, dtype=torch.float64) / length
        signal = torch.cos((edges + 0.008) / 1.008 * torch.pi / 2).square()
        return (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
    raise ValueError(f"beta_schedule={kind!r} is not known; expected linear, scaled_linear or squaredcos_cap_v2")


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """√ᾱ shifted and scaled so that the last entry is 0 and the first stays (arXiv:2305.08891, Algorithm 1)."""
    root = alphas_cumprod.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
