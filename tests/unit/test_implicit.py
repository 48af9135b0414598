"""The implicit reward against closed forms: two Gaussian networks whose errors, and whose Euler walks, are known by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from inpo.implicit import ImplicitReward, path_times
from inpo.noising import Forward, Inversion, InversionStep, Noising
from inpo.objectives.pairwise import implicit_margin
from inpo.points import Denoising
from inpo.randomness import PairNoise, seed_for
from inpo.schedule import FlowSchedule, PredictionType, Schedule
from inpo.types import Condition, Denoiser, PairBatch
from inpo.world.gaussian import GaussianDenoiser
from tests.worlds import F64, AffineDenoiser, condition, flow_schedule, gaussian, sd_schedule

KINDS: list[PredictionType] = ["epsilon", "v_prediction", "flow"]
X_0 = torch.tensor([0.8, -1.1], dtype=F64).view(1, 1, 1, 2)
MEAN, STD = np.array([0.5, -0.3]), np.array([0.6, 1.2])
"""Of `gaussian`, the policy; the reference is N(0, 1)."""


def path(kind: PredictionType) -> Schedule:
    return flow_schedule() if kind == "flow" else sd_schedule()


def networks(schedule: Schedule, kind: PredictionType) -> tuple[GaussianDenoiser, GaussianDenoiser]:
    policy = gaussian(schedule, kind)
    standard = GaussianDenoiser.single(schedule, torch.zeros(1, 1, 2, dtype=F64), torch.ones(1, 1, 2, dtype=F64), kind)
    return policy, standard


def reward(noising: Noising, kind: PredictionType = "epsilon", times: int = 10, schedule: Schedule | None = None) -> ImplicitReward:
    return ImplicitReward(*networks(schedule or path(kind), kind), noising, times)


def answer(kind: PredictionType, x: np.ndarray, at: tuple[float, float], law: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """What the perfect network of N(μ, s²) says at x_t: ε = σ (x − α μ)/(α² s² + σ²) and x_0 = (x − σ ε)/α, in its own kind."""
    (alpha, sigma), (mean, std) = at, law
    eps = sigma * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
    x_0 = mean + alpha * std**2 * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
    return {"epsilon": eps, "v_prediction": alpha * eps - sigma * x_0, "flow": eps - x_0}[kind]


def gain(kind: PredictionType, x: np.ndarray, at: tuple[float, float]) -> float:
    """R − L at x_t, with the noise that takes x_0 there as the target's."""
    (alpha, sigma), x_0 = at, X_0.numpy().ravel()
    tau = (x - alpha * x_0) / sigma
    target = {"epsilon": tau, "v_prediction": alpha * tau - sigma * x_0, "flow": tau - x_0}[kind]
    errors = [np.mean((target - answer(kind, x, at, law)) ** 2) for law in ((np.zeros(2), np.ones(2)), (MEAN, STD))]
    return float(errors[0] - errors[1])


def level(schedule: Schedule, t: float) -> tuple[float, float]:
    """(α, σ), from the path's own formula for flow and from the table for Stable Diffusion."""
    if isinstance(schedule, FlowSchedule):
        return 1 - t, t
    squared = float(schedule.alphas_cumprod[round(t)])  # type: ignore[attr-defined]
    return squared**0.5, (1 - squared) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_on_forward_noise_it_is_what_the_formulas_say(kind: PredictionType) -> None:
    """x_t = α x_0 + σ ε with each time's own ε: both errors are polynomials in x_t. To 1e-12 in fp64, for every kind."""
    judge = reward(Forward(), kind)
    noise = PairNoise(seed_for("implicit reward"), 0, tuple(range(10))).normal("forward/win", X_0.expand(10, -1, -1, -1)).numpy()
    expected = []
    for t, eps in zip(judge.t.tolist(), noise, strict=True):
        at = level(judge.policy.schedule, t)
        expected.append(gain(kind, at[0] * X_0.numpy().ravel() + at[1] * eps.ravel(), at))
    assert judge.by_time(X_0, condition(1)).numpy() == pytest.approx(np.array(expected), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_inverted_path_it_is_what_the_formulas_say(kind: PredictionType) -> None:
    """Euler's walk of the *policy* written out in x̄ = x/α and ς = σ/α (flow: in t), then the errors. To 1e-12 in fp64."""
    judge = reward(Inversion(inversion_steps=5), kind)
    schedule, expected = judge.policy.schedule, []
    span = 1.0 if kind == "flow" else 1000.0
    for t in judge.t.tolist():
        x, r = X_0.numpy().ravel(), (1.0, 0.0)
        asked = (1.0, 0.0) if kind == "flow" else level(schedule, 0)
        # The network is told its smallest time at the clean node, and answers as if it stood there.
        for left in range(int(np.ceil(t * 5 / span - 1e-9)) - 1, -1, -1):
            s = level(schedule, t - left * span / 5)
            said = answer(kind, x, asked, (MEAN, STD))
            eps = {"epsilon": said, "v_prediction": r[1] * x + r[0] * said, "flow": x + r[0] * said}[kind]
            x_0 = (x - r[1] * eps) / r[0]
            x, r, asked = s[0] * x_0 + s[1] * eps, s, s
        expected.append(gain(kind, x, r))
    assert judge.by_time(X_0, condition(1)).numpy() == pytest.approx(np.array(expected), abs=1e-12)


def test_a_fine_walk_gives_the_reward_of_the_exact_trajectory() -> None:
    """x_t = α μ + √(α² s² + σ²)/s (x_0 − μ) is the trajectory through x_0: r̂ in closed form, and to 1e-6 after a second-order walk.

    On the flow, whose network is asked at time 0 itself: one of discrete times knows no level below σ_0, which no solver mends.
    """
    judge = reward(Inversion(inversion_steps=1000, order=2), "flow")
    expected = []
    for t in judge.t.tolist():
        alpha, sigma = at = 1 - t, t
        spread = np.sqrt(alpha**2 * STD**2 + sigma**2)
        expected.append(gain("flow", alpha * MEAN + spread / STD * (X_0.numpy().ravel() - MEAN), at))
    assert judge.by_time(X_0, condition(1)).numpy() == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize("noising", [Forward(), Inversion(), Inversion(eta=0.5), Inversion(inverter="reference"), InversionStep()])
def test_a_policy_that_is_its_reference_rewards_nothing(noising: Noising) -> None:
    """Exactly 0 at every time."""
    policy = gaussian(sd_schedule())
    assert torch.equal(ImplicitReward(policy, policy, noising).by_time(X_0, condition(1)), torch.zeros(10, dtype=F64))


@pytest.mark.parametrize("noising", [Forward(), Inversion()])
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_policy_was_drawn_to_is_rewarded(kind: PredictionType, noising: Noising) -> None:
    """The policy is the law around w, the reference around 0: r̂_w > r̂_l at every time for l = −w.

    g is linear in x_0 but for a term that is the same for both, the noise's: it cancels, because all pictures share it. On the
    deterministic path there is no such term, and w gains where l loses.
    """
    schedule = path(kind)
    w, narrow = torch.ones(1, 1, 2, dtype=F64), torch.full((1, 1, 2), 0.7, dtype=F64)
    policy, reference = (GaussianDenoiser.single(schedule, mean, narrow, kind) for mean in (w, 0 * w))
    win, lose = (ImplicitReward(policy, reference, noising).by_time(x[None], condition(1)) for x in (w, -w))
    assert bool((win > lose).all())
    assert isinstance(noising, Forward) or bool((win > 0).all() and (lose < 0).all())


@pytest.mark.parametrize("noising", [Forward(), Inversion(), Inversion(inverter="reference"), InversionStep()])
@pytest.mark.parametrize("kind", KINDS)
def test_a_difference_of_rewards_is_the_margin_of_the_loss(kind: PredictionType, noising: Noising) -> None:
    """r̂_w − r̂_l = 2u/β (M8) at the same times and points, with the margin that the objectives themselves compute."""
    judge, beta = reward(noising, kind), 500.0
    win, lose = X_0, X_0.flip(-1)
    rows = PairBatch(win.expand(10, -1, -1, -1), lose.expand(10, -1, -1, -1), condition(10), torch.ones(10), ("",) * 10)
    noise = PairNoise(seed_for("implicit reward"), 0, tuple(range(10)))
    walker = judge.reference if noising.inverter == "reference" else judge.policy
    points = noising(walker, rows, judge.t, noise, lose=True, batch_pairs=10)
    both, told = points.both()
    sides = points.split(Denoising(both.target, *(network(both.x_t, both.t, told) for network in (judge.policy, judge.reference))))
    assert sides[1] is not None
    gap = judge.by_time(win, condition(1)) - judge.by_time(lose, condition(1))
    assert gap.numpy() == pytest.approx((2 * implicit_margin(sides[0], sides[1], beta) / beta).numpy(), abs=1e-12)


def test_the_batch_changes_nothing() -> None:
    """Three at a time, one at a time or all at once: the same numbers, for networks that tell time and condition apart."""
    schedule = sd_schedule()
    policy, reference = AffineDenoiser(schedule), gaussian(schedule)
    x_0 = torch.randn(1, 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    for noising in (Forward(), Inversion(inversion_steps=7)):
        judge = ImplicitReward(policy, reference, noising)
        whole = judge.by_time(x_0, condition(1))
        for batch in (1, 3, 50):
            assert torch.allclose(replace(judge, batch=batch).by_time(x_0, condition(1)), whole, rtol=0, atol=1e-13)


@dataclass
class Elsewhere:
    """A network on a device without numbers: nothing that is decided on the way may need them."""

    schedule: Schedule
    prediction_type: PredictionType

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return x_t * t.to(x_t.device).view(-1, 1, 1, 1) + condition.tensors["prompt"].view(-1, 1, 1, 1)


RELEASE = Inversion(compat="inpo-release")
"""Its grid is one of whole times, which a flow has not."""
NOISINGS = (
    Forward(), Inversion(), Inversion(inversion_steps=7), Inversion(eta=0.5), Inversion(order=2), Inversion(times_per_trajectory=3),
    Inversion(t_range=(0.0, 0.5)), InversionStep(), InversionStep(inversion_steps=7), RELEASE,
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "noising"), [(kind, noising) for kind in KINDS for noising in NOISINGS if kind != "flow" or noising is not RELEASE], ids=str
)
def test_times_stay_on_the_cpu(kind: PredictionType, noising: Noising) -> None:
    """Latents on torch's meta device stand for an accelerator: it refuses to meet the CPU's vectors, or to say what its numbers are."""
    network = Elsewhere(path(kind), kind)
    judge = ImplicitReward(network, network, noising)
    points = judge._points(X_0.to("meta"), condition(1).to("meta"))
    assert {each.device.type for each in (points.win.x_t, points.win.target, points.win.tau)} == {"meta"}
    assert points.win.t.device.type == "cpu"
    torch.testing.assert_close(points.win.t, judge.t)


@pytest.mark.parametrize("schedule", [sd_schedule(), flow_schedule()])
@pytest.mark.parametrize("count", [1, 4, 10, 30])
def test_each_part_of_the_path_is_looked_at_in_its_middle(schedule: Schedule, count: int) -> None:
    """One time in each n-th of the path, in order, whatever the path's unit: ⌊1000 (i + ½)/n⌋, or (i + ½)/n."""
    times = path_times(schedule, count)
    assert schedule.bucket(times, count).tolist() == list(range(1, count + 1))
    middles = (np.arange(count) + 0.5) / count
    assert times.numpy() == pytest.approx(middles if isinstance(schedule, FlowSchedule) else np.floor(1000 * middles))


def test_a_method_of_one_part_of_the_path_is_asked_there() -> None:
    """t_range [0.3, 0.5] in four parts: t = 325, 375, 425, 475."""
    assert reward(Forward(t_range=(0.3, 0.5)), times=4).t.tolist() == [325, 375, 425, 475]
    assert reward(Forward(t_range=(0.3, 0.5)), "flow", times=4).t.tolist() == pytest.approx([0.325, 0.375, 0.425, 0.475])


@dataclass
class Spy:
    """Counts the rows that a network is asked for, and remembers the times of the last question."""

    inner: Denoiser
    rows: int = 0

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    @property
    def prediction_type(self) -> PredictionType:
        return self.inner.prediction_type

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.rows += len(t)
        return self.inner(x_t, t, condition)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("noising", "times", "evaluations"), [
    (Forward(), 10, 0), (Inversion(), 10, 10), (Inversion(), 30, 30), (Inversion(), 5, 2 + 4 + 6 + 8 + 10), (Inversion(eta=0.5), 10, 55),
    (Inversion(inversion_steps=5), 10, 10), (Inversion(inversion_steps=7), 7, 28), (Inversion(times_per_trajectory=3), 10, 10),
    (Inversion(t_range=(0.0, 0.5)), 10, 30), (Inversion(inverter="reference"), 10, 10), (InversionStep(), 10, 10),
])  # fmt: skip
def test_what_a_picture_costs(kind: PredictionType, noising: Noising, times: int, evaluations: int) -> None:
    """Two evaluations a time to compare, and the walks: one for each place in a bucket where nothing is drawn on the way, else Σ k(t).

    The nodes of one walk are the points of ten times: 10 in place of 55. Seven steps do not divide 1000 times, but do a flow. At the very
    end of a bucket, as 0.1 and 300 are, a flow's time belongs to the bucket below it, and a whole time to the one above.
    """
    judge = reward(noising, kind, times)
    spies = Spy(judge.policy), Spy(judge.reference)
    counted = replace(judge, policy=spies[0], reference=spies[1])
    found = counted.by_time(X_0, condition(1))
    of_flow = {28: 7, 30: 25 if times == 5 else 30}.get(evaluations, evaluations)
    assert spies[0].rows + spies[1].rows == 2 * times + (of_flow if kind == "flow" else evaluations)
    assert len(found) == times


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "noising", [Inversion(), Inversion(order=2), Inversion(corrector_steps=1), Inversion(inverter="reference"), InversionStep()]
)
@pytest.mark.parametrize("times", [10, 20])
def test_one_walk_for_all_times_changes_nothing(kind: PredictionType, noising: Inversion, times: int) -> None:
    """Against a walk of its own for each time."""
    judge = reward(noising, kind, times)
    assert judge._walks()[1] == times // 10
    single = PairBatch(X_0, None, condition(1), torch.ones(1), ("",))
    walker = judge.reference if noising.inverter == "reference" else judge.policy
    expected = []
    for t in judge.t:
        point = noising(walker, single, t[None], PairNoise(0, 0, (0,)), lose=False, batch_pairs=1).win
        answers = (network(point.x_t, point.t, condition(1)) for network in (judge.policy, judge.reference))
        expected.append(float(Denoising(point.target, *answers).gain))
    assert judge.by_time(X_0, condition(1)).numpy() == pytest.approx(np.array(expected), abs=1e-12)
