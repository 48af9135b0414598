"""Rectified flow on Gaussian data, where the trajectory is known: the velocity, its inversion, the order of its solvers, the sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from inpo import ddim
from inpo.ddim import Solver
from inpo.noising import Inversion
from inpo.randomness import PairNoise
from inpo.schedule import FlowSchedule
from inpo.types import Condition, PairBatch
from inpo.world.gaussian import GaussianDenoiser
from tests.worlds import F64, ConstantDenoiser, condition, flow_schedule, gaussian, pairs

STEPS = (10, 20, 40, 80)


def clean(count: int = 64) -> Tensor:
    return gaussian(flow_schedule()).sample(count, torch.Generator().manual_seed(0))


def inverted(x_0: Tensor, t: Tensor, steps: int, solver: Solver) -> Tensor:
    schedule = flow_schedule()
    nodes = [schedule.clean(len(t)), *schedule.inversion_nodes(t, steps)]
    return ddim.invert(gaussian(schedule, "flow"), x_0, nodes, condition(len(t)), solver=solver)


def orders(ends: Sequence[Tensor], truth: Tensor) -> list[float]:
    errors = [float((end - truth).square().mean().sqrt()) for end in ends]
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 1.0])
def test_the_closed_form_moves_with_the_perfect_velocity(t: float) -> None:
    """d/dt of α μ + √(α² s² + t²)/s (x_0 − μ), by central differences of 1e-5 (at t = 1 from below), is E[ε − x_0 | x_t] to 1e-6."""
    denoiser, x_0, h = gaussian(flow_schedule(), "flow"), clean(8), 1e-5
    here = min(t, 1 - h)
    before, now, after = (denoiser.trajectory(x_0, denoiser.schedule.at(torch.full((8,), here + d, dtype=F64))) for d in (-h, 0, h))
    velocity = denoiser(now, torch.full((8,), here, dtype=F64), condition(8))
    torch.testing.assert_close((after - before) / (2 * h), velocity, rtol=0, atol=1e-6)


def test_the_perfect_velocity_is_the_regression_of_noise_less_data() -> None:
    """Least squares of ε − x_0 on x_t, over 400,000 draws of each coordinate, gives its slope and offset, to 5 standard errors (0.01)."""
    denoiser, n = gaussian(flow_schedule(), "flow"), 400_000
    generator = torch.Generator().manual_seed(1)
    x_0, eps = denoiser.sample(n, generator), torch.randn(n, 1, 1, 2, generator=generator, dtype=F64)
    level = denoiser.schedule.at(torch.full((n,), 0.6, dtype=F64))
    x_t, target = ddim.add_noise(x_0, eps, level), eps - x_0
    assert torch.equal(ddim.target("flow", x_0, eps, level), target)
    ends = [denoiser(torch.full((1, 1, 1, 2), x, dtype=F64), torch.tensor([0.6], dtype=F64), condition(1)).flatten() for x in (0.0, 1.0)]
    for i in range(2):
        x, y = x_t[..., i].flatten(), target[..., i].flatten()
        slope = float(((x - x.mean()) * (y - y.mean())).mean() / x.var())
        assert slope == pytest.approx(float(ends[1][i] - ends[0][i]), abs=0.01)
        assert float(y.mean() - slope * x.mean()) == pytest.approx(float(ends[0][i]), abs=0.01)


@pytest.mark.parametrize("t", [0.37, 0.8, 1.0])
@pytest.mark.parametrize(
    ("solver", "low", "high"), [(Solver(), 0.8, 1.2), (Solver(order=2), 1.6, 2.4), (Solver(corrector_steps=1), 1.7, 2.3)], ids=str
)
def test_inversion_converges_to_the_closed_form_with_the_solvers_order(solver: Solver, low: float, high: float, t: float) -> None:
    """The velocity is smooth at t = 0, as σ ~ √t of a VP table is not: Euler's order is 1 to 0.2, the others' 2, N = 10 to 80."""
    x_0, times = clean(), torch.full((64,), t, dtype=F64)
    truth = gaussian(flow_schedule()).trajectory(x_0, flow_schedule().at(times))
    found = orders([inverted(x_0, times, n, solver) for n in STEPS], truth)
    assert all(low <= order <= high for order in found), found


@pytest.mark.parametrize("t", [1e-4, 0.05, 0.1, 0.25, 0.31, 0.999, 1.0])
def test_a_spy_sees_k_questions_and_lands_on_t(t: float) -> None:
    """k = ⌈10 t⌉: the clean node, then every tenth up to t − 1/10; with a constant velocity u, x_t = x_0 + t u to 1e-12."""
    velocity = torch.tensor([[[0.7, -2.0]]], dtype=F64)
    spy = ConstantDenoiser(flow_schedule(), velocity, "flow")
    x_0, times = clean(2), torch.full((2,), t, dtype=F64)
    x_t = ddim.invert(spy, x_0, [spy.schedule.clean(2), *spy.schedule.inversion_nodes(times, 10)], condition(2))
    k = math.ceil(10 * t)
    assert [float(asked[0]) for asked in spy.asked] == pytest.approx([0.0, *(t - (k - j) / 10 for j in range(1, k))])
    torch.testing.assert_close(x_t, x_0 + t * velocity, rtol=0, atol=1e-12)


def test_the_target_of_inpo_is_the_mean_velocity_of_the_walk() -> None:
    """target = (x_t − x_0)/t = τ − x_0 at each pair's own t, winner and loser; at N = 200 the exact path's mean velocity to 0.03."""
    denoiser, t, shape = gaussian(flow_schedule(), "flow"), torch.tensor([0.05, 0.42, 1.0], dtype=F64), (1, 1, 2)
    batch = pairs(3, shape)
    noised = Inversion(inversion_steps=200)(denoiser, batch, t, PairNoise(0, 0, (0, 1, 2)), lose=True, batch_pairs=2)
    for side, x_0 in ((noised.win, batch.win), (noised.lose, batch.lose)):
        assert side is not None
        assert x_0 is not None
        column = t.view(-1, 1, 1, 1)
        torch.testing.assert_close(side.target, (side.x_t - x_0) / column)
        torch.testing.assert_close(side.target, side.tau - x_0)
        torch.testing.assert_close(side.x_t, denoiser.trajectory(x_0, denoiser.schedule.at(t)), rtol=0, atol=0.03)
        times = (torch.arange(500, dtype=F64) + 0.5) / 500
        along = [denoiser(denoiser.trajectory(x_0, denoiser.schedule.at(f * t)), f * t, condition(3)) for f in times]
        torch.testing.assert_close(side.target, torch.stack(along).mean(dim=0), rtol=0, atol=0.03)


@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-4, 1e-5])
def test_a_short_first_step_does_not_blow_rounding_up(gap: float) -> None:
    """A velocity of bf16 and t a little above a multiple of 1/N: second order is nearer to the true τ than Euler, pair by pair."""
    schedule, exact = flow_schedule(), gaussian(flow_schedule(), "flow")

    class Rounded(GaussianDenoiser):
        def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return super().__call__(x_t, t, condition).bfloat16().to(F64)

    x_0, t = clean(), torch.full((64,), 0.8 + gap, dtype=F64)
    nodes = [schedule.clean(64), *schedule.inversion_nodes(t, 10)]
    truth = ddim.implied_noise(x_0, exact.trajectory(x_0, schedule.at(t)), schedule.at(t))
    rounded = Rounded(schedule, "flow", exact.means, exact.stds, exact.weights)

    def worst(solver: Solver) -> float:
        end = ddim.invert(rounded, x_0, nodes, condition(64), solver=solver)
        return float((ddim.implied_noise(x_0, end, schedule.at(t)) - truth).abs().max())

    assert worst(Solver(order=2)) < 0.5 * worst(Solver())


def test_forward_noising_has_the_flows_mean_and_spread() -> None:
    """x_t = (1 − t) x_0 + t ε: the perfect velocity's mean error at t is Var(ε − x_0 | x_t) = s²/((1 − t)² s² + t²)."""
    denoiser, t, n = gaussian(flow_schedule(), "flow"), 0.3, 200_000
    generator = torch.Generator().manual_seed(2)
    x_0, eps = denoiser.sample(n, generator), torch.randn(n, 1, 1, 2, generator=generator, dtype=F64)
    times = torch.full((n,), t, dtype=F64)
    level = denoiser.schedule.at(times)
    error = denoiser(ddim.add_noise(x_0, eps, level), times, condition(n)) - ddim.target("flow", x_0, eps, level)
    s = denoiser.stds[0].square().flatten()
    torch.testing.assert_close(error.square().mean(dim=(0, 1, 2)), s / ((1 - t) ** 2 * s + t**2), rtol=0.02, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sampling_finds_the_data_again(shift: float) -> None:
    """From the closed form at t = 1 the sampler's grid, shifted or not, comes back to x_0, and twice as near with twice the steps."""
    schedule, x_0 = FlowSchedule(shift, dtype=F64), clean()
    denoiser = gaussian(schedule, "flow")
    x_1 = denoiser.trajectory(x_0, schedule.at(torch.ones(64, dtype=F64)))
    ends = [ddim.sample(denoiser, x_1, schedule.sampling_nodes(n, 64), condition(64)) for n in (50, 100, 200)]
    torch.testing.assert_close(ends[-1], x_0, rtol=0, atol=0.05)
    assert all(0.8 <= order <= 1.2 for order in orders(ends, x_0))


def test_a_batch_of_pairs_is_as_many_batches_of_one() -> None:
    """Different t and k in one batch: each pair's points are those that it has alone, to 1e-12."""
    denoiser, t = gaussian(flow_schedule(), "flow"), torch.tensor([0.93, 0.04, 0.5, 0.51], dtype=F64)
    batch, noise = pairs(4, (1, 1, 2)), PairNoise(0, 0, (0, 1, 2, 3))
    together = Inversion()(denoiser, batch, t, noise, lose=True, batch_pairs=4)
    for i in range(4):
        one: PairBatch = batch[[i]]
        alone = Inversion()(denoiser, one, t[i : i + 1], noise[[i]], lose=True, batch_pairs=1)
        for a, b in ((together.win[[i]], alone.win), (together.lose[[i]], alone.lose)):  # type: ignore[index]
            assert b is not None
            torch.testing.assert_close((a.x_t, a.target), (b.x_t, b.target), rtol=0, atol=1e-12)
