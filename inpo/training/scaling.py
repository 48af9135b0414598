"""The loss scale of fp16: small gradients are lifted above its smallest number, and a step whose gradient overflows is tried again."""

from __future__ import annotations

from collections.abc import Mapping

from inpo.errors import InputError

FIRST = 2.0**16
LARGEST = 2.0**24
GROW_AFTER_STEPS = 200
"""Steps without an overflow before the scale doubles. torch's own scaler waits 2000, which a run of 400 steps never sees."""

MAX_OVERFLOWS = 20
"""Attempts in a row at one step. From the first scale the last of them is at ⅛: what overflows there is not rounding."""


class LossScale:
    """A power of two, so that scaling and unscaling round nothing but what leaves fp16's range. `good_steps`: since its last change."""

    def __init__(self) -> None:
        self.scale, self.good_steps = FIRST, 0

    def overflowed(self) -> None:
        """Halves the scale: the gradient was not finite."""
        self.scale, self.good_steps = self.scale / 2, 0

    def moved(self) -> None:
        """Counts a completed step, and doubles the scale after every `GROW_AFTER_STEPS` of them."""
        self.good_steps += 1
        if self.good_steps == GROW_AFTER_STEPS:
            self.scale, self.good_steps = min(2 * self.scale, LARGEST), 0

    def state(self) -> dict[str, float | int]:
        """What a checkpoint keeps, for JSON."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load(self, state: object) -> None:
        """Undoes `state`. Raises `InputError` for anything else."""
        if not isinstance(state, Mapping) or not state.keys() >= {"scale", "good_steps"}:
            raise InputError(f"the checkpoint's loss_scale is {state!r}: it was not saved by a run with model.dtype=fp16")
        self.scale, self.good_steps = float(state["scale"]), int(state["good_steps"])
