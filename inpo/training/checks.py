"""What must hold before the optimiser may move. All processes see the same summary, so all stop together or none."""

from __future__ import annotations

import math

from inpo.errors import RunFault
from inpo.methods import Method
from inpo.training.tally import Local, Summary, first_not_finite

SHOWN_PAIRS = 8
_DIFFER = "policy and reference differ before the first step"


def check_finite(step: int, local: Local, summary: Summary) -> None:
    """Raises `RunFault` naming step, tensor, pair ids and times if anything in optimiser step `step` (from 1) is NaN or infinite."""
    if summary.bad_pairs:
        name, found = first_not_finite(local)
        shown = ", ".join(f"{pair} (t = {t:g})" for pair, t in found[:SHOWN_PAIRS])
        more = f" and {len(found) - SHOWN_PAIRS} more" if len(found) > SHOWN_PAIRS else ""
        raise RunFault(f"step {step}: the {name} is not finite for {len(found)} pair(s): {shown}{more}; stopped before the optimiser")
    if not math.isfinite(summary.grad_norm):
        raise RunFault(
            f"step {step}: the gradient norm is {summary.grad_norm} though every pair's loss is finite; stopped before the optimiser"
        )


def check_gradient(step: int, summary: Summary) -> None:
    """Raises `RunFault` if nothing would move."""
    if summary.grad_norm == 0:
        raise RunFault(
            f"step {step}: no trainable parameter received a gradient (its norm is exactly 0): does what is trainable reach the "
            "prediction, is the loss saturated (beta or lr too large), or, in the first step, is every pair a tie (data.ties=half), "
            "which says nothing while policy and reference are the same?"
        )


def check_identity(method: Method, summary: Summary, *, loss: float, tolerance: float) -> None:
    """Before the first step policy ≡ reference, so every u is 0 and the loss is the declared one (docs/method.md §6.5).

    The largest |u| is checked too: a mean of ln 2 can hide margins that cancel. Raises `RunFault`.
    """
    if math.isnan(summary.largest_margin):
        return
    cause = "are their weights, dtype, kernels or conditions different, or is dropout on?"
    if summary.largest_margin > tolerance:
        raise RunFault(f"{_DIFFER}: max|u| is {summary.largest_margin:.3g}, at most {tolerance:g} is allowed; {cause}")
    declared = method.objective.at_zero_margin
    # No objective here is steeper than 10 at u = 0.
    if declared is not None and abs(loss - declared) > 10 * tolerance:
        raise RunFault(f"{_DIFFER}: the loss of {method.name} is {loss:.6f}, but {declared:.6f} at u = 0; {cause}")
