"""Every objective against numbers worked out by hand, with its signs and limits (docs/method.md §6.5–6.7)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from inpo.methods import METHODS
from inpo.objectives import Dmpo, Dpo, Dspo, Ipo, Kto, Mapo, Objective, Sft, Smpo
from inpo.points import Denoising
from tests.worlds import F64

ONE = torch.ones(1, dtype=F64)


def side(error: float, ref_error: float | None, shape: tuple[int, ...] = (1, 4, 2, 2)) -> Denoising:
    """A prediction with a given mean-squared error: target 0, prediction √error everywhere."""
    zero = torch.zeros(shape, dtype=F64)
    return Denoising(zero, zero + error**0.5, None if ref_error is None else zero + ref_error**0.5)


def random_side(count: int, seed: int, *, requires_grad: bool = False) -> Denoising:
    generator = torch.Generator().manual_seed(seed)
    target, prediction, reference = (torch.randn(count, 4, 2, 2, generator=generator, dtype=F64) for _ in range(3))
    return Denoising(target, prediction.requires_grad_(requires_grad), reference)


def test_dpo_by_hand() -> None:
    """L_w = 0.10, L_l = 0.14, R_w = 0.12, R_l = 0.13, β = 100: u = −50 [(0.10 − 0.14) − (0.12 − 0.13)] = −50 · (−0.03) = 1.5.
    The loss is −log σ(1.5) = log(1 + e^−1.5) = 0.2014132779827524."""
    win, lose = side(0.10, 0.12), side(0.14, 0.13)
    assert_close(Dpo(beta=100)(win, lose, ONE), torch.tensor([0.2014132779827524], dtype=F64))
    assert_close(Dpo(beta=100).margin(win, lose), torch.tensor([1.5], dtype=F64))


def test_dpo_of_a_tie_by_hand() -> None:
    """q = ½ at u = 1.5: ½ log(1 + e^−1.5) + ½ log(1 + e^1.5) = ½ · 0.2014132779827524 + ½ · 1.7014132779827524 = 0.9514132779827524."""
    assert_close(Dpo(beta=100)(side(0.10, 0.12), side(0.14, 0.13), ONE / 2), torch.tensor([0.9514132779827524], dtype=F64))


def test_the_error_is_a_mean_over_c_h_w() -> None:
    """The same deviation has the same error in 4×2×2 and in 4×64×64 numbers; a sum would be 1024 times larger, and β with it."""
    small, large = side(0.09, None), side(0.09, None, (1, 4, 64, 64))
    assert_close(small.error, large.error)
    assert_close(small.error, torch.tensor([0.09], dtype=F64))


def test_errors_of_half_precision_predictions_are_taken_in_fp32() -> None:
    """bf16 predictions 1.0 and 1.0078125 differ by 2⁻⁷; in fp32 the error is 2⁻¹⁴ exactly, in a dtype that can hold it."""
    ones = torch.ones(1, 4, 2, 2, dtype=torch.bfloat16)
    error = Denoising(ones, ones * 1.0078125).error
    assert error.dtype == torch.float32
    assert float(error) == 2.0**-14


@pytest.mark.parametrize("beta", [1.0, 2000.0, 5000.0])
@pytest.mark.parametrize("preference", [1.0, 0.5])
def test_identical_policy_and_reference_cost_log_two(beta: float, preference: float) -> None:
    """u = 0 for every pair, so the loss is log 2 for every β and every label: the declared value (docs/method.md §6.5)."""
    same = [Denoising(s.target, s.prediction, s.prediction) for s in (random_side(3, 1), random_side(3, 2))]
    dpo = Dpo(beta)
    assert dpo.at_zero_margin == math.log(2)
    assert_close(dpo(*same, torch.full((3,), preference, dtype=F64)), torch.full((3,), math.log(2), dtype=F64))
    assert dpo.margin(*same).abs().max() == 0


def test_swapping_the_sides_flips_the_margin() -> None:
    """u(w, l) = −u(l, w), and with it the loss of one is the tie-swapped loss of the other (docs/method.md §6.6)."""
    win, lose, dpo = random_side(5, 1), random_side(5, 2), Dpo(beta=3.0)
    assert_close(dpo.margin(win, lose), -dpo.margin(lose, win))
    assert_close(dpo(win, lose, torch.ones(5, dtype=F64)), dpo(lose, win, torch.zeros(5, dtype=F64)))


def test_the_gradient_pulls_winners_in_and_pushes_losers_out() -> None:
    """∂loss/∂L_w > 0 and ∂loss/∂L_l < 0: −(β/2)(1 − σ(u)) in the margin, so descending lowers L_w and raises L_l."""
    win, lose = random_side(4, 1, requires_grad=True), random_side(4, 2, requires_grad=True)
    grads = torch.autograd.grad(Dpo(beta=0.5)(win, lose, torch.ones(4, dtype=F64)).sum(), [win.prediction, lose.prediction])
    assert float((grads[0] * (win.prediction - win.target).detach()).sum()) > 0
    assert float((grads[1] * (lose.prediction - lose.target).detach()).sum()) < 0


def test_the_published_factor_one_half() -> None:
    """At u = 0 the slope of the loss in L_w is (β/2) σ(0) = β/4: 500 for β = 2000 (without the ½ it would be 1000)."""
    x = torch.full((1, 1, 1, 1), 0.3, dtype=F64, requires_grad=True)
    zero = torch.zeros_like(x)
    win = Denoising(zero, x, x.detach())
    (grad,) = torch.autograd.grad(Dpo(beta=2000)(win, Denoising(zero, zero, zero), ONE).sum(), x)
    assert float(grad) == pytest.approx(500 * 2 * 0.3)


def test_sft_is_the_winners_error_alone() -> None:
    """L_w = 0.25 by construction; no losers, no reference, no margin."""
    assert_close(Sft()(side(0.25, None), None, ONE), torch.tensor([0.25], dtype=F64))
    assert Sft().margin(side(0.25, None), None) is None
    assert (Sft().needs.reference, Sft().needs.lose, Sft().needs.ties) == (False, False, False)


EVERY = [Dpo(beta=10.0), Sft(), Ipo(10.0), Smpo(10.0), Dmpo(10.0), Dspo(10.0), Kto(10.0), Mapo(scale=10.0)]


@pytest.mark.parametrize("objective", EVERY, ids=str)
def test_a_batch_of_eight_is_eight_batches_of_one(objective: Objective) -> None:
    """Unreduced and per example (docs/method.md §6.7)."""
    win, lose, preference = random_side(8, 3), random_side(8, 4), torch.linspace(0.5, 1, 8, dtype=F64)
    ones: list[Tensor] = [objective(win[i : i + 1], lose[i : i + 1], preference[i : i + 1]) for i in range(8)]
    assert_close(objective(win, lose, preference), torch.cat(ones))
    assert {type(row.objective) for row in METHODS.values()} == {type(each) for each in EVERY}


def test_saturated_margins_stay_finite() -> None:
    """β = 5000 and errors of order one: the loss is |u|, not infinity, and its gradient is finite."""
    win, lose = random_side(4, 1, requires_grad=True), random_side(4, 2, requires_grad=True)
    loss = Dpo(beta=5000)(win, lose, torch.ones(4, dtype=F64))
    (grad,) = torch.autograd.grad(loss.sum(), win.prediction)
    assert bool(loss.isfinite().all())
    assert bool(grad.isfinite().all())


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_beta_outside_its_range_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        Dpo(beta=beta)


def test_missing_inputs_are_named() -> None:
    """DPO without losers or without a reference says so instead of broadcasting something."""
    with pytest.raises(ValueError, match="losers"):
        Dpo(beta=1.0)(side(0.1, 0.1), None, ONE)
    with pytest.raises(ValueError, match="reference"):
        Dpo(beta=1.0)(side(0.1, None), side(0.1, 0.1), ONE)
