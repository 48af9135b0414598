"""Training points: where on its path each image is trained, and what the networks predicted there. Equations: docs/method.md.

A *pair* is a type and not a layout: that winners are stacked before losers is known to this file alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inpo.types import Condition, Rows


@dataclass(frozen=True)
class Noised:
    """A training point for each example: the latent, its time, and what the network should predict there.

    `x_t`, `target`: `[B,C,H,W]`; `t`: `[B]`; `tau`: the noise τ that takes x_0 exactly to x_t (M5), `[B,C,H,W]`. Under ε-prediction the
    target is τ: it is then the same tensor, and stays so on another device and in another order, which saves a copy of all latents.
    """

    x_t: Tensor
    t: Tensor
    target: Tensor
    tau: Tensor

    def __getitem__(self, rows: Rows) -> Noised:
        return Noised(self.x_t[rows], self.t[rows], self.target[rows], self.tau[rows])

    def to(self, device: torch.device) -> Noised:
        """The latents on a device; times stay where they are."""
        tau = self.tau.to(device)
        return Noised(self.x_t.to(device), self.t, tau if self.target is self.tau else self.target.to(device), tau)

    @staticmethod
    def cat(parts: Sequence[Noised], order: Tensor) -> Noised:
        """The rows of all parts, joined and then taken in this order."""

        def column(values: list[Tensor]) -> Tensor:
            joined = torch.cat(values)
            return joined[order.to(joined.device)]

        tau = column([p.tau for p in parts])
        target = tau if all(p.target is p.tau for p in parts) else column([p.target for p in parts])
        return Noised(column([p.x_t for p in parts]), column([p.t for p in parts]), target, tau)


@dataclass(frozen=True)
class NoisedPairs:
    """Training points of B pairs; `lose` is None if the objective reads winners only.

    `condition`, `preference`: one row per pair. Pair i owns the points i·m … i·m + m − 1, m = `points_per_pair`. Indexing selects points
    and gathers a condition row for each. Conditions are not repeated before that: the tokens of a text encoder are larger than all
    latents of a step.
    """

    win: Noised
    lose: Noised | None
    condition: Condition
    preference: Tensor
    points_per_pair: int = 1

    def __len__(self) -> int:
        return len(self.win.t)

    def __getitem__(self, rows: slice | Tensor) -> NoisedPairs:
        own = rows if self.points_per_pair == 1 else self.owners(rows)
        return NoisedPairs(self.win[rows], self.lose and self.lose[rows], self.condition[own], self.preference[own])

    def to(self, device: torch.device) -> NoisedPairs:
        """The same points on another device; times stay where they are."""
        win, lose = self.win.to(device), self.lose and self.lose.to(device)
        return NoisedPairs(win, lose, self.condition.to(device), self.preference.to(device), self.points_per_pair)

    def owners(self, rows: slice | Tensor) -> list[int]:
        """The pair that each of these points belongs to."""
        return [point // self.points_per_pair for point in torch.arange(len(self))[rows].tolist()]

    def both(self) -> tuple[Noised, Condition]:
        """Winners, then losers (if any), as one batch: `[2B]` or `[B]`."""
        if self.points_per_pair > 1:
            return self[:].both()
        if self.lose is None:
            return self.win, self.condition
        w, l = self.win, self.lose
        stacked = Noised(*(torch.cat(pair) for pair in ((w.x_t, l.x_t), (w.t, l.t), (w.target, l.target), (w.tau, l.tau))))
        return stacked, Condition.cat([self.condition, self.condition])

    def split(self, stacked: Denoising) -> tuple[Denoising, Denoising | None]:
        """Splits what the networks predicted for `both` into winners and losers."""
        return stacked[: len(self)], None if self.lose is None else stacked[len(self) :]


@dataclass(frozen=True)
class Denoising:
    """What the policy, and the reference if the objective asks for one, predicted at a training point. All `[B,C,H,W]`."""

    target: Tensor
    prediction: Tensor
    reference: Tensor | None = None

    def __getitem__(self, rows: slice) -> Denoising:
        return Denoising(self.target[rows], self.prediction[rows], None if self.reference is None else self.reference[rows])

    @property
    def error(self) -> Tensor:
        """L of the policy (M7), `[B]`: the mean over C, H, W that published β presuppose."""
        return self.residual.square().mean(dim=(1, 2, 3))

    @property
    def ref_error(self) -> Tensor:
        """L of the reference (M7), `[B]`. Raises `ValueError` where no reference was evaluated."""
        return _difference(self._evaluated, self.target).square().mean(dim=(1, 2, 3))

    @property
    def gain(self) -> Tensor:
        """g = R − L (M9), `[B]`: how much smaller the policy's error is than the reference's."""
        return self.ref_error - self.error

    @property
    def residual(self) -> Tensor:
        """The policy's prediction less its target, `[B,C,H,W]`."""
        return _difference(self.prediction, self.target)

    @property
    def departure(self) -> Tensor:
        """The policy's prediction less the reference's, `[B,C,H,W]`. Raises `ValueError` where no reference was evaluated."""
        return _difference(self.prediction, self._evaluated)

    @property
    def _evaluated(self) -> Tensor:
        if self.reference is None:
            raise ValueError("this objective reads the reference's error, but no reference was evaluated")
        return self.reference


def _difference(a: Tensor, b: Tensor) -> Tensor:
    # At least fp32: the logit is β/2 times a difference of nearly equal errors, and β is in the thousands.
    wide = torch.promote_types(a.dtype, torch.float32)
    return a.to(wide) - b.to(wide)
