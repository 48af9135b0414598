"""Objectives that are a function of the implicit-reward margin u between winner and loser (M8), and of nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from inpo.objectives.base import Needs, between, like_margin, paired, positive
from inpo.points import Denoising


def implicit_margin(win: Denoising, lose: Denoising, beta: float) -> Tensor:
    """u = −(β/2) [(L_w − L_l) − (R_w − R_l)] (M8), `[B]`: half of β times how much more the policy improved on the winner."""
    return -(beta / 2) * ((win.error - lose.error) - (win.ref_error - lose.ref_error))


@dataclass(frozen=True)
class OnMargin:
    """What objectives on u share: β and the margin itself."""

    beta: float

    def __post_init__(self) -> None:
        positive("beta", self.beta)

    def margin(self, win: Denoising, lose: Denoising | None) -> Tensor:
        """u (M8), `[B]`. Raises `ValueError` without losers."""
        return implicit_margin(win, paired(lose), self.beta)


@dataclass(frozen=True)
class Dpo(OnMargin):
    """−q log σ(u) − (1−q) log σ(−u) with q = P(w ≻ l), 1 for a plain label (Diffusion-DPO, arXiv:2311.12908, Eq. 14).

    InPO minimises the same loss on inverted latents (arXiv:2503.18454). `beta` presupposes errors that are means over C, H, W.
    `label_smoothing` p: the share of labels that are taken to be wrong, so that q becomes (1−p) q + p (1−q) and the best margin is finite
    (conservative DPO, E. Mitchell 2023; arXiv:2305.18290 for language models).
    """

    label_smoothing: float = 0.0
    needs: ClassVar[Needs] = Needs()
    # Σ q log 2 = log 2 whatever q is.
    at_zero_margin: ClassVar[float | None] = math.log(2)

    def __post_init__(self) -> None:
        super().__post_init__()
        between("label_smoothing", self.label_smoothing, low=0, high=0.5)

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor) -> Tensor:
        """`[B]`, unreduced."""
        u = self.margin(win, lose)
        q = like_margin(preference, u)
        q = q + self.label_smoothing * (1 - 2 * q)
        return -q * logsigmoid(u) - (1 - q) * logsigmoid(-u)


@dataclass(frozen=True)
class Ipo(OnMargin):
    """q (u − ½)² + (1−q) (u + ½)²: pulls u (M8) to q − ½ and no further (IPO, arXiv:2310.12036, Eq. 17, with its τ inside β)."""

    needs: ClassVar[Needs] = Needs()
    at_zero_margin: ClassVar[float | None] = 0.25

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor) -> Tensor:
        """`[B]`, unreduced."""
        u = self.margin(win, lose)
        q = like_margin(preference, u)
        return q * (u - 0.5).square() + (1 - q) * (u + 0.5).square()


@dataclass(frozen=True)
class Smpo(OnMargin):
    """−log σ(γ (2p − 1) u) with p = P(w ≻ l) from a reward model (SmPO, arXiv:2506.02698): sure pairs pull hard, doubtful ones hardly.

    At p = 1 and γ = 1 it is DPO; at p = ½ it says nothing. p comes with the pairs (`data.score_columns` or `data.scorer`).
    """

    gamma: float = 10.0
    needs: ClassVar[Needs] = Needs(ties=False, soft=True)
    at_zero_margin: ClassVar[float | None] = math.log(2)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("gamma", self.gamma)

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor) -> Tensor:
        """`[B]`, unreduced."""
        u = self.margin(win, lose)
        return -logsigmoid(self.gamma * (2 * like_margin(preference, u) - 1) * u)


@dataclass(frozen=True)
class Dmpo(OnMargin):
    """KL(p ‖ q) of p = σ(u) from q = 1 − a: the reverse divergence, which stops at log-odds of (1−a)/a (DMPO, arXiv:2507.07510).

    `alpha` a: how probable it is that a label is wrong. At u = 0 the loss is ½ log(1/(4a(1−a))): 1.6145 for a = 0.01.
    """

    alpha: float = 0.01
    needs: ClassVar[Needs] = Needs(ties=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha={self.alpha} must be in (0, 0.5): it is the share of labels that are wrong")

    @property
    def at_zero_margin(self) -> float | None:
        """½ log(½/(1−a)) + ½ log(½/a)."""
        return -0.5 * math.log(4 * self.alpha * (1 - self.alpha))

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor) -> Tensor:
        """`[B]`, unreduced."""
        del preference
        u = self.margin(win, lose)
        # log σ(u) and log σ(−u) = log(1 − σ(u)) stay finite where σ(u) has rounded to 0 or 1.
        log_p, log_other = logsigmoid(u), logsigmoid(-u)
        to_q = log_p.exp() * (log_p - math.log1p(-self.alpha))
        return to_q + log_other.exp() * (log_other - math.log(self.alpha))


@dataclass(frozen=True)
class Dspo(OnMargin):
    """mean over C, H, W of [(ε_θ − target)_w − β q (ε_θ − ε_ref)_w]², q = 1 − σ(u): score matching to the preferred distribution.

    DSPO (ICLR 2025). q keeps its gradient, so the losers act through it. The same β stands in u (M8) and before q. What the paper
    writes for ε is here the network's own prediction.
    """

    needs: ClassVar[Needs] = Needs(ties=False)
    # At u = 0 the second term is 0 and the loss is L_w, whatever that is.
    at_zero_margin: ClassVar[float | None] = None

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor) -> Tensor:
        """`[B]`, unreduced."""
        del preference
        q = torch.sigmoid(-self.margin(win, lose)).view(-1, 1, 1, 1)
        return (win.residual - self.beta * q * win.departure).square().mean(dim=(1, 2, 3))
