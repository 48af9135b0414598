"""Objectives that compare the policy with no reference, so that none is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from inpo.objectives.base import Needs, paired, positive
from inpo.points import Denoising


def bernoulli_weight(x: Tensor) -> Tensor:
    """x/(eˣ − 1), and 1 at x = 0, its limit: it falls from 1 to 0 as an error grows. Any shape."""
    small = x.abs() < 1e-6
    safe = torch.where(small, torch.ones_like(x), x)
    # 1 − x/2 is the series where expm1 would divide 0 by 0; with e⁻ˣ above and below, large x overflow nowhere.
    return torch.where(small, 1 - x / 2, safe * torch.exp(-safe) / -torch.expm1(-safe))


@dataclass(frozen=True)
class Mapo:
    """L_w − β log σ(T [φ(L_w) − φ(L_l)]) with φ(m) = s m/(e^{s m} − 1) (MaPO, arXiv:2406.06424): fit the winner, and by a margin.

    `snr` s and `scale` T (the number of training times) are the released program's. `beta` weighs the margin against the fit, so it is
    0.1 where β of DPO is in the thousands. Its margin is not of rewards against a reference and is not 0 before the first step.
    """

    beta: float = 0.1
    snr: float = 0.5
    scale: float = 1000.0
    needs: ClassVar[Needs] = Needs(reference=False, ties=False)
    at_zero_margin: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        for name in ("beta", "snr", "scale"):
            positive(name, getattr(self, name))

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor) -> Tensor:
        """`[B]`, unreduced."""
        del preference
        return win.error - self.beta * logsigmoid(self.margin(win, lose))

    def margin(self, win: Denoising, lose: Denoising | None) -> Tensor:
        """T [φ(L_w) − φ(L_l)], `[B]`. Raises `ValueError` without losers."""
        win_weight, lose_weight = (bernoulli_weight(self.snr * side.error) for side in (win, paired(lose)))
        return self.scale * (win_weight - lose_weight)
