"""Noising: where training points come from, and that nothing depends on how pairs are batched (docs/method.md §3, §6.4, §6.7)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inpo import ddim
from inpo.noising import Forward, Inversion, InversionStep, Noising
from inpo.points import NoisedPairs
from inpo.randomness import PairNoise
from inpo.schedule import FlowSchedule, PredictionType, Schedule
from inpo.training.gradient import step_times
from inpo.training.settings import TrainConfig
from inpo.types import Condition, PairBatch
from tests.worlds import F64, AffineDenoiser, ConstantDenoiser, flow_schedule, pairs, sd_schedule

TIMES = torch.tensor([999, 3, 250, 251, 700, 0, 640, 99])
NOISINGS: list[Noising] = [
    Forward(),
    Forward(shared_noise=False),
    Inversion(),
    Inversion(inversion_steps=7),
    Inversion(eta=0.4),
    Inversion(eta=0.4, shared_noise=True),
    Inversion(order=2),
    Inversion(corrector_steps=1),
    Inversion(compat="inpo-release"),
    Inversion(first_eta=1.0),
    Inversion(eta=0.4, first_eta=0.0),
    InversionStep(),
    InversionStep(inversion_steps=7, order=2),
]


def run(noising: Noising, rows: list[int], *, batch_pairs: int = 64, step: int = 5) -> NoisedPairs:
    """The noising of some of eight fixed pairs, each at its own time and position."""
    denoiser = AffineDenoiser(sd_schedule())
    noise = PairNoise(1, step, tuple(range(8)))
    return noising(denoiser, pairs(8)[rows], TIMES[rows], noise[rows], lose=True, batch_pairs=batch_pairs)


@pytest.mark.parametrize("noising", NOISINGS, ids=str)
def test_a_batch_of_eight_is_eight_batches_of_one(noising: Noising) -> None:
    """Each pair has its own t, grid, condition and noise: nothing of the first pair reaches the others."""
    whole = run(noising, list(range(8)))
    for row in range(8):
        one = run(noising, [row])
        for side in ("win", "lose"):
            for name in ("x_t", "target", "tau", "t"):
                torch.testing.assert_close(getattr(getattr(whole, side), name)[row : row + 1], getattr(getattr(one, side), name))


@pytest.mark.parametrize("noising", NOISINGS, ids=str)
@pytest.mark.parametrize("batch_pairs", [1, 3])
def test_group_size_changes_nothing(noising: Noising, batch_pairs: int) -> None:
    whole, cut = run(noising, list(range(8))), run(noising, list(range(8)), batch_pairs=batch_pairs)
    torch.testing.assert_close(cut.win.x_t, whole.win.x_t)
    torch.testing.assert_close(cut.lose.target, whole.lose.target)  # type: ignore[union-attr]


@pytest.mark.parametrize("noising", NOISINGS, ids=str)
def test_tau_takes_x_0_exactly_to_x_t(noising: Noising) -> None:
    """x_t = α_t x_0 + σ_t τ (M5) at the pair's own t, for winner and loser, whatever made x_t."""
    noised, level = run(noising, list(range(8))), sd_schedule().at(TIMES)
    for side, x_0 in ((noised.win, pairs(8).win), (noised.lose, pairs(8).lose)):
        assert side is not None
        alpha, sigma = level.coefficients(x_0)
        torch.testing.assert_close(side.x_t, alpha * x_0 + sigma * side.tau)
        assert side.t.tolist() == TIMES.tolist()


@pytest.mark.parametrize("noising", NOISINGS, ids=str)
def test_noise_depends_on_step_and_position_only(noising: Noising) -> None:
    """The same step twice is bit-identical; another step differs exactly where the noising draws noise."""
    first, again, other = run(noising, [2, 4]), run(noising, [2, 4]), run(noising, [2, 4], step=6)
    assert torch.equal(first.win.x_t, again.win.x_t)
    random = not isinstance(noising, Inversion) or noising.noisy or noising.compat is not None
    assert torch.equal(first.win.x_t, other.win.x_t) is not random


def test_diffusion_dpo_shares_the_noise_and_inpo_does_not_need_any() -> None:
    """Shared: ε_w = ε_l bit for bit. Not shared: different. Inversion gives w and l different τ, as their pictures differ."""
    assert_shared = run(Forward(), [0, 1])
    assert torch.equal(assert_shared.win.tau, assert_shared.lose.tau)  # type: ignore[union-attr]
    for noising in (Forward(shared_noise=False), Inversion()):
        noised = run(noising, [0, 1])
        assert not torch.allclose(noised.win.tau, noised.lose.tau)  # type: ignore[union-attr]


def test_shared_noise_of_a_step_is_one_draw_for_both_sides() -> None:
    """With a network that answers 0 at η = 1, x_t − α x_0 is the injected noise alone: equal for w and l only if shared."""
    denoiser = ConstantDenoiser(sd_schedule(), torch.zeros(1, dtype=F64))
    for shared in (True, False):
        noising = Inversion(eta=1.0, shared_noise=shared)
        noised = noising(denoiser, pairs(2), torch.tensor([250, 640]), PairNoise(0, 0, (0, 1)), lose=True, batch_pairs=8)
        assert torch.allclose(noised.win.tau, noised.lose.tau) is shared  # type: ignore[union-attr]


@pytest.mark.parametrize(("kind", "schedule"), [("epsilon", sd_schedule()), ("v_prediction", sd_schedule()), ("flow", flow_schedule())])
@pytest.mark.parametrize("noising", [Forward(), Inversion()], ids=str)
def test_targets_are_in_the_networks_own_space(noising: Noising, kind: PredictionType, schedule: Schedule) -> None:
    """(M7): ε: τ; v: α τ − σ x_0; u: (x_t − x_0)/t."""
    t = torch.tensor([0.25, 0.9], dtype=F64) if kind == "flow" else torch.tensor([250, 900])
    batch = pairs(2)
    noised = noising(AffineDenoiser(schedule, kind), batch, t, PairNoise(0, 0, (0, 1)), lose=False, batch_pairs=8)
    alpha, sigma = schedule.at(t).coefficients(batch.win)
    expected = {"epsilon": noised.win.tau, "v_prediction": alpha * noised.win.tau - sigma * batch.win}
    torch.testing.assert_close(noised.win.target, expected.get(kind, (noised.win.x_t - batch.win) / t.view(-1, 1, 1, 1)))
    assert noised.lose is None


@pytest.mark.parametrize(("t", "k"), [(0, 1), (99, 1), (100, 2), (250, 3), (999, 10)])
def test_inversion_costs_k_forwards_per_image(t: int, k: int) -> None:
    """k(t) = ⌊tN/T⌋ + 1 for N = 10; two images a pair, so 2k image-forwards; winners alone cost k."""
    for lose, images in ((True, 2), (False, 1)):
        denoiser = AffineDenoiser(sd_schedule())
        Inversion()(denoiser, pairs(1), torch.tensor([t]), PairNoise(0, 0, (0,)), lose=lose, batch_pairs=8)
        assert denoiser.asked == images * k


@pytest.mark.parametrize(
    ("noising", "expected"),
    [
        (Forward(), 0.0),
        (Inversion(), 5.5),
        (Inversion(inversion_steps=5), 3.0),
        (Inversion(order=2), 6.5),
        (Inversion(corrector_steps=1), 11.0),
    ],
    ids=str,
)
def test_the_stated_mean_cost_is_what_is_asked(noising: Noising, expected: float) -> None:
    """(N+1)/2 for Euler, one more for order 2, twice for a corrector; and a count over 1000 times, one a pair, agrees."""
    denoiser, t = AffineDenoiser(sd_schedule()), torch.arange(0, 1000, 4)
    noising(denoiser, pairs(250, (1, 1, 1)), t, PairNoise(0, 0, tuple(range(250))), lose=False, batch_pairs=250)
    assert noising.mean_evaluations(sd_schedule()) == expected
    assert denoiser.asked / 250 == pytest.approx(expected, abs=0.01)


def test_forward_noising_asks_no_network() -> None:
    denoiser = AffineDenoiser(sd_schedule())
    Forward()(denoiser, pairs(8), TIMES, PairNoise(0, 0, tuple(range(8))), lose=True, batch_pairs=8)
    assert denoiser.asked == 0


def test_winner_and_loser_are_asked_under_one_condition() -> None:
    """Winner and loser walk side by side, longest walk first: both see their pair's own condition at every question, till it lands."""
    spy = ConstantDenoiser(sd_schedule(), torch.zeros(1, dtype=F64))
    Inversion()(spy, pairs(3), torch.tensor([150, 290, 50]), PairNoise(0, 0, (0, 1, 2)), lose=True, batch_pairs=8)
    assert [seen[:, 0].tolist() for seen in spy.conditions] == [[1, 1, 0, 0, 2, 2], [1, 1, 0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"inversion_steps": 0}, "inversion_steps"),
        ({"eta": 1.5}, "eta"),
        ({"eta": 0.1, "order": 2}, "eta"),
        ({"eta": 0.1, "corrector_steps": 1}, "eta"),
        ({"shared_noise": True}, "shared_noise"),
        ({"compat": "inpo-release", "eta": 0.1}, "compat"),
        ({"order": 4}, "order"),
        ({"first_eta": 1.5}, "first_eta"),
        ({"first_eta": 0.5, "order": 2}, "eta"),
        ({"compat": "inpo-release", "first_eta": 0.0}, "compat"),
        ({"t_range": (0.5, 0.5)}, "t_range"),
        ({"t_range": (-0.1, 1.0)}, "t_range"),
        ({"times_per_trajectory": 0}, "times_per_trajectory"),
        ({"times_per_trajectory": 11}, "times_per_trajectory"),
        ({"times_per_trajectory": 2, "compat": "inpo-release"}, "compat"),
        ({"times_per_trajectory": 2, "t_range": (0.3, 1.0)}, "t_range"),
    ],
)
def test_combinations_that_cannot_hold_are_refused(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Inversion(**settings).solver  # type: ignore[arg-type]  # noqa: B018


@pytest.mark.parametrize(("kind", "schedule"), [("epsilon", sd_schedule()), ("v_prediction", sd_schedule()), ("flow", flow_schedule())])
def test_a_step_of_the_trajectory_has_its_own_noise_as_target(kind: PredictionType, schedule: Schedule) -> None:
    """Inversion-DPO: x_t is the inversion's, and an ε network's target is what it answered at the node before; v and velocity say the
    same (x̂_0, ε̂) at t (M11)."""
    t = torch.tensor([0.25, 0.9], dtype=F64) if kind == "flow" else torch.tensor([250, 900])
    arguments = (AffineDenoiser(schedule, kind), pairs(2), t, PairNoise(0, 0, (0, 1)))
    whole, step = (noising(*arguments, lose=False, batch_pairs=8).win for noising in (Inversion(), InversionStep()))
    assert torch.equal(step.x_t, whole.x_t)
    assert torch.equal(step.tau, whole.tau)
    level = schedule.at(t)
    before = schedule.at(t - (0.1 if kind == "flow" else 100))
    x_0, eps = ddim.to_x_0_and_eps(kind, step.x_t, step.target, level)
    # One step back along the same line leads to where the network gave that answer.
    x_r = ddim.add_noise(x_0, eps, before)
    asked = AffineDenoiser(schedule, kind)(x_r, before.t, pairs(2).condition)
    torch.testing.assert_close(ddim.to_x_0_and_eps(kind, x_r, asked, before)[1], eps, atol=1e-9, rtol=1e-9)


def test_the_step_is_the_references_unless_told_otherwise() -> None:
    assert InversionStep().inverter == "reference"
    assert InversionStep(inverter="policy").inverter == "policy"


@pytest.mark.parametrize("settings", [{"eta": 0.5}, {"compat": "inpo-release"}], ids=str)
def test_a_noisy_step_has_no_noise_of_its_own(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no noise of its own"):
        InversionStep(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("noising", [Forward(), Inversion(), InversionStep()], ids=str)
def test_single_pictures_have_no_losers(noising: Noising) -> None:
    """Asked for losers that are not there, a noising leaves them out, and the winners are those of pairs."""
    denoiser, whole = AffineDenoiser(sd_schedule()), pairs(8)
    singles = PairBatch(whole.win, None, whole.condition, whole.preference, whole.ids)
    noised = noising(denoiser, singles, TIMES, PairNoise(1, 5, tuple(range(8))), lose=True, batch_pairs=3)
    assert noised.lose is None
    torch.testing.assert_close(noised.win.x_t, run(noising, list(range(8))).win.x_t)


def test_a_first_step_may_be_drawn_while_the_others_are_walked() -> None:
    """With η = 1 in the first step alone, a pair of one step is forward-noised, and a longer walk goes on by (M2) from a noisy node:
    a network that answers 0 leaves x̂_0 = x_n1/α, so that x_t/α_t = x_n1/α_n1."""
    denoiser, batch, t = ConstantDenoiser(sd_schedule(), torch.zeros(1, dtype=F64)), pairs(2), torch.tensor([50, 250])
    noised = Inversion(first_eta=1.0)(denoiser, batch, t, PairNoise(0, 0, (0, 1)), lose=False, batch_pairs=8)
    n = PairNoise(0, 0, (0, 1)).normal("invert/win/0", batch.win)
    alpha, sigma = sd_schedule().at(torch.tensor([50, 50])).coefficients(batch.win)
    first = alpha * batch.win + sigma * n
    torch.testing.assert_close(noised.win.x_t[:1], first[:1])
    torch.testing.assert_close(noised.win.x_t[1], first[1] / alpha[1] * sd_schedule().at(t[1:]).coefficients(batch.win)[0][0])


@pytest.mark.parametrize("noising", [Forward(t_range=(0.3, 0.7)), Inversion(t_range=(0.3, 0.7))], ids=str)
def test_times_may_be_of_a_part_of_the_path(noising: Noising) -> None:
    """A step's times lie in it, stratified over it, of either kind of path; its k are 4 … 7, and so is the stated cost: 5.5."""
    config = TrainConfig(pairs_per_step=40)
    # Whole times are rounded down, by less than one.
    for schedule, low, high, rounding in ((sd_schedule(), 300, 700, 1), (flow_schedule(), 0.3, 0.7, 0)):
        times = step_times(schedule, config, 3, noising.t_range).double()
        assert low <= float(times.min()) <= low + (high - low) / 40 + 1e-9
        assert high - (high - low) / 40 - rounding - 1e-9 <= float(times.max()) <= high
    if noising.inverter:
        assert noising.mean_evaluations(sd_schedule()) == pytest.approx(5.5, abs=0.002)


SHARED = [Inversion(times_per_trajectory=3), Inversion(times_per_trajectory=3, eta=0.4), InversionStep(times_per_trajectory=3)]


@pytest.mark.parametrize("noising", SHARED, ids=str)
def test_points_of_one_walk_are_those_of_walks_of_their_own(noising: Inversion) -> None:
    """Three nodes of one walk are the ends of three walks to their times, for winner and loser: the same latents and targets. One of
    them is at the pair's own t, the others at the same place of other buckets."""
    for schedule, t in ((sd_schedule(), TIMES), (flow_schedule(), torch.linspace(0.03, 1.0, 8, dtype=F64))):
        denoiser, noise = AffineDenoiser(schedule, "flow" if t.is_floating_point() else "epsilon"), PairNoise(1, 5, tuple(range(8)))
        noised = noising(denoiser, pairs(8), t, noise, lose=True, batch_pairs=3)
        assert (len(noised), noised.points_per_pair, noised.preference.shape) == (24, 3, (8,))
        assert noised[slice(4, 8)].condition.tensors["prompt"][:, 0].tolist() == [1, 1, 2, 2]
        times = noised.win.t.view(8, 3)
        torch.testing.assert_close((times - t[:, None]).abs().min(dim=1).values, torch.zeros_like(t))
        assert bool((times.diff(dim=1) > 0).all())
        stride = 100 if schedule.draw(torch.zeros(1)) == 0 else 0.1
        torch.testing.assert_close(((times - t[:, None]) / stride).round().double() * stride, (times - t[:, None]).double())
        for place in range(3):
            alone = noising.at_one_time()(denoiser, pairs(8), times[:, place], noise, lose=True, batch_pairs=8)
            for side in ("win", "lose"):
                for name in ("x_t", "target", "tau"):
                    found = getattr(getattr(noised, side), name)[place::3]
                    torch.testing.assert_close(found, getattr(getattr(alone, side), name), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("m", [2, 4, 10])
def test_times_next_to_a_buckets_edge_share_walks_too(m: int) -> None:
    """In fp32 a flow's t that is moved by whole strides may be rounded over the edge of its bucket: every fp32 neighbour of every k/10,
    and the least t, are walked as many steps as were wanted."""
    edges = torch.arange(0, 11, dtype=torch.float32) / 10
    near = [edges + d for d in (0.0, 1e-7, -1e-7, 1e-6, -1e-6, 2e-6)]
    t = torch.cat([*near, *(torch.nextafter(edges, torch.full_like(edges, end)) for end in (0.0, 1.0))]).clamp(min=1e-7, max=1)
    denoiser, batch = AffineDenoiser(FlowSchedule(), "flow"), pairs(len(t), (1, 1, 1))
    half = PairBatch(batch.win.float(), batch.lose.float(), Condition({"prompt": torch.zeros(len(t), 1)}), batch.preference, batch.ids)  # type: ignore[union-attr]
    noised = Inversion(times_per_trajectory=m)(denoiser, half, t, PairNoise(0, 0, tuple(range(len(t)))), lose=True, batch_pairs=len(t))
    assert len(noised) == m * len(t)
    assert 0 < float(noised.win.t.min()) <= float(noised.win.t.max()) <= 1
    assert bool(noised.win.x_t.isfinite().all())


def test_one_point_a_pair_copies_no_condition() -> None:
    """A text encoder's tokens may take more room than all latents of a step."""
    batch = pairs(8)
    for noising in (Forward(), Inversion()):
        noised = noising(AffineDenoiser(sd_schedule()), batch, TIMES, PairNoise(1, 5, tuple(range(8))), lose=True, batch_pairs=8)
        assert noised.condition is batch.condition


def test_a_step_at_zero_terminal_snr_has_its_noise() -> None:
    """α_T = 0, v-prediction: targets are finite at the last time, of a solver in ς, which is infinite there, too."""
    denoiser = AffineDenoiser(sd_schedule(rescale_betas_zero_snr=True), "v_prediction")
    arguments = (denoiser, pairs(2), torch.tensor([999, 999]), PairNoise(0, 0, (0, 1)))
    for noising in (Inversion(), InversionStep()):
        for solver in ({}, {"order": 2}, {"corrector_steps": 1}):
            found = replace(noising, **solver)(*arguments, lose=True, batch_pairs=8).win
            assert bool(found.target.isfinite().all())
            assert bool(found.x_t.isfinite().all())


@pytest.mark.parametrize("m", [2, 4, 10])
def test_every_bucket_is_as_likely_and_the_cost_is_as_stated(m: int) -> None:
    """Of 2000 pairs with stratified times each of 10 buckets holds m/10, within five standard deviations; the network is asked
    m (N+1)/(m+1) times an image."""
    t, denoiser = torch.arange(0, 1000).repeat(2), AffineDenoiser(sd_schedule())
    noising = Inversion(times_per_trajectory=m)
    noised = noising(denoiser, pairs(2000, (1, 1, 1)), t, PairNoise(0, 0, tuple(range(2000))), lose=False, batch_pairs=2000)
    counts = torch.bincount(sd_schedule().bucket(noised.win.t, 10) - 1, minlength=10)
    assert counts.sum() == 2000 * m
    assert float((counts - 200 * m).abs().max()) <= 5 * (2000 * 0.1 * 0.9) ** 0.5
    assert noising.mean_evaluations(sd_schedule()) == pytest.approx(m * 11 / (m + 1))
    assert denoiser.asked / 2000 == pytest.approx(m * 11 / (m + 1), abs=0.15)


def test_the_released_grid_has_whole_strides() -> None:
    """500 steps of a thousand times are two apart and walk; 501 would be one apart, and start a walk of no step at t = 0."""
    denoiser, t = AffineDenoiser(sd_schedule()), torch.tensor([0, 1, 999])
    noising = Inversion(inversion_steps=500, compat="inpo-release")
    assert noising.mean_evaluations(sd_schedule()) > 1
    assert bool(noising(denoiser, pairs(3), t, PairNoise(0, 0, (0, 1, 2)), lose=True, batch_pairs=8).win.tau.isfinite().all())
    for steps in (501, 2000):
        with pytest.raises(ValueError, match=f"inversion_steps={steps} must be in 1…500 with compat"):
            replace(noising, inversion_steps=steps).mean_evaluations(sd_schedule())


def test_a_shared_walk_needs_whole_strides() -> None:
    """7 does not divide 1000; a flow's path has no such limit."""
    with pytest.raises(ValueError, match="must divide 1000"):
        Inversion(inversion_steps=7, times_per_trajectory=2).mean_evaluations(sd_schedule())
    assert Inversion(inversion_steps=7, times_per_trajectory=2).mean_evaluations(flow_schedule()) == pytest.approx(2 * 8 / 3)
