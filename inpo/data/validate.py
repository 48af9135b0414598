"""Everything that is wrong with a set of pairs, by file, row and field, before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from inpo.data.config import Ties, Verify
from inpo.data.pairs import CAPTION, IMAGES, LABELS, SAME_IMAGES, Examined, short
from inpo.data.scan import Place, Progress, Tally, scan
from inpo.data.shards import Shard, find_files, open_shard, schema_faults
from inpo.errors import InputError

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

    duplicates: rows that repeat an earlier pair with the same winner. contradictions: rows that repeat one with the other
    winner. long_captions: captions that CLIP cuts off.
    """

    path: str
    files: int
    tally: Tally
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    duplicates: int
    contradictions: int
    long_captions: int

    @property
    def ok(self) -> bool:
        """Whether there is something to train on and nothing wrong with it."""
        return not self.problems and self.tally.pairs > 0

    @property
    def identical_images(self) -> int:
        """Rows whose two images are the same bytes."""
        return self.tally.reasons[f"{IMAGES[1]}: {SAME_IMAGES}"]

    def lines(self) -> Iterator[str]:
        """The report as text: the counts, then every problem, then every warning."""
        tally = self.tally
        kinds = f"{tally.pairs} pairs, {tally.ties} ties, {tally.unlabelled} without a label"
        yield f"{self.path}: {self.files} files, {tally.rows} rows: {kinds}"
        yield f"{tally.rejected} rows rejected, {self.identical_images} of them with two identical images"
        yield from (f"  {count} × {reason}" for reason, count in tally.reasons.most_common())
        yield f"{self.duplicates} rows repeat a pair, {self.contradictions} repeat one with the opposite label"
        yield f"{self.long_captions} captions are longer than CLIP reads"
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

    def add(self, place: Place, examined: Examined) -> None:
        """Takes note of one row."""
        name = self.shards[place.file].name
        self.tally.add(examined, f"{name}, row {place.row}")
        self.problems += [Finding(name, place.row, fault.field, fault.reason, fault.value) for fault in examined.faults]
        if examined.faults or not examined.labelled:
            return
        if examined.tie and self.ties == "error":
            self.problems.append(Finding(name, place.row, LABELS[0], "a tie, and data.ties=error allows none", "0.5"))
        if len(_PIECE.findall(examined.caption)) > CLIP_PIECES:
            self.long_captions += 1
            self.warnings.append(Finding(name, place.row, CAPTION, "longer than CLIP reads: the end is cut off", short(examined.caption)))
        self._rows.append((examined.id, place.file, place.row, None if examined.tie else examined.lower_wins))
        if len(self._rows) == _CHUNK:
            self._pack()

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
        name = self.shards[file].name
        if pair not in first:
            first[pair] = (f"{name}, row {number}", winner)
            return
        where, earlier = first[pair]
        opposite = None not in (winner, earlier) and winner != earlier
        self.contradictions += opposite
        self.duplicates += not opposite
        reason = f"the pair of {where} with the opposite label" if opposite else f"the pair of {where} once more"
        self.warnings.append(Finding(name, number, None, reason))


def validate(path: str, *, verify: Verify = "full", ties: Ties = "drop", progress: Progress | None = None) -> Report:
    """Examines every row of every file and goes on after each fault, so that the report lists all of them.

    path: a file, a folder or a glob. Raises `InputError` only where it stands for no file at all.
    """
    files = find_files(path)
    shards: list[Shard] = []
    unusable: list[Finding] = []
    for name, file in files:
        try:
            shard, schema = open_shard(name, file)
        except InputError as error:
            unusable.append(Finding(name, None, None, str(error).removeprefix(f"{name}: ")))
            continue
        faults = schema_faults(schema)
        unusable += [Finding(name, None, fault.field, fault.reason, fault.value) for fault in faults]
        if not faults:
            shards.append(shard)
    return _report(path, len(files), unusable, _examine(shards, verify=verify, ties=ties, progress=progress))


def _examine(shards: Sequence[Shard], *, verify: Verify, ties: Ties, progress: Progress | None) -> _Findings:
    findings = _Findings(shards, ties)
    damaged: list[tuple[str, str]] = []
    for place, examined in scan(shards, verify=verify, damaged=damaged, progress=progress):
        findings.add(place, examined)
    findings.problems += [Finding(name, None, None, reason) for name, reason in damaged]
    findings.find_repeats()
    return findings


def _report(path: str, files: int, unusable: Sequence[Finding], findings: _Findings) -> Report:
    problems = [*unusable, *findings.problems]
    if findings.tally.rows == 0:
        problems.append(Finding(path, None, None, "there are no rows that can be read"))
    return Report(
        path=path, files=files, tally=findings.tally, problems=tuple(problems), warnings=tuple(findings.warnings),
        duplicates=findings.duplicates, contradictions=findings.contradictions, long_captions=findings.long_captions,
    )  # fmt: skip
