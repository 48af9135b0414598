"""A safeguard for any pairwise objective: pushing the loser away must not cost the winner."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from inpo.objectives.base import between
from inpo.points import Denoising


@dataclass(frozen=True)
class Safeguard:
    """Scales a *gradient* that pushes the loser away by λ (M10) and leaves every value as it is (Diffusion-SDPO, arXiv:2511.03317).

    To first order in the networks' outputs, a step that descends along g_w − λ g_l lowers L_w by ‖g_w‖² − λ ⟨g_w, g_l⟩; λ is the largest
    in [0, 1] at which at least μ of ‖g_w‖² is left. `mu` μ = 0 asks only that the winner is not made worse; nearer 1 the loser matters
    less. Losses that ask for a larger u pull at both errors with one weight and step in that direction; MaPO and DSPO do so roughly. A
    loss that is past its target (IPO, DMPO, soft labels) pulls the loser back in, which helps the winner: that gradient is left alone.
    """

    mu: float = 0.5

    def __post_init__(self) -> None:
        between("mu", self.mu, low=0, high=1)

    def __call__(self, win: Denoising, lose: Denoising) -> Denoising:
        """The losers with the same numbers and a gradient that is scaled where it pushes them away."""
        if not lose.prediction.requires_grad:
            return lose
        away, scale = lose.residual.detach(), self.scale(win, lose)

        def scaled(gradient: Tensor) -> Tensor:
            # Descending along −g_l makes the loser's error larger.
            pushing = (gradient * away).sum(dim=(1, 2, 3)) < 0
            return gradient * scale.where(pushing, 1.0).view(-1, 1, 1, 1).to(gradient.dtype)

        guarded = lose.prediction.view_as(lose.prediction)
        guarded.register_hook(scaled)  # type: ignore[no-untyped-call]
        return replace(lose, prediction=guarded)

    def scale(self, win: Denoising, lose: Denoising) -> Tensor:
        """λ = clamp((1 − μ) ‖g_w‖²/⟨g_w, g_l⟩, 0, 1) where ⟨g_w, g_l⟩ > 0, else 1 (M10); g = prediction − target. `[B]`, no gradient."""
        g_w, g_l = win.residual.detach(), lose.residual.detach()
        along, own = (g_w * g_l).sum(dim=(1, 2, 3)), g_w.square().sum(dim=(1, 2, 3))
        together = along > 0
        return ((1 - self.mu) * own / along.where(together, own + 1)).clamp(0, 1).where(together, 1.0)
