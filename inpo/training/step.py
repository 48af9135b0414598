"""The step that the paper describes: what policy and reference predict at the same training points, and the loss of each pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from inpo.methods import Method
from inpo.objectives import BaselinedObjective, Objective
from inpo.points import Denoising, NoisedPairs
from inpo.types import Denoiser


@dataclass(frozen=True)
class StepResult:
    """`losses`: `[B]`, unreduced, with gradient. `win`, `lose`: what the networks predicted, for metrics and checks."""

    losses: Tensor
    win: Denoising
    lose: Denoising | None


def preference_step(policy: Denoiser, ref: Denoiser | None, noised: NoisedPairs, method: Method, *, z: float = 0.0) -> StepResult:
    """One micro-batch: (x_t, target) were made by the method's noising (InPO: the policy's own trajectory, landing on t).

    `ref` is the policy as loaded at step 0; it is evaluated only if the objective reads it. Losses are (M7), (M8). `z`: the baseline
    (M9), for objectives that take one.
    """
    x, condition = noised.both()
    prediction = policy(x.x_t, x.t, condition)
    reference = None
    if method.objective.needs.reference:
        if ref is None:
            raise ValueError(f"{method.name} compares with a reference, but none was given")
        with torch.no_grad():
            reference = ref(x.x_t, x.t, condition)
    win, lose = noised.split(Denoising(x.target, prediction, reference))
    guarded = lose if method.safeguard is None or lose is None else method.safeguard(win, lose)
    return StepResult(_losses(method.objective, win, guarded, noised.preference, z=z), win, lose)


def _losses(objective: Objective, win: Denoising, lose: Denoising | None, preference: Tensor, *, z: float) -> Tensor:
    if objective.needs.baseline:
        return cast(BaselinedObjective, objective)(win, lose, preference, z)
    return objective(win, lose, preference)
