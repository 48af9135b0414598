"""Everything that is wrong with a set of pairs or single pictures, by file, row and field, before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from inpo.data.config import DataConfig, Ties
from inpo.data.fields import CAPTION, LABELS, short
from inpo.data.opening import Unusable, examine_shards
from inpo.data.pairs import SAME_IMAGES, Examined
from inpo.data.scan import Batch, Progress, Rules, Tally, rules_of, scan
from inpo.data.shards import Shard

CLIP_PIECES = 75
"""CLIP reads 77 tokens, of which two mark start and end; a word or a run of punctuation is at least one."""

_PIECE = re.compile(r"\w+|[^\w\s]+")
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Finding:
    """Something found in a file; `row` and `field` are None where it concerns the whole file. Rows count from 0."""

    file: str
    row: int | None
    field: str | None
    reason: str
    value: str = ""

    def __str__(self) -> str:
        row = "" if self.row is None else f", row {self.row}"
        name = "" if self.field is None else f", {self.field}"
        return f"{self.file}{row}{name}: {self.reason}" + (f" (found {self.value})" if self.value else "")


@dataclass(frozen=True)
class Report:
    """What `validate` found. `problems` keep rows or files out of training; `warnings` do not.

    duplicates: rows that repeat an earlier pair with the same winner, or a picture with the same label. contradictions: rows that
    repeat one with the other. long_captions: captions that CLIP cuts off. singles: the rows are single pictures, and `tally.pairs`
    counts them.
    """

    path: str
    files: int
    tally: Tally
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    duplicates: int
    contradictions: int
    long_captions: int
    singles: bool

    @property
    def ok(self) -> bool:
        """Whether there is something to train on and nothing wrong with it."""
        return not self.problems and self.tally.pairs > 0

    @property
    def identical_images(self) -> int:
        """Rows whose two images are the same bytes."""
        return sum(count for reason, count in self.tally.reasons.items() if reason.endswith(SAME_IMAGES))

    def lines(self) -> Iterator[str]:
        """The report as text: the counts, then every problem, then every warning."""
        tally = self.tally
        pairs = f"{_many(tally.pairs, 'pair')}, {_many(tally.ties, 'tie')}"
        pictures = f"{_many(tally.pairs, 'single picture')}, {tally.desired} desired"
        kinds = f"{pictures if self.singles else pairs}, {tally.unlabelled} without a label"
        filtered = f", {tally.filtered} left out by data.where" if tally.filtered else ""
        yield f"{self.path}: {_many(self.files, 'file')}, {_many(tally.rows, 'row')}: {kinds}{filtered}"
        identical = "" if self.singles else f", {self.identical_images} of them with two identical images"
        yield f"{_many(tally.rejected, 'row')} rejected{identical}"
        yield from (f"  {count} × {reason}" for reason, count in tally.reasons.most_common())
        what = "pictures" if self.singles else "pairs"
        yield f"repeated {what}: {self.duplicates} with the same label, {self.contradictions} with the opposite one"
        yield f"captions longer than CLIP reads: {self.long_captions}"
        yield from (f"problem: {problem}" for problem in self.problems)
        yield from (f"warning: {warning}" for warning in self.warnings)


@dataclass
class _Findings:
    """What gathers while the rows go by."""

    shards: Sequence[Shard]
    ties: Ties
    tally: Tally = field(default_factory=Tally)
    problems: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    duplicates: int = 0
    contradictions: int = 0
    long_captions: int = 0
    _seen: list[pa.RecordBatch] = field(default_factory=list)
    _rows: list[tuple[bytes, int, int, bool | None]] = field(default_factory=list)

    def add(self, batch: Batch) -> None:
        """Takes note of a batch of rows."""
        self.tally.add(batch.examined)
        for row, examined in batch.rows():
            if examined.faults:
                self._add_faults(batch.shard, row, examined)
            elif examined.valid:
                self._add_pair(batch.shard, row, examined)
        if len(self._rows) >= _CHUNK:
            self._pack()

    def _add_faults(self, shard: int, row: int, examined: Examined) -> None:
        self.tally.add_reasons(examined, self.shards[shard].place(row))
        name = self.shards[shard].file_of(row)
        self.problems += [Finding(name, row, fault.field, fault.reason, fault.value) for fault in examined.faults]

    def _add_pair(self, shard: int, row: int, examined: Examined) -> None:
        name = self.shards[shard].file_of(row)
        if examined.tie and self.ties == "error":
            found = "0.5" if examined.scores is None else f"both {examined.scores[0]:g}"
            field = LABELS[0] if examined.scores is None else "scores"
            self.problems.append(Finding(name, row, field, "a tie, and data.ties=error allows none", found))
        if len(_PIECE.findall(examined.caption)) > CLIP_PIECES:
            self.long_captions += 1
            self.warnings.append(Finding(name, row, CAPTION, "longer than CLIP reads: the end is cut off", short(examined.caption)))
        self._rows.append((examined.id, shard, row, None if examined.tie else examined.lower_wins))

    def find_repeats(self) -> None:
        """Looks for ids that stand in several rows. Only those rows are looked at one by one."""
        self._pack()
        table = pa.Table.from_batches(self._seen)
        counts = table.group_by("id").aggregate([("id", "count")])
        repeated = counts.filter(pc.greater(counts.column("id_count"), 1)).column("id")
        first: dict[bytes, tuple[str, bool | None]] = {}
        for row in table.filter(pc.is_in(table.column("id"), value_set=repeated)).to_pylist():
            self._compare(row, first)

    def _pack(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [(), (), (), ()]
        kinds = {"id": pa.binary(32), "file": pa.int32(), "row": pa.int64(), "lower_wins": pa.bool_()}
        arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds.values(), strict=True)]
        self._seen.append(pa.RecordBatch.from_arrays(arrays, names=list(kinds)))
        self._rows = []

    def _compare(self, row: dict[str, object], first: dict[bytes, tuple[str, bool | None]]) -> None:
        pair, file, number, winner = row["id"], row["file"], row["row"], row["lower_wins"]
        assert isinstance(pair, bytes)
        assert isinstance(file, int)
        assert isinstance(number, int)
        assert winner is None or isinstance(winner, bool)
        if pair not in first:
            first[pair] = (self.shards[file].place(number), winner)
            return
        where, earlier = first[pair]
        opposite = None not in (winner, earlier) and winner != earlier
        self.contradictions += opposite
        self.duplicates += not opposite
        what = "picture" if self.shards[file].shape.single else "pair"
        reason = f"the {what} of {where} with the opposite label" if opposite else f"the {what} of {where} once more"
        self.warnings.append(Finding(self.shards[file].file_of(number), number, None, reason))


def validate(data: str | DataConfig, *, progress: Progress | None = None) -> Report:
    """Examines every row of every file and goes on after each fault, so that the report lists all of them.

    data: what data.path may be, or settings. Raises `InputError` only where it stands for no file at all, or where data.where
    cannot be read or names columns that are not there.
    """
    config = DataConfig(data) if isinstance(data, str) else data
    rules = rules_of(config)
    shards: list[Shard] = []
    unusable: list[Finding] = []
    files = 0
    for found in examine_shards(config):
        files += 1
        if isinstance(found, Shard):
            shards.append(found)
        else:
            unusable += _unusable(found)
    return _report(config.path, files, unusable, _examine(shards, rules, ties=config.ties, progress=progress))


def _unusable(found: Unusable) -> list[Finding]:
    if not found.faults:
        return [Finding(found.name, None, None, found.reason)]
    return [Finding(found.name, None, fault.field, fault.reason, fault.value) for fault in found.faults]


def _examine(shards: Sequence[Shard], rules: Rules, *, ties: Ties, progress: Progress | None) -> _Findings:
    findings = _Findings(shards, ties)
    damaged: list[tuple[str, str]] = []
    for batch in scan(shards, rules=rules, damaged=damaged, progress=progress):
        findings.add(batch)
    findings.problems += [Finding(name, None, None, reason) for name, reason in damaged]
    findings.find_repeats()
    return findings


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _report(path: str, files: int, unusable: Sequence[Finding], findings: _Findings) -> Report:
    problems = [*unusable, *findings.problems]
    if findings.tally.rows == 0:
        problems.append(Finding(path, None, None, "there are no rows that can be read"))
    return Report(
        path=path, files=files, tally=findings.tally, problems=tuple(problems), warnings=tuple(findings.warnings),
        duplicates=findings.duplicates, contradictions=findings.contradictions, long_captions=findings.long_captions,
        singles=any(shard.shape.single for shard in findings.shards),
    )  # fmt: skip
