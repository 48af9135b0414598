"""Theorems of the one step and of inversion (docs/method.md §6.1, 6.3, 6.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import pytest
import torch

from inpo import ddim
from inpo.ddim import Guided, Solver
from inpo.schedule import Level, PredictionType, Schedule
from inpo.types import Condition
from tests.worlds import (
    F64,
    AffineDenoiser,
    ConstantDenoiser,
    condition,
    fine_schedule,
    flow_schedule,
    gaussian,
    mixture,
    pairs,
    sd_schedule,
)  # fmt: skip

T = torch.tensor([3, 250, 999])


def path(schedule: Schedule, t: torch.Tensor, steps: int) -> list[Level]:
    return [schedule.clean(len(t)), *schedule.inversion_nodes(t, steps)]


def some(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("kind", get_args(PredictionType))
def test_conversions_are_inverses(kind: PredictionType) -> None:
    """The target made from (x_0, ε) converts back to (x_0, ε) at x_t = α x_0 + σ ε (docs/method.md §2), to 1e-12 in fp64."""
    schedule: Schedule = flow_schedule() if kind == "flow" else sd_schedule()
    level = schedule.at(T.double() / 1000 if kind == "flow" else T)
    x_0, eps = some(seed=1), some(seed=2)
    x_t = ddim.add_noise(x_0, eps, level)
    back = ddim.to_x_0_and_eps(kind, x_t, ddim.target(kind, x_0, eps, level), level)
    torch.testing.assert_close(back[0], x_0, rtol=0, atol=1e-11)
    torch.testing.assert_close(back[1], eps, rtol=0, atol=1e-11)
    torch.testing.assert_close(ddim.implied_noise(x_0, x_t, level), eps, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", get_args(PredictionType))
def test_transfer_there_and_back_is_the_identity_with_the_true_noise(kind: PredictionType) -> None:
    """(M2) with the true ε takes x_r to x_s exactly, and back."""
    schedule: Schedule = flow_schedule() if kind == "flow" else sd_schedule()
    r, s = (schedule.at(t.double() / 1000 if kind == "flow" else t) for t in (T, torch.tensor([700, 10, 500])))
    x_0, eps = some(seed=1), some(seed=2)
    x_r, x_s = ddim.add_noise(x_0, eps, r), ddim.add_noise(x_0, eps, s)
    torch.testing.assert_close(ddim.transfer(kind, x_r, ddim.target(kind, x_0, eps, r), r, s), x_s, rtol=0, atol=1e-11)
    torch.testing.assert_close(ddim.transfer(kind, x_s, ddim.target(kind, x_0, eps, s), s, r), x_r, rtol=0, atol=1e-11)


def test_transfer_is_the_reparametrised_ddim() -> None:
    """(M2) in x̄ = x/α and ς = σ/α: x̄_s = x̄_r + (ς_s − ς_r) ε̂, for any ε̂."""
    schedule = sd_schedule()
    r, s, x, eps = schedule.at(T), schedule.at(T.flip(0)), some(), some(seed=5)
    (alpha_r, sigma_r), (alpha_s, sigma_s) = r.coefficients(x), s.coefficients(x)
    expected = alpha_s * (x / alpha_r + (sigma_s / alpha_s - sigma_r / alpha_r) * eps)
    torch.testing.assert_close(ddim.transfer("epsilon", x, eps, r, s), expected, rtol=0, atol=1e-12)


def test_flow_transfer_is_the_euler_step() -> None:
    """x_s = x_r + (s − r) u for rectified flow."""
    schedule = flow_schedule()
    r, s = schedule.at(torch.tensor([0.1, 0.5, 1.0], dtype=F64)), schedule.at(torch.tensor([0.4, 0.2, 0.9], dtype=F64))
    x, u = some(), some(seed=4)
    torch.testing.assert_close(ddim.transfer("flow", x, u, r, s), x + (s.t - r.t).view(-1, 1, 1, 1) * u, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("schedule", "t"), [(sd_schedule(), T), (flow_schedule(), T.double() / 1000)], ids=["vp", "flow"])
@pytest.mark.parametrize("solver", [Solver(), Solver(order=2), Solver(corrector_steps=2)], ids=str)
def test_a_constant_network_lands_exactly_on_t(schedule: Schedule, t: torch.Tensor, solver: Solver) -> None:
    """docs/method.md §6.3: constant ε ⇒ x_t = α_t x_0 + σ_t ε to 1e-12 and τ = ε, for every solver; for flow u = ε − x_0 is constant."""
    for i in range(len(t)):
        one, x_0, eps = t[i : i + 1], some(1, seed=i), some(1, seed=9)
        flow = isinstance(schedule, type(flow_schedule()))
        denoiser = ConstantDenoiser(schedule, eps - x_0 if flow else eps, "flow" if flow else "epsilon")
        x_t = ddim.invert(denoiser, x_0, path(schedule, one, 10), condition(1), solver=solver)
        torch.testing.assert_close(x_t, ddim.add_noise(x_0, eps, schedule.at(one)), rtol=0, atol=1e-12)


def test_a_spy_sees_k_questions_and_the_last_one_stride_before_t() -> None:
    """t = 250, N = 10: asked at the clean node (index 0), 50 and 150: k = 3 questions, the last at t − Δ = 150, none at 250."""
    spy = ConstantDenoiser(sd_schedule(), torch.zeros(1, dtype=F64))
    ddim.invert(spy, some(2), path(spy.schedule, torch.tensor([250, 217]), 10), condition(2))
    assert [t.tolist() for t in spy.asked] == [[0, 0], [50, 17], [150, 117]]


@pytest.mark.parametrize(
    ("solver", "questions"), [(Solver(), 3), (Solver(order=2), 4), (Solver(corrector_steps=1), 6), (Solver(corrector_steps=2), 9)]
)
def test_solvers_ask_as_often_as_they_say(solver: Solver, questions: int) -> None:
    """k; k + 1 for order 2 (Heun's start); k (1 + corrector_steps)."""
    spy = ConstantDenoiser(sd_schedule(), torch.zeros(1, dtype=F64))
    ddim.invert(spy, some(1), path(spy.schedule, torch.tensor([250]), 10), condition(1), solver=solver)
    assert len(spy.asked) == questions


def test_the_corrector_asks_at_the_destination() -> None:
    """Heun's second slope is taken at (x̃_s, s); at the source's time it would gain nothing."""
    spy = ConstantDenoiser(sd_schedule(), torch.zeros(1, dtype=F64))
    ddim.invert(spy, some(1), path(spy.schedule, torch.tensor([150]), 10), condition(1), solver=Solver(corrector_steps=1))
    assert [int(t) for t in spy.asked] == [0, 50, 50, 150]


def errors_and_orders(
    denoiser: object, solver: Solver, truth: torch.Tensor | None, steps: Sequence[int]
) -> tuple[list[float], list[float]]:
    schedule, t = denoiser.schedule, torch.full((64,), 60_700)  # type: ignore[attr-defined]
    x_0 = denoiser.sample(64, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    if truth is None:
        truth = denoiser.trajectory(x_0, schedule.at(t))  # type: ignore[attr-defined]
    ends = [ddim.invert(denoiser, x_0, path(schedule, t, n), condition(64), solver=solver) for n in steps]  # type: ignore[arg-type]
    errors = [float((end - truth).square().mean().sqrt()) for end in ends]
    return errors, [math.log(a / b) / math.log(n / m) for a, b, m, n in zip(errors, errors[1:], steps, steps[1:], strict=False)]


def test_euler_inversion_converges_to_the_closed_form_with_its_order() -> None:
    """On a Gaussian the end point is known. σ ~ √t at 0 makes Euler's order a little less than 1: each within [0.5, 1.1]."""
    errors, orders = errors_and_orders(gaussian(fine_schedule()), Solver(), None, (5, 10, 20, 40, 80))
    assert errors[-1] < 0.03
    assert all(0.5 <= order <= 1.1 for order in orders), orders


def test_euler_inversion_converges_on_a_mixture() -> None:
    """A mixture has no closed trajectory: the truth is 2000 corrected steps. Order within [0.5, 1.1] (docs/method.md §6.3)."""
    denoiser = mixture(fine_schedule())
    x_0 = denoiser.sample(64, torch.Generator().manual_seed(0))
    nodes = path(denoiser.schedule, torch.full((64,), 60_700), 1000)
    truth = ddim.invert(denoiser, x_0, nodes, condition(64), solver=Solver(corrector_steps=1))
    errors, orders = errors_and_orders(denoiser, Solver(), truth, (10, 20, 40))
    assert all(0.5 <= order <= 1.1 for order in orders), (errors, orders)


@pytest.mark.parametrize(("solver", "steps"), [(Solver(order=2), (20, 40, 80)), (Solver(corrector_steps=1), (10, 20, 40))], ids=str)
def test_second_order_solvers_are_of_second_order(solver: Solver, steps: tuple[int, ...]) -> None:
    """On a Gaussian: within [1.5, 2.7] per doubling, and far below Euler's error at the same N."""
    errors, orders = errors_and_orders(gaussian(fine_schedule()), solver, None, steps)
    euler, _ = errors_and_orders(gaussian(fine_schedule()), Solver(), None, steps)
    assert all(1.5 <= order <= 2.7 for order in orders), orders
    assert all(error < reference / 3 for error, reference in zip(errors, euler, strict=True))


@pytest.mark.parametrize("solver", [Solver(), Solver(order=2), Solver(corrector_steps=1)], ids=str)
def test_prediction_types_walk_the_same_path(solver: Solver) -> None:
    """The perfect ε- and v-networks of one Gaussian give the same x_t, except where the clean node is asked at index 0."""
    schedule, t = sd_schedule(), torch.full((8,), 430)
    x_0 = gaussian(schedule).sample(8, torch.Generator().manual_seed(3))
    kinds: tuple[PredictionType, ...] = ("epsilon", "v_prediction")
    ends = [ddim.invert(gaussian(schedule, kind), x_0, path(schedule, t, 50), condition(8), solver=solver) for kind in kinds]
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0.02)


def test_flow_inversion_reaches_the_closed_form() -> None:
    """Rectified flow on a Gaussian: x_t of the closed-form trajectory, to 0.03 at N = 100."""
    denoiser, t = gaussian(flow_schedule(), "flow"), torch.full((16,), 0.8, dtype=F64)
    x_0 = denoiser.sample(16, torch.Generator().manual_seed(2))
    x_t = ddim.invert(denoiser, x_0, path(denoiser.schedule, t, 100), condition(16))
    torch.testing.assert_close(x_t, denoiser.trajectory(x_0, denoiser.schedule.at(t)), rtol=0, atol=0.03)


def test_v_prediction_lands_where_alpha_is_zero() -> None:
    """Zero terminal SNR: t = T − 1 has α = 0; v never divides by it, and x_T is finite. ε-prediction there is an error."""
    schedule = sd_schedule(rescale_betas_zero_snr=True)
    t, x_0 = torch.tensor([999]), gaussian(schedule).sample(1, torch.Generator().manual_seed(0))
    x_t = ddim.invert(gaussian(schedule, "v_prediction"), x_0, path(schedule, t, 10), condition(1))
    assert bool(x_t.isfinite().all())
    with pytest.raises(ValueError, match="alpha_t = 0"):
        ddim.to_x_0_and_eps("epsilon", x_t, x_t, schedule.at(t))


def test_an_x_0_network_cannot_leave_the_clean_node() -> None:
    """ε is 0/0 there: said, instead of NaN."""
    schedule = sd_schedule()
    with pytest.raises(ValueError, match="clean node"):
        ddim.invert(gaussian(schedule, "sample"), some(1)[:, :1, :1, :2], path(schedule, torch.tensor([500]), 10), condition(1))


def test_eta_one_is_the_forward_process() -> None:
    """(M6) at η = 1 the network drops out: mean α_t x_0 and covariance σ_t² I, whatever ε̂ is. 20,000 walks, 4 standard errors."""
    schedule, n = sd_schedule(), 20_000
    t, x_0 = torch.full((n,), 450), torch.full((n, 1, 1, 2), 0.7, dtype=F64)
    generator = torch.Generator().manual_seed(0)
    wild = ConstantDenoiser(schedule, torch.tensor([[[[37.0, -5.0]]]], dtype=F64))

    def rule(j: int, x: torch.Tensor, r: Level, s: Level) -> ddim.StochasticStep:
        return ddim.eta_step(x_0, r, s, eta=1.0, noise=torch.randn(x_0.shape, generator=generator, dtype=F64))

    x_t = ddim.invert(wild, x_0, path(schedule, t, 10), condition(n), stochastic=rule)
    alpha, sigma = (float(v[0]) for v in (schedule.at(t).alpha, schedule.at(t).sigma))
    flat = x_t.view(n, 2)
    torch.testing.assert_close(flat.mean(0), torch.full((2,), alpha * 0.7, dtype=F64), rtol=0, atol=4 * sigma / n**0.5)
    torch.testing.assert_close(flat.T.cov(), sigma**2 * torch.eye(2, dtype=F64), rtol=0, atol=6 * sigma**2 / n**0.5)


def test_eta_zero_is_the_deterministic_step() -> None:
    """ω = 0: the step is `transfer`, bit for bit the same direction."""
    schedule, x = sd_schedule(), some()
    r, s = schedule.at(torch.tensor([10, 20, 30])), schedule.at(torch.tensor([110, 120, 130]))
    step = ddim.eta_step(x, r, s, eta=0.0, noise=some(seed=8))
    expected = ddim.transfer("epsilon", x, some(seed=3), r, s)
    torch.testing.assert_close(ddim.stochastic_transfer("epsilon", x, some(seed=3), (r, s), step), expected, rtol=0, atol=1e-15)


def test_noise_and_higher_orders_exclude_each_other() -> None:
    schedule = sd_schedule()
    with pytest.raises(ValueError, match="order=1"):
        ddim.invert(
            AffineDenoiser(schedule),
            some(1),
            path(schedule, torch.tensor([250]), 10),
            condition(1),
            solver=Solver(2),
            stochastic=lambda j, x, r, s: None,
        )


@pytest.mark.parametrize("bad", [{"order": 3}, {"corrector_steps": -1}, {"order": 2, "corrector_steps": 1}])
def test_impossible_solvers_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        Solver(**bad)


def test_sampling_undoes_inversion_on_the_same_grid() -> None:
    """Up 400 fine steps and down the same nodes: back at x_0 within the two solvers' error."""
    denoiser, t = gaussian(fine_schedule()), torch.full((4,), 40_000)
    x_0 = denoiser.sample(4, torch.Generator().manual_seed(1))
    nodes = path(denoiser.schedule, t, 1000)
    x_t = ddim.invert(denoiser, x_0, nodes, condition(4))
    torch.testing.assert_close(ddim.sample(denoiser, x_t, nodes[::-1], condition(4)), x_0, rtol=0, atol=0.01)


def test_guidance_is_the_linear_extrapolation_and_free_at_one() -> None:
    """u + 3 (c − u) in one batch of 2B; at scale 1 one forward of B and exactly the conditional answer."""
    denoiser, x, t = AffineDenoiser(sd_schedule()), some(2), torch.tensor([5, 700])
    empty = Condition({"prompt": torch.full((1, 1), -7.0, dtype=F64)})
    c, u = denoiser(x, t, condition(2)), denoiser(x, t, empty[[0, 0]])
    torch.testing.assert_close(Guided(denoiser, empty, 3.0)(x, t, condition(2)), u + 3 * (c - u))
    denoiser.asked = 0
    torch.testing.assert_close(Guided(denoiser, empty, 1.0)(x, t, condition(2)), c, rtol=0, atol=0)
    assert denoiser.asked == 2


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_a_steps_own_noise_is_what_the_network_answered_there(kind: PredictionType) -> None:
    """(M11): from the two ends of each step alone, the (x̂_0, ε̂) that the network gave at its source, for walks of unlike length in
    one batch; the first step of each leaves the clean node."""
    schedule: Schedule = flow_schedule() if kind == "flow" else sd_schedule()
    t = torch.tensor([0.95, 0.5, 0.02], dtype=F64) if kind == "flow" else torch.tensor([950, 500, 20])
    denoiser, nodes = AffineDenoiser(schedule, kind), [schedule.clean(3), *schedule.inversion_nodes(t, 10)]
    steps = list(ddim.walk(denoiser, pairs(3).win, nodes, condition(3)))
    assert [len(step.s) for step in steps] == [3, *[2] * (int(schedule.bucket(t, 10)[1]) - 1), *[1] * (10 - int(schedule.bucket(t, 10)[1]))]
    for step in steps:
        answer = denoiser(step.x_r, step.r.t, condition(3)[: len(step.r)])
        expected = ddim.to_x_0_and_eps(kind, step.x_r, answer, step.r)
        for found, wanted in zip(ddim.step_noise(step), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)
    assert torch.equal(steps[-1].x_s, ddim.invert(denoiser, pairs(3).win, nodes, condition(3))[:1])


def test_no_step_no_noise() -> None:
    level, nothing = sd_schedule().at(torch.tensor([500])), torch.zeros(1, 4, 2, 2, dtype=F64)
    with pytest.raises(ValueError, match="no noise of its own"):
        ddim.step_noise(ddim.Step(nothing, nothing, level, level))
