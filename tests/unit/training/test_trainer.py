"""One optimiser step: what it checks before it moves, and what it says after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inpo.errors import InputError, RunFault
from inpo.methods import INPO, METHODS
from inpo.objectives import Dpo
from inpo.points import Denoising
from inpo.training import OptimizerConfig, checks, tally
from inpo.training.stop import Stop
from inpo.training.trainer import Trainer
from inpo.types import Condition, PairBatch
from tests.tiny_denoiser import MemoryLoader, TinyDenoiser, tiny_subject
from tests.training_runs import SETTINGS, moved_subject, settings, trainer

KEYS = [
    "step", "loss", "implicit_accuracy", "margin", "win_error", "lose_error", "ref_win_error", "ref_lose_error", "tau_rms_win",
    "tau_rms_lose", "grad_norm", "lr", "pairs_per_second", "unet_forwards_per_pair", "peak_memory_bytes", "by_bucket",
]  # fmt: skip


def weights(made: Trainer) -> list[Tensor]:
    """Copies of the policy's weights."""
    return [parameter.detach().clone() for parameter in made.weights.values()]


def test_a_line_has_the_keys_of_the_contract() -> None:
    """In its order; every pair is in one bucket, and the step's loss is the mean over the pairs."""
    made = trainer(subject=moved_subject(), use=settings(pairs_per_step=40), name="diffusion-dpo")
    line = made.step_once(1).line
    assert list(line) == KEYS
    buckets = line["by_bucket"]
    assert sum(bucket["pairs"] for bucket in buckets.values()) == 40
    assert math.isclose(sum(bucket["pairs"] * bucket["loss"] for bucket in buckets.values()) / 40, line["loss"])
    squares = sum(bucket["pairs"] * bucket["tau_rms_win"] ** 2 for bucket in buckets.values())
    assert math.isclose(math.sqrt(squares / 40), line["tau_rms_win"])


def test_a_method_without_a_value_says_null() -> None:
    """SFT has no margin, no loser and no reference."""
    line = trainer(name="sft").step_once(0).line
    absent = [key for key in KEYS if line[key] is None]
    assert absent == ["implicit_accuracy", "margin", "lose_error", "ref_win_error", "ref_lose_error", "tau_rms_lose"]
    assert all(bucket["margin"] is None for bucket in line["by_bucket"].values())


def test_before_the_first_step_the_loss_is_log_two() -> None:
    """Policy ≡ reference: every u is 0, which counts as half right."""
    line = trainer().step_once(0).line
    assert math.isclose(line["loss"], math.log(2), rel_tol=1e-6)
    assert (line["implicit_accuracy"], line["margin"]) == (0.5, 0.0)


def test_a_reference_that_differs_is_found_before_the_first_step() -> None:
    """By one weight, moved by 1 %: nothing is trained."""
    subject = tiny_subject()
    with torch.no_grad():
        subject.reference.out.weight[0, 0] *= 1.01
    made = trainer(subject=subject)
    before = weights(made)
    with pytest.raises(RunFault, match=r"policy and reference differ before the first step: max\|R − L\| is"):
        made.step_once(0)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(made), strict=True))
    assert all(parameter.grad is None for parameter in made.weights.values())


def test_later_steps_may_differ() -> None:
    """That is what training is for."""
    assert trainer(subject=moved_subject()).step_once(1).line["margin"] != 0


@dataclass(frozen=True)
class WrongAtZero(Dpo):
    """Declares ln 2, and forgets half of it."""

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor) -> Tensor:
        """Half of DPO's loss."""
        return 0.5 * super().__call__(win, lose, preference)


def test_a_loss_that_is_not_the_declared_one_is_found() -> None:
    """All u are 0 here, so only the loss itself can tell."""
    method = replace(INPO, objective=WrongAtZero(2000.0))
    made = Trainer(tiny_subject(), MemoryLoader(), method=method, settings=SETTINGS, stop=Stop())
    with pytest.raises(RunFault, match=r"the loss of inpo is 0\.346574, but 0\.693147 at u = 0"):
        made.step_once(0)


def test_margins_that_cancel_are_found() -> None:
    """A mean of ln 2 hides them, and so do margins that a small β makes small; the largest gain does not: it may be 1e-5."""
    summary = tally.Summary(
        torch.zeros(10, len(tally.COLUMNS)), torch.ones(10), failed=0, dropped=0, bad_pairs=0, largest_margin=1e-3, largest_gain=0.9e-5,
        forwards=0, signal=0, peak_memory_bytes=0,
    )  # fmt: skip
    checks.check_identity(INPO, summary, loss=math.log(2))
    with pytest.raises(RunFault, match=r"max\|R − L\| is 2e-05 \(max\|u\| 0\.001\), at most 1e-05 is allowed"):
        checks.check_identity(INPO, replace(summary, largest_gain=2e-5), loss=math.log(2))


def test_single_pictures_are_checked_by_their_gains() -> None:
    """They have no margin, and what a gain of 1e-5 is worth in the loss grows with β."""
    summary = tally.Summary(
        torch.zeros(10, len(tally.COLUMNS)), torch.ones(10), failed=0, dropped=0, bad_pairs=0, largest_margin=math.nan, largest_gain=0.9e-5,
        forwards=0, signal=0, peak_memory_bytes=0,
    )  # fmt: skip
    kto = METHODS["diffusion-kto"]
    checks.check_identity(kto, summary, loss=0.4977)
    with pytest.raises(RunFault, match=r"max\|R − L\| is 2e-05"):
        checks.check_identity(kto, replace(summary, largest_gain=2e-5), loss=0.5)


class Dropping(TinyDenoiser):
    """A denoiser with dropout on its input."""

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Deterministic in eval mode only."""
        return super().forward(nn.functional.dropout(x_t, 0.5, self.training), t, condition)


def test_dropout_is_off() -> None:
    """A policy that comes in training mode is still its reference at step 0."""
    policy, reference = Dropping().train(), Dropping().train()
    reference.load_state_dict(policy.state_dict())
    assert trainer(subject=replace(tiny_subject(), policy=policy, reference=reference)).step_once(0).line["margin"] == 0


class Poisoned(MemoryLoader):
    """One pair has a number that is none."""

    value = float("nan")

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """As it is, with the third pair's loser broken."""
        pairs = super().fetch(positions)
        pairs.lose[2, 1, 1, 1] = self.value
        return pairs


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_latent_that_is_not_finite_is_named(value: float) -> None:
    """Step, tensor, pair, time; and nothing has moved, neither weights nor optimiser."""
    loader = Poisoned()
    loader.value = value
    made = trainer(loader)
    before = weights(made)
    pair = f"pair-{loader.index(2)}"
    with pytest.raises(RunFault, match=rf"step 1: the clean latent is not finite for 1 pair\(s\): {pair} \(t = \d+\); stopped before"):
        made.step_once(0)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(made), strict=True))
    assert not made.snapshot.optimizer.state


def test_losers_that_nobody_reads_may_be_anything() -> None:
    """SFT asks for winners only."""
    assert trainer(Poisoned(), name="sft").step_once(0).line["loss"] > 0


class Exploding(TinyDenoiser):
    """Answers with infinity whenever a gradient is wanted."""

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Fine while inverting."""
        answer = super().forward(x_t, t, condition)
        return answer * math.inf if torch.is_grad_enabled() else answer


def test_the_first_tensor_that_went_wrong_is_named() -> None:
    """The loss is not finite either, but it is not the cause. Many pairs are counted and not all listed."""
    made = trainer(subject=replace(tiny_subject(), policy=Exploding()), use=settings(pairs_per_step=10))
    with pytest.raises(RunFault, match=r"the policy's prediction is not finite for 10 pair\(s\): (pair-\d+ \(t = \d+\), ){7}.* and 2 more"):
        made.step_once(0)


class SteepAtZero(torch.autograd.Function):
    """The identity, with an infinite slope."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        """x."""
        return x.clone()

    @staticmethod
    def backward(context: object, slope: Tensor) -> Tensor:
        """∞."""
        return slope * math.inf


class Steep(TinyDenoiser):
    """Finite predictions, infinite gradients."""

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """As it is."""
        return SteepAtZero.apply(super().forward(x_t, t, condition))


def test_a_gradient_that_is_not_finite_is_a_fault() -> None:
    """Although every loss is fine."""
    made = trainer(subject=replace(tiny_subject(), policy=Steep()))
    with pytest.raises(RunFault, match="step 1: the gradient norm is nan though every pair's loss is finite"):
        made.step_once(0)


class Detached(TinyDenoiser):
    """Its weights do not reach its answer."""

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """As it is, to the eye."""
        return super().forward(x_t, t, condition).detach() + 0 * self.out.bias.sum()


def test_no_gradient_at_all_is_a_fault() -> None:
    """Training on would only burn time."""
    with pytest.raises(RunFault, match="step 1: no trainable parameter received a gradient"):
        trainer(subject=replace(tiny_subject(), policy=Detached())).step_once(0)


def test_more_inversion_steps_than_the_model_has_times_are_refused_at_once() -> None:
    """Before a pair is read: nothing could be inverted."""
    method = replace(INPO, noising=replace(INPO.noising, inversion_steps=1001))
    with pytest.raises(InputError, match=r"method\.noising does not suit this model: inversion steps must be in 1…1000"):
        Trainer(tiny_subject(), MemoryLoader(), method=method, settings=SETTINGS, stop=Stop())


class Undecided(MemoryLoader):
    """Nobody preferred anything."""

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """As it is, every pair a tie."""
        pairs = super().fetch(positions)
        return replace(pairs, preference=torch.full_like(pairs.preference, 0.5))


def test_a_first_step_of_ties_is_said_to_be_one() -> None:
    """At u = 0 the loss of a tie is at its minimum: nothing moves, and the message knows that cause too."""
    with pytest.raises(RunFault, match=r"in the first step, is every pair a tie \(data\.ties=half\)"):
        trainer(Undecided()).step_once(0)
    assert trainer(Undecided(), subject=moved_subject()).step_once(1).line["grad_norm"] > 0


def test_ties_of_any_process_are_left_out_of_the_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one process has ties alone, and the other has pairs that the policy gets right or wrong: theirs is the step's accuracy."""
    alone = trainer(subject=moved_subject(), use=settings(pairs_per_step=9), name="diffusion-dpo").step_once(1).line
    assert 0 < alone["implicit_accuracy"] < 1
    ties, told = trainer(Undecided(), subject=moved_subject(), use=settings(pairs_per_step=9), name="diffusion-dpo"), []
    assert ties.step_once(1).line["implicit_accuracy"] is None
    monkeypatch.setattr(tally, "gather_rows", lambda vector, device: told.append(vector) or torch.stack(told))
    for loader in (MemoryLoader(), Undecided()):
        line = trainer(loader, subject=moved_subject(), use=settings(pairs_per_step=9), name="diffusion-dpo").step_once(1).line
    assert line["implicit_accuracy"] == alone["implicit_accuracy"]
    assert math.isclose(line["margin"], alone["margin"])
    assert "labelled" not in line


def test_clipping_bounds_the_step_and_not_the_report() -> None:
    """SGD-like check on the gradient itself: after clipping its norm is 1e-3, and the line has the norm before."""
    made = trainer(use=settings(OptimizerConfig(clip=1e-3)))
    points = made.gradient.points(0)
    made.gradient(points)
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in made.weights.values()))
    made.gradient(points)
    reported = made._norm()
    clipped = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in made.weights.values()))
    assert math.isclose(reported, 2 * norm, rel_tol=1e-5)
    assert math.isclose(clipped, 1e-3, rel_tol=1e-4)
    unclipped = trainer(use=settings(OptimizerConfig(clip=None))).step_once(0).line["grad_norm"]
    assert math.isclose(unclipped, norm, rel_tol=1e-6)


def test_the_reference_may_invert() -> None:
    """Then the policy is asked only for the training forward: its own evaluations are 2 per pair."""
    method = replace(INPO, noising=replace(INPO.noising, inverter="reference"))
    made = Trainer(tiny_subject(), MemoryLoader(), method=method, settings=SETTINGS, stop=Stop())
    calls: list[int] = []
    made.subject.policy.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    made.step_once(0)
    assert sum(calls) == 2 * SETTINGS.train.pairs_per_step
    alone = Trainer(replace(tiny_subject(), reference=None), MemoryLoader(), method=method, settings=SETTINGS, stop=Stop())
    with pytest.raises(ValueError, match="inverts with the reference, but none was given"):
        alone.step_once(0)


def test_closing_takes_every_hook_off(tmp_path: Path) -> None:
    """The networks are the caller's."""
    made = trainer()
    made.close()
    for module in (made.subject.policy, made.subject.reference):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
