"""What must hold before the optimiser may move. All processes see the same summary, so all stop together or none."""

from __future__ import annotations

import math

from inpo.errors import RunFault
from inpo.methods import Method
from inpo.training.scaling import MAX_OVERFLOWS
from inpo.training.tally import Local, Summary, first_not_finite
from inpo.types import Dtype

SHOWN_PAIRS = 8


IDENTITY_TOLERANCE = 1e-5
"""How far from 0 the largest gain |R − L| (M9) of a picture may be before the first step; |u| (M8) is then at most β times as much.

A limit on u alone would depend on β: errors are of order one, of which fp32 knows 1e-7, and at β = 5000 that is a u of 5e-4. The same
kernels on both sides leave 0 in every dtype. On the world a last bit in every layer (DoRA's magnitudes) left 7e-7 in fp32, and a
reference in another precision 1.7e-4 (fp16) and 1.9e-3 (bf16)."""

_HINTS = {"fp16": " (fp16 ends at 65,504: model.dtype=bf16 has fp32's range)"}
_DIFFER = "policy and reference differ before the first step"


def check_finite(step: int, local: Local, summary: Summary, *, dtype: Dtype) -> None:
    """Raises `RunFault` naming step, tensor, pair ids and times if any pair of optimiser step `step` (from 1) is NaN or infinite."""
    if summary.bad_pairs:
        name, found = first_not_finite(local)
        shown = ", ".join(f"{pair} (t = {t:g})" for pair, t in found[:SHOWN_PAIRS])
        more = f" and {len(found) - SHOWN_PAIRS} more" if len(found) > SHOWN_PAIRS else ""
        where = f"step {step}: the {name} is not finite for {len(found)} pair(s): {shown}{more}"
        raise RunFault(f"{where}; stopped before the optimiser{_HINTS.get(dtype, '')}")


def check_gradient(step: int, norm: float) -> None:
    """`norm`: of the whole step's gradient. Raises `RunFault` if it is not finite, or if nothing would move."""
    if not math.isfinite(norm):
        raise RunFault(f"step {step}: the gradient norm is {norm} though every pair's loss is finite; stopped before the optimiser")
    if norm == 0:
        raise RunFault(
            f"step {step}: no trainable parameter received a gradient (its norm is exactly 0): does what is trainable reach the "
            "prediction, is the loss saturated (beta or lr too large), or, in the first step, is every pair a tie (data.ties=half), "
            "which says nothing while policy and reference are the same?"
        )


def too_many_overflows(step: int, scale: float) -> RunFault:
    """The fault of a step whose gradient never was finite."""
    return RunFault(
        f"step {step}: the gradient overflowed in fp16 {MAX_OVERFLOWS} times in a row, the last time at a loss scale of {scale:g}, though "
        "every pair's loss is finite; nothing has moved. model.dtype=bf16 has fp32's range"
    )


def check_identity(method: Method, summary: Summary, *, loss: float) -> None:
    """Before the first step policy ≡ reference, so every gain and every u is 0 and the loss is the declared one (docs/method.md §6.5).

    The largest gain is checked, as a mean of ln 2 can hide margins that cancel, u is small under DSPO's β whatever the networks are, and
    single pictures have none. Raises `RunFault`.
    """
    if not method.objective.needs.reference:
        return
    cause = "are their weights, dtype, kernels or conditions different, or is dropout on?"
    # Not a number where the method has no margin.
    margin = 0.0 if math.isnan(summary.largest_margin) else summary.largest_margin
    if summary.largest_gain > IDENTITY_TOLERANCE:
        found = f"max|R − L| is {summary.largest_gain:.3g} (max|u| {margin:.3g}), at most {IDENTITY_TOLERANCE:g} is allowed"
        raise RunFault(f"{_DIFFER}: {found}; {cause}")
    declared = method.objective.at_zero_margin
    # No objective here is steeper than 10 at u = 0. Of single pictures the gains are all there is to check: what a gain is worth in the
    # loss depends on β.
    if declared is not None and not math.isnan(summary.largest_margin) and abs(loss - declared) > 10 * margin + 1e-3:
        raise RunFault(f"{_DIFFER}: the loss of {method.name} is {loss:.6f}, but {declared:.6f} at u = 0; {cause}")
