"""One pass over every row of a set of pairs, with counts of what was found."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from inpo.data.config import Verify
from inpo.data.lookahead import in_order
from inpo.data.pairs import Examined, examine
from inpo.data.shards import Shard, read_batches
from inpo.errors import InputError

Progress = Callable[[int, int], None]
"""Called with the rows seen so far and the rows there are."""

_EXAMPLES = 5


@dataclass(frozen=True)
class Place:
    """Where a row stands: the file's number in the data set, the row group, and the row in the file, all from 0."""

    file: int
    row_group: int
    row: int


@dataclass
class Tally:
    """Counts over a data set. `reasons` counts faults, of which a rejected row may have several."""

    rows: int = 0
    pairs: int = 0
    ties: int = 0
    unlabelled: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, examined: Examined, where: str) -> None:
        """Counts one row."""
        self.rows += 1
        self.unlabelled += not examined.labelled
        self.rejected += bool(examined.faults)
        for fault in examined.faults:
            self.reasons[f"{fault.field}: {fault.reason}"] += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(f"{where}, {fault}")
        if examined.labelled and not examined.faults:
            self.pairs += not examined.tie
            self.ties += examined.tie


def scan(
    shards: Sequence[Shard], *, verify: Verify, damaged: list[tuple[str, str]] | None = None, progress: Progress | None = None
) -> Iterator[tuple[Place, Examined]]:
    """Examines every row in order; pictures are decoded in threads, a few rows ahead.

    A row group that cannot be read raises `InputError`, unless `damaged` is given to receive its file and what is wrong.
    """
    workers = os.cpu_count() or 1
    total, done = sum(shard.rows for shard in shards), 0
    with ThreadPoolExecutor(workers, thread_name_prefix="examine") as pool:

        def submit(batch: tuple[Place, list[dict[str, object]]]) -> Future[list[tuple[Place, Examined]]]:
            return pool.submit(_examine_batch, *batch, verify=verify)

        for results in in_order(submit, _batches(shards, damaged), 2 * workers):
            yield from results
            done += len(results)
            if progress is not None:
                progress(done, total)


def _batches(shards: Sequence[Shard], damaged: list[tuple[str, str]] | None) -> Iterator[tuple[Place, list[dict[str, object]]]]:
    groups = (Place(number, group, row) for number, shard in enumerate(shards) for group, row in enumerate(shard.first_rows))
    for first in groups:
        shard = shards[first.file]
        try:
            yield from _group(shard, first)
        except InputError as error:
            if damaged is None:
                raise
            damaged.append((shard.name, str(error).removeprefix(f"{shard.name}: ")))


def _group(shard: Shard, first: Place) -> Iterator[tuple[Place, list[dict[str, object]]]]:
    row = first.row
    for rows in read_batches(shard, first.row_group):
        yield Place(first.file, first.row_group, row), rows
        row += len(rows)


def _examine_batch(first: Place, rows: list[dict[str, object]], *, verify: Verify) -> list[tuple[Place, Examined]]:
    return [(Place(first.file, first.row_group, first.row + i), examine(row, verify=verify)) for i, row in enumerate(rows)]
