"""Supervised fine-tuning on the winners: the baseline, and the paper's starting point for SD1.5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inpo.objectives.base import Needs
from inpo.points import Denoising


@dataclass(frozen=True)
class Sft:
    """L_w, the ordinary denoising error (M7). It reads neither losers nor a reference, and a tie has no winner to learn from."""

    needs: ClassVar[Needs] = Needs(reference=False, lose=False, ties=False)
    at_zero_margin: ClassVar[float | None] = None

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor) -> Tensor:
        """`[B]`, unreduced."""
        del lose, preference
        return win.error

    def margin(self, win: Denoising, lose: Denoising | None) -> None:
        """There is none."""
        del win, lose
