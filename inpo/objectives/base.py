"""What an objective declares, so that the trainer runs no network that nobody reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from inpo.types import Denoising


@dataclass(frozen=True)
class Needs:
    """`reference`: the frozen model's predictions. `lose`: the losers at all. `ties`: whether P(w ≻ l) = ½ has a meaning."""

    reference: bool = True
    lose: bool = True
    ties: bool = True


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
