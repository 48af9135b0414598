"""Which pair stands at a position of the run: shuffled in blocks and windows, epoch after epoch, and never a held-out one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Protocol, runtime_checkable

import numpy as np

from inpo.randomness import seed_for
from inpo.types import PairRecord, PairSource

WINDOW_PAIRS = 1024
"""Least number of pairs that are shuffled among one another."""

ENDLESS_VALIDATION_ROWS = 2048
"""Of a source without end, validation pairs come from this many first rows: finding one costs making them all."""

STRIDE = 1 << 32
"""Of a source without end, pairs this far on are no run's own: one comes in the stead of a pair that is left out."""


@runtime_checkable
class KnowsIds(Protocol):
    """A source that tells its pairs' ids without reading the pairs."""

    ids: Sequence[str]


@runtime_checkable
class KnowsSplit(Protocol):
    """A source of which some pairs belong together. Those of one name are held out, or trained on, together."""

    split_names: Sequence[str]


def window_blocks(block: int) -> int:
    """Blocks of neighbouring pairs in a shuffling window: at least two, and at least `WINDOW_PAIRS` pairs."""
    return max(2, math.ceil(WINDOW_PAIRS / block))


def held_out(name: str, fraction: float) -> bool:
    """Whether a pair belongs to validation: by its id, or its ranking's, alone, so in every run, order and copy of the data alike."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return draw < fraction * 2.0**64


def ids_of(source: PairSource) -> Sequence[str]:
    """The ids of a finite source's pairs, in order; none of one without end."""
    if source.size is None:
        return ()
    if isinstance(source, KnowsIds):
        return source.ids
    return [source[i].id for i in range(source.size)]


def split_names_of(source: PairSource) -> Sequence[str]:
    """What `held_out` asks of each pair of a finite source, in order; none of one without end."""
    return source.split_names if isinstance(source, KnowsSplit) else ids_of(source)


def held_rows(source: PairSource, fraction: float) -> np.ndarray:
    """Which pairs of a finite source are held out, bool `[n]`; empty for one without end."""
    return np.array([held_out(name, fraction) for name in split_names_of(source)], dtype=bool)


class BlockShuffle:
    """Every one of `rows` once an epoch, in an order that is pure in (seed, epoch) and cheap to read.

    Rows are cut into blocks of neighbours (`row // block`), the blocks are permuted, and the rows of each window of blocks
    are shuffled. A global shuffle would read a whole row group for every pair. Memory: the rows, and a few windows.
    """

    def __init__(self, rows: np.ndarray, block: int, seed: int) -> None:
        self._rows = rows
        self._seed = seed
        self._width = window_blocks(block)
        blocks = rows // block
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        self._bounds = np.append(starts, len(rows))
        # The caches hold what is pure anyway: nothing depends on what is in them.
        self._epoch = lru_cache(maxsize=4)(self._plan_epoch)
        self._window = lru_cache(maxsize=4)(self._plan_window)

    def __len__(self) -> int:
        return len(self._rows)

    def locate(self, position: int) -> tuple[int, int]:
        """The epoch of a position (from 0, for ever) and the row that stands there."""
        epoch, place = divmod(position, len(self._rows))
        _, window_starts = self._epoch(epoch)
        window = int(np.searchsorted(window_starts, place, side="right")) - 1
        return epoch, int(self._window(epoch, window)[place - window_starts[window]])

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in their order, and the place at which each window starts."""
        blocks = np.random.default_rng(seed_for(self._seed, "blocks", epoch)).permutation(len(self._bounds) - 1)
        places = np.cumsum(np.diff(self._bounds)[blocks])
        return blocks, np.append(0, places[self._width - 1 : -1 : self._width])

    def _plan_window(self, epoch: int, window: int) -> np.ndarray:
        blocks, _ = self._epoch(epoch)
        chosen = blocks[window * self._width : (window + 1) * self._width]
        rows = np.concatenate([self._rows[self._bounds[b] : self._bounds[b + 1]] for b in chosen])
        return np.random.default_rng(seed_for(self._seed, "window", epoch, window)).permutation(rows)


def endless_pair(read: Callable[[int], PairRecord], position: int, fraction: float) -> PairRecord:
    """The training pair at a position of a source without end: the source's own, unless that one is held out.

    In its stead comes a pair from far beyond any position a run reaches, so that nothing needs counting from the start.
    """
    candidates = (read(position + step * STRIDE) for step in count())
    return next(pair for pair in candidates if not held_out(pair.id, fraction))


def first_held_out(
    read: Callable[[int], PairRecord], fraction: float, *, stored: Callable[[int], PairRecord] | None = None
) -> Iterator[PairRecord]:
    """The validation pairs of a source without end: the held-out ones among its first `ENDLESS_VALIDATION_ROWS`.

    `stored`: a cheaper reader of the same ids. Rows are then chosen by it, so that `read`, and its scorer, runs on held-out ones only.
    """
    rows = (row for row in range(ENDLESS_VALIDATION_ROWS) if stored is None or held_out(stored(row).id, fraction))
    return (pair for pair in map(read, rows) if held_out(pair.id, fraction))
