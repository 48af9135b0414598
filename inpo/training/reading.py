"""A step's pairs, read a few at a time: decoding and encoding all of them may take a minute, for which no interruption should wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from inpo.types import Condition, PairBatch, PairLoader

TOGETHER = 8
"""Pairs between two looks. As many as the loader gives its encoder at once, whose last bits may depend on that."""


@dataclass(frozen=True)
class Reader:
    """A loader that calls `check` before every few pairs of `loader`."""

    loader: PairLoader
    check: Callable[[], None]

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """The pairs at these positions. Raises what `check` raises."""
        parts = []
        for start in range(0, len(positions), TOGETHER):
            self.check()
            # So that the next few are decoded while these are encoded.
            self.loader.expect(positions[start:])
            parts.append(self.loader.fetch(positions[start : start + TOGETHER]))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def expect(self, positions: Sequence[int]) -> None:
        """The loader's."""
        self.loader.expect(positions)

    def validation(self) -> Sequence[PairBatch]:
        """The loader's."""
        return self.loader.validation()


def _joined(parts: Sequence[PairBatch]) -> PairBatch:
    losers = [part.lose for part in parts if part.lose is not None]
    return PairBatch(
        torch.cat([part.win for part in parts]), torch.cat(losers) if losers else None, Condition.cat([part.condition for part in parts]),
        torch.cat([part.preference for part in parts]), tuple(name for part in parts for name in part.ids),
    )  # fmt: skip
