"""One pass over every row of a set of pairs, with counts of what was found."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from inpo.data.config import DataConfig, Verify
from inpo.data.fields import Labels, Row
from inpo.data.lookahead import in_order
from inpo.data.pairs import Examined, examine
from inpo.data.shards import EXTRA, Shard
from inpo.data.soft import Range, check_score_columns, judged_by_scores
from inpo.data.split import RANKING
from inpo.data.where import Condition, check_columns, judge, parse_condition
from inpo.errors import InputError

Progress = Callable[[int, int], None]
"""Called with the rows seen so far and the rows there are."""

_EXAMPLES = 5


@dataclass(frozen=True)
class Batch:
    """Neighbouring rows, examined: the shard's number in the data set, the row group, the first row's number in the shard, all from 0."""

    shard: int
    group: int
    first_row: int
    examined: Sequence[Examined]

    def rows(self) -> Iterator[tuple[int, Examined]]:
        """Each row's number in the shard, and what it is."""
        return enumerate(self.examined, self.first_row)


@dataclass(frozen=True)
class Rules:
    """What rows are examined for: the pictures' bodies or headers, the conditions of data.where, and who judges.

    labels: whether labels do. scores: these two columns do, their values clamped to `limits`. Where neither, a scorer does later.
    """

    verify: Verify = "full"
    conditions: tuple[Condition, ...] = ()
    labels: Labels = "needed"
    scores: tuple[str, str] | None = None
    limits: Range | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the conditions name, and those of the scores."""
        return tuple(dict.fromkeys((*(condition.column for condition in self.conditions), *(self.scores or ()))))

    def check_columns(self, columns: Mapping[str, str], name: str) -> None:
        """Raises `InputError` where `name`, with these columns and kinds, lacks one that is asked for."""
        check_columns(self.conditions, columns, name)
        if self.scores is not None:
            check_score_columns(self.scores, columns, name)


def rules_of(config: DataConfig) -> Rules:
    """What rows are examined for under these settings. Raises `InputError` for a condition that cannot be read."""
    conditions = tuple(map(parse_condition, config.where))
    labels: Labels = "needed" if config.judge is None else "ignored"
    return Rules(config.verify, conditions, labels, config.score_columns, config.score_range)


@dataclass
class Tally:
    """Counts over a data set. `reasons` counts faults, of which a rejected row may have several; `filtered`: left out by data.where.

    `pairs` counts single pictures where the rows are such; `desired` are those of them with the label 1.
    """

    rows: int = 0
    pairs: int = 0
    desired: int = 0
    ties: int = 0
    unlabelled: int = 0
    filtered: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, examined: Iterable[Examined]) -> None:
        """Counts rows; those with faults go to `add_rejected` too."""
        for one in examined:
            self.rows += 1
            if one.faults:
                self.rejected += 1
            elif not one.wanted:
                self.filtered += 1
            elif not one.labelled:
                self.unlabelled += 1
            elif one.tie:
                self.ties += 1
            else:
                self.pairs += 1
                self.desired += one.single and one.preference == 1

    def add_reasons(self, examined: Examined, where: str) -> None:
        """Counts one row's faults; `where`: its place, for the examples."""
        for fault in examined.faults:
            self.reasons[f"{fault.field}: {fault.reason}"] += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(f"{where}, {fault}")


def scan(
    shards: Sequence[Shard], *, rules: Rules, damaged: list[tuple[str, str]] | None = None, progress: Progress | None = None
) -> Iterator[Batch]:
    """Examines every row in order; pictures are decoded in threads, a few batches ahead.

    A row group that cannot be read raises `InputError`, unless `damaged` is given to receive its file and what is wrong.
    """
    workers = os.cpu_count() or 1
    total, done = sum(shard.rows for shard in shards), 0
    with ThreadPoolExecutor(workers, thread_name_prefix="examine") as pool:

        def submit(batch: tuple[int, int, int, list[Row]]) -> Future[Batch]:
            number, group, first, rows = batch
            return pool.submit(_examine, rows, Batch(number, group, first, ()), shard=shards[number], rules=rules)

        for batch in in_order(submit, _batches(shards, rules, damaged), 2 * workers):
            yield batch
            done += len(batch.examined)
            if progress is not None:
                progress(done, total)


def _batches(shards: Sequence[Shard], rules: Rules, damaged: list[tuple[str, str]] | None) -> Iterator[tuple[int, int, int, list[Row]]]:
    groups = ((number, group) for number, shard in enumerate(shards) for group in range(len(shard.group_rows)))
    for number, group in groups:
        try:
            yield from _group(shards[number], number, group, rules)
        except InputError as error:
            if damaged is None:
                raise
            name = shards[number].name
            damaged.append((name, str(error).removeprefix(f"{name}: ")))


def _group(shard: Shard, number: int, group: int, rules: Rules) -> Iterator[tuple[int, int, int, list[Row]]]:
    first = shard.first_rows[group]
    ranking = [RANKING] if RANKING in shard.columns and not shard.shape.single else []
    for rows in shard.batches(group, list(dict.fromkeys((*rules.columns, *ranking)))):
        yield number, group, first, rows
        first += len(rows)


def _examine(rows: Sequence[Row], place: Batch, *, shard: Shard, rules: Rules) -> Batch:
    return Batch(place.shard, place.group, place.first_row, [_examine_row(row, shard=shard, rules=rules) for row in rows])


def _examine_row(row: Row, *, shard: Shard, rules: Rules) -> Examined:
    values = row.get(EXTRA, {})
    assert isinstance(values, Mapping)
    if rules.conditions and EXTRA in row:
        wanted, faults = judge(rules.conditions, values)
        if faults or not wanted:
            return Examined(faults=faults, wanted=wanted)
    found = replace(examine(row, verify=rules.verify, names=shard.names, shape=shard.shape), ranking=values.get(RANKING))
    if rules.scores is None or not found.valid:
        return found
    return judged_by_scores(found, values, rules.scores, rules.limits)
