"""Objectives on the margin between winner and loser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from inpo.objectives.base import Needs
from inpo.types import Denoising


def implicit_margin(win: Denoising, lose: Denoising, beta: float) -> Tensor:
    """u = −(β/2) [(L_w − L_l) − (R_w − R_l)] (M8), `[B]`: half of β times how much more the policy improved on the winner."""
    return -(beta / 2) * ((win.error - lose.error) - (win.ref_error - lose.ref_error))


@dataclass(frozen=True)
class Dpo:
    """−q log σ(u) − (1−q) log σ(−u) with q = P(w ≻ l), 1 for a plain label (Diffusion-DPO, arXiv:2311.12908, Eq. 14).

    InPO minimises the same loss on inverted latents (arXiv:2503.18454). `beta` presupposes errors that are means over C, H, W.
    """

    beta: float
    needs: ClassVar[Needs] = Needs()
    # Σ q log 2 = log 2 whatever q is.
    at_zero_margin: ClassVar[float | None] = math.log(2)

    def __post_init__(self) -> None:
        if not (0 < self.beta < math.inf):
            raise ValueError(f"beta={self.beta} must be in (0, ∞)")

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor) -> Tensor:
        """`[B]`, unreduced."""
        u = self.margin(win, lose)
        q = preference.to(device=u.device, dtype=u.dtype)
        return -q * logsigmoid(u) - (1 - q) * logsigmoid(-u)

    def margin(self, win: Denoising, lose: Denoising | None) -> Tensor:
        """u (M8), `[B]`. Raises `ValueError` without losers."""
        if lose is None:
            raise ValueError("a pairwise objective needs the losers")
        return implicit_margin(win, lose, self.beta)
