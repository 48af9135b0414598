"""What an objective declares, so that the trainer runs no network that nobody reads, and the checks that objectives share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from inpo.points import Denoising


@dataclass(frozen=True)
class Needs:
    """What an objective reads, and which labels mean something to it.

    `reference`: the frozen model's predictions. `lose`: the losers. `ties`: pairs with P(w ≻ l) = ½. `singles`: it can be trained on single
    labelled images. `soft`: it needs P(w ≻ l) strictly between 0 and 1, so plain labels are refused. `baseline`: it takes the mean gain
    of the step before (M9), as `z`.
    """

    reference: bool = True
    lose: bool = True
    ties: bool = True
    singles: bool = False
    soft: bool = False
    baseline: bool = False


class Objective(Protocol):
    """A loss per pair. `at_zero_margin`: its value where policy ≡ reference, checked before the first step; None if there is none."""

    @property
    def needs(self) -> Needs: ...

    @property
    def at_zero_margin(self) -> float | None: ...

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor) -> Tensor:
        """`[B]`, unreduced."""

    def margin(self, win: Denoising, lose: Denoising | None) -> Tensor | None:
        """The implicit-reward margin u (M8), `[B]`; None for objectives without one."""


class BaselinedObjective(Objective, Protocol):
    """An objective whose `needs.baseline` is set."""

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor, z: float = 0.0) -> Tensor:
        """`[B]`, unreduced; `z` as `gain_baseline` gives it."""


def paired(lose: Denoising | None) -> Denoising:
    """The losers. Raises `ValueError` where there are none."""
    if lose is None:
        raise ValueError("a pairwise objective needs the losers")
    return lose


def positive(name: str, value: float) -> None:
    """Raises `ValueError` naming the setting for a value outside (0, ∞)."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value} must be in (0, ∞)")


def between(name: str, value: float, *, low: float, high: float) -> None:
    """Raises `ValueError` naming the setting for a value outside [low, high)."""
    if not low <= value < high:
        raise ValueError(f"{name}={value} must be in [{low:g}, {high:g})")


def like_margin(preference: Tensor, u: Tensor) -> Tensor:
    """P(w ≻ l) on the device and in the dtype of a margin, `[B]`."""
    return preference.to(device=u.device, dtype=u.dtype)
