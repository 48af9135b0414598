"""The safeguard: values stay, and the loser's gradient shrinks just so far that the winner gains (docs/method.md §4, M10)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from inpo.objectives import Dmpo, Dpo, Dspo, Ipo, Mapo, Objective, Safeguard
from inpo.points import Denoising
from tests.unit.objectives.test_objectives import F64, random_side


def off_by(*numbers: float) -> Denoising:
    """One example of C·H·W = len(numbers) with g = prediction − target as given."""
    g = torch.tensor(numbers, dtype=F64).view(1, -1, 1, 1)
    return Denoising(torch.full_like(g, 7.0), 7.0 + g, torch.full_like(g, 6.0))


@pytest.mark.parametrize(
    ("win", "lose", "mu", "scale"),
    [
        ((1.0, 0.0), (2.0, 1.0), 0.5, 0.25),
        ((1.0, 0.0), (2.0, 1.0), 0.0, 0.5),
        ((1.0, 0.0), (0.25, 9.0), 0.5, 1.0),
        ((1.0, 0.0), (-2.0, 1.0), 0.5, 1.0),
        ((1.0, 0.0), (0.0, 1.0), 0.5, 1.0),
        ((0.0, 0.0), (2.0, 1.0), 0.5, 1.0),
    ],
)
def test_lambda_by_hand(win: tuple[float, ...], lose: tuple[float, ...], mu: float, scale: float) -> None:
    """(1−μ)‖g_w‖²/⟨g_w, g_l⟩: ½·1/2 = ¼ and 1/2; ½·1/¼ = 2, cut to 1; a loser that pulls the other way, across, or against a winner
    that is already right has ⟨g_w, g_l⟩ ≤ 0: 1."""
    assert_close(Safeguard(mu).scale(off_by(*win), off_by(*lose)), torch.tensor([scale], dtype=F64))


def test_values_stay_bit_for_bit() -> None:
    """Only gradients change: prediction, error and loss are the same numbers."""
    win, lose = random_side(6, 1), random_side(6, 2)
    guarded = Safeguard(0.7)(win, lose)
    assert torch.equal(guarded.prediction, lose.prediction)
    assert torch.equal(guarded.error, lose.error)


@pytest.mark.parametrize("objective", [Dpo(3.0), Dmpo(3.0), Dspo(3.0), Mapo()], ids=lambda objective: type(objective).__name__)
def test_the_losers_gradient_is_scaled_and_the_winners_is_not(objective: Objective) -> None:
    """∂loss/∂ε_l is λ times what it was, per pair, wherever it pushes the loser away; ∂loss/∂ε_w is what it was."""
    win, lose, guard = random_side(6, 1, requires_grad=True), random_side(6, 2, requires_grad=True), Safeguard(0.9)

    def grads(losers: Denoising) -> tuple[Tensor, ...]:
        return torch.autograd.grad(objective(win, losers, torch.ones(6, dtype=F64)).sum(), [win.prediction, lose.prediction])

    plain, guarded = grads(lose), grads(guard(win, lose))
    pushed = (plain[1] * lose.residual).sum(dim=(1, 2, 3)) < 0
    scale = guard.scale(win, lose).where(pushed, 1.0)
    assert 0 < int((scale < 1).sum()) < 6
    assert_close(guarded[0], plain[0])
    assert_close(guarded[1], scale.view(-1, 1, 1, 1) * plain[1])


@pytest.mark.parametrize("objective", [Ipo(1.0), Dmpo(1.0), Dpo(1.0, label_smoothing=0.1)], ids=["ipo", "dmpo", "cdpo"])
def test_a_loss_past_its_target_keeps_what_helps_the_winner(objective: Objective) -> None:
    """g_l = 3 g_w, so λ would be (1 − 0.9)/3. Far past their target these losses ask for a smaller u: a step pulls the loser in and lowers
    L_w by it, as much with the safeguard as without."""
    g = torch.ones(1, 1, 2, 2, dtype=F64)

    def change(mu: float | None) -> float:
        zero = torch.zeros_like(g)
        win, lose = (Denoising(zero, (k * g).requires_grad_(), far * g) for k, far in ((1.0, 30.0), (3.0, 0.0)))
        losers = lose if mu is None else Safeguard(mu)(win, lose)
        step = torch.autograd.grad(objective(win, losers, torch.ones(1, dtype=F64)).sum(), [win.prediction, lose.prediction])
        # Both outputs move together, as g_w and g_l point the same way.
        return -float((win.residual.detach() * (step[0] + step[1])).sum())

    assert change(0.9) == pytest.approx(change(None), rel=1e-12)
    assert change(None) < 0


@pytest.mark.parametrize("mu", [0.0, 0.3, 0.9])
def test_a_step_keeps_the_share_mu_of_the_winners_gain(mu: float) -> None:
    """To first order, descending along g_w − λ g_l lowers L_w by ‖g_w‖² − λ ⟨g_w, g_l⟩ ≥ μ ‖g_w‖², for every pair."""
    win, lose = random_side(50, 1), random_side(50, 2)
    scale = Safeguard(mu).scale(win, lose).view(-1, 1, 1, 1)
    g_w, g_l = win.prediction - win.target, lose.prediction - lose.target
    left = (g_w * (g_w - scale * g_l)).sum(dim=(1, 2, 3))
    assert bool((left >= mu * g_w.square().sum(dim=(1, 2, 3)) - 1e-12).all())


def test_a_batch_of_eight_is_eight_batches_of_one() -> None:
    """λ is per pair; the released program has one for a whole batch."""
    win, lose, guard = random_side(8, 3), random_side(8, 4), Safeguard(0.9)
    assert_close(guard.scale(win, lose), torch.cat([guard.scale(win[i : i + 1], lose[i : i + 1]) for i in range(8)]))


@pytest.mark.parametrize("mu", [-0.1, 1.0, math.nan])
def test_mu_outside_its_range_is_refused(mu: float) -> None:
    with pytest.raises(ValueError, match="mu"):
        Safeguard(mu)
