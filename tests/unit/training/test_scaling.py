"""fp16's loss scale: what overflows is tried again, nothing else notices, and a resumed run knows the scale."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from inpo.errors import InputError, RunFault
from inpo.training import checks
from inpo.training.scaling import FIRST, GROW_AFTER_STEPS, LARGEST, MAX_OVERFLOWS, LossScale
from inpo.training.stop import StepDropped
from inpo.training.subject import Subject
from inpo.types import Condition
from tests.tiny_denoiser import MemoryLoader, TinyDenoiser, plain_subject, tiny_subject
from tests.training_runs import final_bytes, metrics, train, trainer

SCALING = ("loss_scale", "overflows")


@pytest.fixture(autouse=True)
def middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs here begin where others are: the policy is not its reference any more."""
    monkeypatch.setattr(checks, "IDENTITY_TOLERANCE", math.inf)


class Limited(torch.autograd.Function):
    """The identity, whose gradient is infinite where it is above `limit`: fp16's range without fp16."""

    @staticmethod
    def forward(context: object, x: torch.Tensor, limit: float) -> torch.Tensor:
        """x."""
        context.limit = limit
        return x.clone()

    @staticmethod
    def backward(context: object, slope: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Overflows."""
        return slope.where(slope.abs() <= context.limit, math.inf), None


class Narrow(TinyDenoiser):
    """A denoiser whose gradients must not exceed `limit` at its output."""

    limit = 8.0

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        """As it is, forwards."""
        return Limited.apply(super().forward(x_t, t, condition), self.limit)


def narrow(limit: float = Narrow.limit) -> Subject:
    """In the middle of a run: every margin has a gradient."""
    policy = Narrow()
    policy.limit = limit
    return replace(plain_subject(policy, tiny_subject(1).policy), dtype="fp16")


def without(line: Mapping[str, object], *more: str) -> dict[str, object]:
    """A line without what scaling and time put into it."""
    dropped = {*SCALING, "pairs_per_second", "peak_memory_bytes", "unet_forwards_per_pair", *more}
    return {key: value for key, value in line.items() if key not in dropped}


def test_a_power_of_two_that_halves_and_grows() -> None:
    """Halved by an overflow, doubled after 200 steps without one, never above 2^24."""
    scale = LossScale()
    scale.overflowed()
    for _ in range(GROW_AFTER_STEPS - 1):
        scale.moved()
    assert scale.state() == {"scale": FIRST / 2, "good_steps": GROW_AFTER_STEPS - 1}
    scale.moved()
    assert scale.state() == {"scale": FIRST, "good_steps": 0}
    scale.scale = LARGEST
    for _ in range(GROW_AFTER_STEPS):
        scale.moved()
    assert scale.scale == LARGEST


def test_an_overflow_changes_nothing_but_the_scale() -> None:
    """The step is that of a run without scaling, bit for bit: same pairs, times, noise, gradient and weights; it is counted once."""
    made, plain = trainer(subject=narrow()), trainer(subject=replace(narrow(math.inf), dtype="fp32"))
    lines = [each.step_once(3).line for each in (made, plain)]
    assert lines[0]["overflows"] > 0
    assert lines[0]["loss_scale"] == FIRST / 2 ** lines[0]["overflows"] == made.scale.scale
    assert not set(SCALING) & set(lines[1])
    assert without(lines[0]) == without(lines[1])
    assert all(torch.equal(a, b) for a, b in zip(made.weights.values(), plain.weights.values(), strict=True))
    assert made.scale.good_steps == 1


def test_overflows_cost_forwards_but_no_second_inversion() -> None:
    """The points of a step are found once; an attempt costs the 4 forwards of policy and reference."""
    made, plain = trainer(subject=narrow()), trainer(subject=narrow(math.inf))
    lines = [each.step_once(0).line for each in (made, plain)]
    assert lines[0]["unet_forwards_per_pair"] - lines[1]["unet_forwards_per_pair"] == 4 * lines[0]["overflows"]


def test_overflows_without_end_are_a_fault() -> None:
    """Twenty in a row: the message names step, count and way out, and weights are as they were."""
    made = trainer(subject=narrow(0.0))
    before = [weight.detach().clone() for weight in made.weights.values()]
    with pytest.raises(RunFault, match=rf"step 4: the gradient overflowed in fp16 {MAX_OVERFLOWS} times .* of 0\.125, .*dtype=bf16"):
        made.step_once(3)
    assert all(torch.equal(a, b) for a, b in zip(before, made.weights.values(), strict=True))
    assert not made.snapshot.optimizer.state
    # What is saved now is the step before, with the scale that it had.
    assert made.scale.state() == {"scale": FIRST, "good_steps": 0}


def test_a_step_that_is_dropped_between_overflows_leaves_the_scale() -> None:
    """A signal in the second attempt: the continuation makes both of them again."""
    made = trainer(subject=narrow())

    def interrupt(*_: object) -> None:
        made.stop.signal = 15 if made.scale.scale < FIRST else 0

    made.subject.policy.register_forward_pre_hook(interrupt)
    with pytest.raises(StepDropped):
        made.step_once(3)
    assert made.scale.state() == {"scale": FIRST, "good_steps": 0}
    assert all(weight.grad is None for weight in made.weights.values())


class Overflowing(TinyDenoiser):
    """Its answer leaves fp16's range."""

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        """Rounded to fp16 and back."""
        return (super().forward(x_t, t, condition) * 1e6).half().to(x_t)


def test_a_forward_pass_that_overflows_is_a_fault_at_once() -> None:
    """No smaller scale helps there: the inversion's latents are not finite, and the message says what does help."""
    made = trainer(subject=replace(tiny_subject(), policy=Overflowing(), dtype="fp16"))
    with pytest.raises(RunFault, match=r"step 1: the noised latent is not finite .*\(fp16 ends at 65,504: model\.dtype=bf16"):
        made.step_once(0)
    assert made.scale.scale == FIRST


@dataclass
class Spoiled(MemoryLoader):
    """Pairs that come with an error in the fifth step."""

    def fetch(self, positions: list[int]) -> object:
        """As it is, before."""
        if min(positions) >= 32:
            raise InputError("row 3 is damaged")
        return super().fetch(positions)


def test_resuming_knows_the_scale(tmp_path: Path) -> None:
    """Interrupted after overflows, the run ends as the uninterrupted one, bit for bit, scale and lines included."""
    train(tmp_path / "whole", subject=narrow())
    with pytest.raises(InputError):
        train(tmp_path / "cut", subject=narrow(), loader=Spoiled(held_out=7))
    train(tmp_path / "cut", subject=narrow(), resume="latest")
    assert final_bytes(tmp_path / "cut", 6) == final_bytes(tmp_path / "whole", 6)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    states = [json.loads((tmp_path / run / "checkpoints/step-000006/state.json").read_text())["loss_scale"] for run in ("cut", "whole")]
    assert states[0] == states[1]
    assert states[0]["scale"] < FIRST


@pytest.mark.parametrize("state", [None, 3.0, {"scale": 1.0}])
def test_a_checkpoint_without_a_scale_is_refused(state: object) -> None:
    """It was not made in fp16."""
    with pytest.raises(InputError, match=r"model\.dtype=fp16"):
        LossScale().load(state)
