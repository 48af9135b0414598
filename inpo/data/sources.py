"""Pairs or single pictures from files and folders, by index, with memory that does not grow with the number of rows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inpo.data.config import DataConfig
from inpo.data.fields import Row
from inpo.data.index import PairIndex, ids_of, load_or_build
from inpo.data.opening import open_shards
from inpo.data.order import window_blocks
from inpo.data.pairs import Verdict, record
from inpo.data.scan import Progress, Tally
from inpo.data.shards import Group, Shard
from inpo.data.split import SplitNames
from inpo.data.suits import check_singles
from inpo.errors import InputError
from inpo.methods import Method
from inpo.types import PairRecord

GROUP_CACHE_BYTES = 2 << 30
"""Row groups kept in memory hold at most this much, unless one alone is larger."""


class PairIds(Sequence[str]):
    """Hexadecimal pair ids over a compact table of their bytes."""

    def __init__(self, table: np.ndarray) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # slices are not needed
        return bytes(self._table[index]).hex()


class ParquetPairs:
    """An `inpo.types.PairSource` over the valid pairs, or single pictures, of a file, a folder or a glob.

    labelled: false where scores judge; who won is then what `index` says. `tally` counts what the files hold, `ids` the pairs' ids in
    order. Row groups are read whole and the latest are kept: as many as the loader's shuffling window touches. Safe to use from
    several threads.
    """

    def __init__(self, shards: Sequence[Shard], index: PairIndex, *, labelled: bool = True) -> None:
        self._shards = shards
        self._verdicts = None if labelled else [index.table.column(name).to_numpy() for name in ("preference", "swap")]
        self._places = [index.table.column(name).to_numpy() for name in ("file", "row_group", "row")]
        self._groups: OrderedDict[tuple[int, int], Group] = OrderedDict()
        self._lock = threading.Lock()
        self.ids = PairIds(ids_of(index.table))
        self.split_names = SplitNames(index.table)
        self.size = len(self.ids)
        self.singles = any(shard.shape.single for shard in shards)
        self.block = _typical_group(shards, self.size, index.tally.rows)
        self.fingerprint = index.fingerprint
        self.tally = index.tally
        # A block of pairs may straddle two row groups, and two windows are open while one runs out.
        self._capacity = 4 * window_blocks(self.block)

    @classmethod
    def open(
        cls, config: DataConfig, *, folder: Path | None = None, progress: Progress | None = None, method: Method | None = None
    ) -> ParquetPairs:
        """Finds the valid pairs of `config.path`, or reads the list of them kept in `folder` by an earlier opening.

        folder: the run folder; receives `rejected.jsonl` and the index. None keeps nothing.
        method: what will learn from them; None where that is not known.
        Raises `InputError` for unusable files or columns, single pictures where settings or method want pairs, too many broken rows,
        no pair at all, or data that are not the ones the folder's index was made from.
        """
        shards = open_shards(config)
        if any(shard.shape.single for shard in shards):
            check_singles(config, method)
        index = load_or_build(shards, config, folder=folder, progress=progress)
        _check_enough(config, index, folder)
        return cls(shards, index, labelled=config.judge is None)

    def __getitem__(self, index: int) -> PairRecord:
        if not 0 <= index < self.size:
            raise IndexError(f"pair {index} of {self.size}")
        file, group, row = (int(column[index]) for column in self._places)
        shard = self._shards[file]
        pair = record(
            self._row(file, group, row - shard.first_rows[group]), where=shard.place(row), names=shard.names, shape=shard.shape,
            verdict=self._verdict(index),
        )  # fmt: skip
        if pair.id != self.ids[index]:
            raise InputError(f"{pair.row}: the pair is not the one that was indexed; the file was changed while in use")
        return pair

    def _verdict(self, index: int) -> Verdict | None:
        if self._verdicts is None:
            return None
        preference, swap = (column[index] for column in self._verdicts)
        return Verdict(float(preference), bool(swap))

    def _row(self, file: int, group: int, offset: int) -> Row:
        with self._lock:
            rows = self._groups.pop((file, group), None)
            if rows is None:
                rows = self._shards[file].load(group)
            self._groups[file, group] = rows
            while len(self._groups) > 1 and self._is_crowded():
                self._groups.popitem(last=False)
        if offset >= len(rows):
            raise InputError(f"{self._shards[file].name}: row group {group} has fewer rows than when it was indexed")
        return rows.row(offset)

    def _is_crowded(self) -> bool:
        return len(self._groups) > self._capacity or sum(rows.nbytes for rows in self._groups.values()) > GROUP_CACHE_BYTES


def _typical_group(shards: Sequence[Shard], pairs: int, rows: int) -> int:
    """Pairs in a row group of median size, so that blocks of pairs and row groups cover much the same rows."""
    sizes = [size for shard in shards for size in shard.group_rows if size]
    return max(1, round(float(np.median(sizes)) * pairs / rows))


def _check_enough(config: DataConfig, index: PairIndex, folder: Path | None) -> None:
    tally = index.tally
    if tally.rows == 0:
        raise InputError(f"data.path={config.path}: there are no rows")
    if tally.rejected > config.max_rejected_fraction * tally.rows:
        raise InputError(_too_many_rejected(config, tally, folder))
    if not len(index.table):
        raise InputError(
            f"data.path={config.path}: none of {tally.rows} rows can be trained on "
            f"({tally.rejected} rejected, {tally.ties} ties with data.ties={config.ties}, {tally.unlabelled} without a label"
            f"{_filtered(config, tally)})"
        )


def _filtered(config: DataConfig, tally: Tally) -> str:
    return f", {tally.filtered} left out by data.where={list(config.where)}" if config.where else ""


def _too_many_rejected(config: DataConfig, tally: Tally, folder: Path | None) -> str:
    reasons = "".join(f"\n  {count} × {reason}" for reason, count in tally.reasons.most_common())
    examples = "".join(f"\n  {example}" for example in tally.examples)
    where = "" if folder is None else f"\nAll of them are in {folder / 'rejected.jsonl'}."
    return (
        f"data.path={config.path}: {tally.rejected} of {tally.rows} rows are broken ({tally.rejected / tally.rows:.1%}), "
        f"more than data.max_rejected_fraction={config.max_rejected_fraction:g} allows:{reasons}\nThe first ones:{examples}{where}"
    )
