"""Each paper's loss against numbers worked out by hand, and its signs and limits (docs/method.md §4, §6.6)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from inpo.objectives import Dmpo, Dpo, Dspo, Ipo, Kto, Mapo, Objective, Smpo, gain_baseline
from inpo.objectives.reference_free import bernoulli_weight
from inpo.points import Denoising
from tests.unit.objectives.test_objectives import F64, ONE, random_side, side

WIN, LOSE = side(0.10, 0.12), side(0.14, 0.13)
"""With β = 100 their margin is u = 1.5, as test_dpo_by_hand works out."""


def one(value: float) -> Tensor:
    return torch.tensor([value], dtype=F64)


def test_smoothed_labels_by_hand() -> None:
    """p = 0.1 at u = 1.5: −0.9 log σ(1.5) − 0.1 log σ(−1.5) = 0.9 · 0.2014132780 + 0.1 · 1.7014132780 = 0.3514132780."""
    assert_close(Dpo(beta=100, label_smoothing=0.1)(WIN, LOSE, ONE), one(0.35141327798275246))


@pytest.mark.parametrize(("q", "smoothed", "loss"), [(0.5, 0.5, 0.9514132779827524), (0.8, 0.74, 0.5914132779827524)])
def test_smoothed_labels_of_doubtful_pairs_by_hand(q: float, smoothed: float, loss: float) -> None:
    """p = 0.1 at u = 1.5: q becomes 0.9 q + 0.1 (1 − q). Half a preference stays ½: (0.2014132780 + 1.7014132780)/2; 0.8 becomes
    0.72 + 0.02 = 0.74: 0.74 · 0.2014132780 + 0.26 · 1.7014132780 = 0.5914132780."""
    assert_close(Dpo(beta=100, label_smoothing=0.1)(WIN, LOSE, q * ONE), one(loss))
    assert_close(Dpo(beta=100)(WIN, LOSE, smoothed * ONE), one(loss))


def test_smoothing_has_a_finite_best_margin() -> None:
    """The loss is least at σ(u) = 1 − p, u = log 9 for p = 0.1: it rises on both sides of it."""
    loss = Dpo(beta=2.0, label_smoothing=0.1)
    at = [float(loss(side(1.0, 1.0 + u), side(1.0, 1.0), ONE)) for u in (math.log(9) - 0.2, math.log(9), math.log(9) + 0.2)]
    assert at[1] < min(at[0], at[2])


def test_ipo_by_hand() -> None:
    """u = 1.5: (1.5 − 0.5)² = 1; with q = ¾: ¾ · 1 + ¼ · (1.5 + 0.5)² = 1.75; at u = 0: ¼."""
    assert_close(Ipo(beta=100)(WIN, LOSE, ONE), one(1.0))
    assert_close(Ipo(beta=100)(WIN, LOSE, 0.75 * ONE), one(1.75))


def test_smpo_by_hand() -> None:
    """p = 0.65, γ = 10: γ (2p − 1) u = 10 · 0.3 · 1.5 = 4.5, and log(1 + e^−4.5) = 0.0110477448."""
    assert_close(Smpo(beta=100)(WIN, LOSE, 0.65 * ONE), one(0.011047744848593817))


def test_smpo_is_dpo_where_the_reward_is_sure() -> None:
    """p = 1, γ = 1: −log σ(u). And at p = ½ the pair says nothing: the loss is log 2 and its gradient 0."""
    win, lose = random_side(5, 1, requires_grad=True), random_side(5, 2)
    sure = torch.ones(5, dtype=F64)
    assert_close(Smpo(beta=3.0, gamma=1.0)(win, lose, sure), Dpo(beta=3.0)(win, lose, sure))
    doubtful = Smpo(beta=3.0)(win, lose, sure / 2)
    assert_close(doubtful, torch.full((5,), math.log(2), dtype=F64))
    assert torch.autograd.grad(doubtful.sum(), win.prediction)[0].abs().max() == 0


def test_which_picture_is_called_the_winner_does_not_matter_to_smpo() -> None:
    """(2p − 1) u is the same for (w, l, p) and (l, w, 1 − p): the reward alone orders the pair."""
    win, lose, p = random_side(5, 1), random_side(5, 2), torch.linspace(0.1, 0.9, 5, dtype=F64)
    assert_close(Smpo(beta=3.0)(win, lose, p), Smpo(beta=3.0)(lose, win, 1 - p))


def test_dmpo_by_hand() -> None:
    """p = σ(1.5) = 0.8175744762, a = 0.01: p log(p/0.99) + (1−p) log((1−p)/0.01) = −0.1564500 + 0.5297159 = 0.3732659178."""
    assert_close(Dmpo(beta=100)(WIN, LOSE, ONE), one(0.37326591777500273))


def test_dmpo_is_least_where_it_reaches_its_target() -> None:
    """KL(p ‖ q) ≥ 0 with equality at p = q: u = log(0.99/0.01) = 4.595 for a = 0.01."""
    dmpo, best = Dmpo(beta=2.0), math.log(99)
    assert_close(dmpo(side(1.0, 1.0 + best), side(1.0, 1.0), ONE), one(0.0), atol=1e-12, rtol=0)
    assert dmpo.at_zero_margin == pytest.approx(0.5 * math.log(0.5 / 0.99) + 0.5 * math.log(0.5 / 0.01)) == pytest.approx(1.6145, abs=1e-4)


def test_dmpo_of_other_doubts_by_hand() -> None:
    """a = 0.05, p = σ(1.5): p log(p/0.95) + (1−p) log((1−p)/0.05) = −0.1227342670 + 0.2361168207 = 0.1133825538. It is least at
    u = log 19, and at u = 0 it is ½ log(1/(4 · 0.05 · 0.95)) = 0.8303656034."""
    dmpo, best = Dmpo(beta=100, alpha=0.05), math.log(19)
    assert_close(dmpo(WIN, LOSE, ONE), one(0.11338255378555472))
    assert_close(dmpo(side(1.0, 1.0 + best / 50), side(1.0, 1.0), ONE), one(0.0), atol=1e-12, rtol=0)
    assert dmpo.at_zero_margin == pytest.approx(0.8303656034)


def test_dspo_by_hand() -> None:
    """β = 2: u = −[(0.10 − 0.14) − (0.12 − 0.13)] = 0.03, q = 1 − σ(0.03) = 0.4925005624. The winner is off its target by
    √0.10 = 0.3162277660 and off the reference by √0.10 − √0.12 = −0.0301823955, everywhere, so the loss is
    (0.3162277660 + 2 · 0.4925005624 · 0.0301823955)² = 0.3459574596² = 0.1196865638."""
    assert_close(Dspo(beta=2.0)(WIN, LOSE, ONE), one(0.1196865638))


def test_dspo_keeps_the_gradient_of_its_weight() -> None:
    """The losers stand in q alone: were it detached, they would get no gradient. At ε_θ = ε_ref of the winner there is none either."""
    win, lose = random_side(3, 1), random_side(3, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(Dspo(beta=2.0)(win, lose, torch.ones(3, dtype=F64)).sum(), lose.prediction)
    assert float(grad.abs().max()) > 0
    unmoved = Denoising(win.target, win.prediction, win.prediction)
    assert_close(Dspo(beta=2.0)(unmoved, lose, torch.ones(3, dtype=F64)), unmoved.error)


def test_kto_of_single_pictures_by_hand() -> None:
    """g = R − L = 0.12 − 0.10 = 0.02, z = 0.005, β = 100: v = 1.5. Desired: 1 − σ(1.5) = 0.1824255238; undesired: σ(1.5)."""
    assert_close(Kto(beta=100)(WIN, None, ONE, 0.005), one(0.18242552380635635))
    assert_close(Kto(beta=100)(WIN, None, 0 * ONE, 0.005), one(0.8175744761936437))
    weighted = Kto(beta=100, desired_weight=2.0, undesired_weight=3.0)
    assert_close(weighted(WIN, None, ONE, 0.005), one(2 * 0.18242552380635635))
    assert_close(weighted(WIN, None, 0 * ONE, 0.005), one(3 * 0.8175744761936437))


def test_kto_of_a_pair_is_the_mean_of_its_pictures() -> None:
    """The winner desired, the loser (g = 0.13 − 0.14 = −0.01, v = −1.5 at z = 0.005) not: both cost 1 − σ(1.5)."""
    assert_close(Kto(beta=100)(WIN, LOSE, ONE, 0.005), one(0.18242552380635635))
    assert Kto(beta=100).margin(WIN, None) is None
    assert_close(Kto(beta=100).margin(WIN, LOSE), one(1.5))


def test_kto_has_no_factor_one_half() -> None:
    """At g = z the slope in L is λ β σ′(0) = β/4 for one picture, where DPO's is β/4 with its ½ on the difference of two."""
    x = torch.full((1, 1, 1, 1), 0.3, dtype=F64, requires_grad=True)
    picture = Denoising(torch.zeros_like(x), x, x.detach())
    (grad,) = torch.autograd.grad(Kto(beta=1000)(picture, None, ONE).sum(), x)
    assert float(grad) == pytest.approx(250 * 2 * 0.3)


def test_the_baseline_is_the_mean_gain_and_never_negative() -> None:
    """Winners gained 0.03 and losers −0.01: z = 0.01. Where the policy has lost on the whole it is 0."""
    assert gain_baseline([0.03, -0.01]) == pytest.approx(0.01)
    assert gain_baseline([0.02]) == 0.02
    assert gain_baseline([0.01, -0.03]) == 0.0


def test_mapo_by_hand() -> None:
    """L_w = 0.10, L_l = 0.102, s = ½: φ(0.10) = 0.05/(e^0.05 − 1) = 0.9752083247, φ(0.102) = 0.9747167406, T times their difference
    0.4915840488; 0.10 + 0.1 · log(1 + e^−0.4915840488) = 0.10 + 0.1 · 0.4772626762 = 0.1477262676."""
    win, lose = side(0.10, None), side(0.102, None)
    assert_close(Mapo().margin(win, lose), one(0.49158404882498896))
    assert_close(Mapo()(win, lose, ONE), one(0.14772626761622382))


def test_mapo_of_another_snr_by_hand() -> None:
    """s = 1 at the same errors: φ(0.10) = 0.1/(e^0.1 − 1) = 0.9508331945, φ(0.102) = 0.9498668497, T times their difference
    0.9663447781; 0.10 + 0.1 · log(1 + e^−0.9663447781) = 0.10 + 0.1 · 0.3224248947 = 0.1322424895."""
    win, lose, mapo = side(0.10, None), side(0.102, None), Mapo(snr=1.0)
    assert_close(mapo.margin(win, lose), one(0.966344778073891))
    assert_close(mapo(win, lose, ONE), one(0.13224248946709455))


def test_the_weight_of_mapo_is_whole_at_zero() -> None:
    """φ(0) = 1, φ′(0) = −½, without 0/0 in value or gradient; and it falls."""
    x = torch.tensor([0.0, 1e-9, 1e-6, 1e-3, 1.0], dtype=F64, requires_grad=True)
    weight = bernoulli_weight(x)
    (slope,) = torch.autograd.grad(weight.sum(), x)
    assert_close(weight, torch.tensor([1, 1 - 5e-10, 1 - 5e-7, 1 - 5e-4 + 1e-6 / 12, 1 / (math.e - 1)], dtype=F64), atol=1e-12, rtol=0)
    assert_close(slope[:3], torch.full((3,), -0.5, dtype=F64), atol=1e-6, rtol=0)


def test_large_errors_overflow_nowhere() -> None:
    """In fp32 e^x ends at x = 88: φ of an error of 1000 is 0, and so is its slope."""
    x = torch.tensor([178.0, 500.0], requires_grad=True)
    weight = bernoulli_weight(x)
    (slope,) = torch.autograd.grad(weight.sum(), x)
    assert bool(weight.isfinite().all())
    assert bool(slope.isfinite().all())
    assert float(weight.detach().max()) < 1e-6


PAIRWISE: list[Callable[[float], Objective]] = [
    lambda beta: Dpo(beta, label_smoothing=0.1), Ipo, Smpo, Dmpo, Kto, lambda beta: Mapo(beta=0.1, scale=beta),
]  # fmt: skip


@pytest.mark.parametrize("make", PAIRWISE, ids=["cdpo", "ipo", "smpo", "dmpo", "kto", "mapo"])
def test_every_pairwise_loss_pulls_winners_in_and_pushes_losers_out(make: Callable[[float], Objective]) -> None:
    """At the start, policy ≡ reference: descending lowers L_w and raises L_l."""
    win, lose = random_side(4, 1, requires_grad=True), random_side(4, 2, requires_grad=True)
    same = [Denoising(s.target, s.prediction, s.prediction.detach()) for s in (win, lose)]
    grads = torch.autograd.grad(make(0.5)(*same, torch.full((4,), 0.9, dtype=F64)).sum(), [win.prediction, lose.prediction])
    assert float((grads[0] * (win.prediction - win.target).detach()).sum()) > 0
    assert float((grads[1] * (lose.prediction - lose.target).detach()).sum()) < 0


@pytest.mark.parametrize("objective", [Ipo(50.0), Smpo(50.0), Dmpo(50.0), Dmpo(50.0, 0.2), Kto(50.0), Kto(50.0, 2.0, 2.0)], ids=str)
def test_the_declared_value_is_that_of_equal_networks(objective: Objective) -> None:
    """Policy ≡ reference: every pair costs `at_zero_margin`, and its margin is 0 (docs/method.md §6.5)."""
    same = [Denoising(s.target, s.prediction, s.prediction) for s in (random_side(3, 1), random_side(3, 2))]
    assert objective.at_zero_margin is not None
    assert_close(objective(*same, torch.ones(3, dtype=F64)), torch.full((3,), objective.at_zero_margin, dtype=F64))
    margin = objective.margin(*same)
    assert margin is not None
    assert margin.abs().max() == 0


def test_weights_of_their_own_have_no_declared_value() -> None:
    """It would depend on how many pictures are desired; DSPO's and MaPO's depend on the errors."""
    assert (Kto(50.0, 1.0, 2.0).at_zero_margin, Dspo(1.0).at_zero_margin, Mapo().at_zero_margin) == (None, None, None)


EXTREME = [Dpo(5000, 0.1), Ipo(5000), Smpo(5000), Dmpo(5000), Dspo(5000), Kto(5000), Mapo(scale=1e5)]


@pytest.mark.parametrize("objective", EXTREME, ids=lambda objective: type(objective).__name__)
def test_saturated_margins_stay_finite(objective: Objective) -> None:
    """β = 5000 and errors of order one, on either side of 0: losses and gradients are numbers."""
    win, lose = random_side(4, 1, requires_grad=True), random_side(4, 2, requires_grad=True)
    loss = objective(win, lose, torch.ones(4, dtype=F64)) + objective(lose, win, torch.ones(4, dtype=F64))
    for grad in torch.autograd.grad(loss.sum(), [win.prediction, lose.prediction]):
        assert bool(grad.isfinite().all())
    assert bool(loss.isfinite().all())


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Dpo(1.0, label_smoothing=0.5), "label_smoothing"),
        (lambda: Dpo(1.0, label_smoothing=-0.1), "label_smoothing"),
        (lambda: Ipo(0.0), "beta"),
        (lambda: Smpo(1.0, gamma=0.0), "gamma"),
        (lambda: Dmpo(1.0, alpha=0.5), "alpha"),
        (lambda: Dmpo(math.inf), "beta"),
        (lambda: Dspo(-1.0), "beta"),
        (lambda: Kto(1.0, desired_weight=0.0), "desired_weight"),
        (lambda: Kto(1.0, undesired_weight=math.nan), "undesired_weight"),
        (lambda: Mapo(snr=0.0), "snr"),
        (lambda: Mapo(scale=-1.0), "scale"),
    ],
)
def test_numbers_outside_their_range_are_refused(make: Callable[[], Objective], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()


def test_pairwise_losses_ask_for_losers() -> None:
    for objective in (Ipo(1.0), Smpo(1.0), Dmpo(1.0), Dspo(1.0), Mapo()):
        with pytest.raises(ValueError, match="losers"):
            objective(WIN, None, ONE)
