"""Objectives for pictures that are labelled one by one: desired, or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inpo.objectives.base import Needs, like_margin, positive
from inpo.objectives.pairwise import implicit_margin
from inpo.points import Denoising


@dataclass(frozen=True)
class Kto:
    """λ_y (1 − σ(y β (g − z))) with y = ±1 and the gain g = R − L (M9) (Diffusion-KTO, arXiv:2404.04465). There is no factor ½.

    A single picture is desired with probability `preference`, 1 or 0. In a pair the winner is desired and the loser is not, and the loss
    is the mean of the two. `z` is how much the policy has gained lately on pictures of any label: only what departs from it counts.
    `desired_weight`, `undesired_weight`: λ of the two labels.
    """

    beta: float
    desired_weight: float = 1.0
    undesired_weight: float = 1.0
    needs: ClassVar[Needs] = Needs(ties=False, singles=True, baseline=True)

    def __post_init__(self) -> None:
        for name in ("beta", "desired_weight", "undesired_weight"):
            positive(name, getattr(self, name))

    @property
    def at_zero_margin(self) -> float | None:
        """λ/2 where both labels weigh the same; else it depends on how many there are of each."""
        return self.desired_weight / 2 if self.desired_weight == self.undesired_weight else None

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor, z: float = 0.0) -> Tensor:
        """`[B]`, unreduced."""
        desired = like_margin(preference, win.error)
        loss = self._loss(win, desired, z)
        return loss if lose is None else (loss + self._loss(lose, 1 - desired, z)) / 2

    def _loss(self, side: Denoising, desired: Tensor, z: float) -> Tensor:
        value = self.beta * (side.gain - z)
        # 1 − σ(v) = σ(−v).
        return desired * self.desired_weight * torch.sigmoid(-value) + (1 - desired) * self.undesired_weight * torch.sigmoid(value)

    def margin(self, win: Denoising, lose: Denoising | None) -> Tensor | None:
        """u (M8), `[B]`; None for single pictures, which are compared with nothing."""
        return None if lose is None else implicit_margin(win, lose, self.beta)


def gain_baseline(gains: list[float]) -> float:
    """z = max(0, mean of `gains`) (M9). `gains`: a step's mean gain of the winners and, for pairs, that of the losers."""
    return max(0.0, sum(gains) / len(gains))
