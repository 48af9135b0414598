"""What an import found: a line of a listing for everything that is wrong, and the counts."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from inpo.data.fields import Fault, short
from inpo.data.importing.rankings import Place, Ranking
from inpo.errors import RunFault
from inpo.files import PARTIAL

_EXAMPLES = 5


@dataclass(frozen=True)
class ImportReport:
    """What became of the annotations.

    rows: of the annotations. rejected: those with a fault in them; the sound pictures of a ranking are used all the same.
    alone: rankings (for likes: captions) with nothing to compare. same: pairs of two identical pictures, left out.
    listing: where all of it is listed, None where nothing is wrong.
    """

    out: Path
    format: str
    rows: int
    pairs: int
    ties: int
    rejected: int
    alone: int
    same: int
    reasons: Counter[str]
    examples: tuple[str, ...]
    listing: Path | None

    def lines(self) -> Iterator[str]:
        """The report as text."""
        yield f"{self.out}: pairs: {self.pairs}, ties: {self.ties}, from rows of {self.format}: {self.rows}"
        if self.listing is not None:
            yield f"rows with a fault: {self.rejected}, rankings with nothing to compare: {self.alone}, identical pairs: {self.same}"
            yield from (f"  {count} × {reason}" for reason, count in self.reasons.most_common())
            yield "the first ones:"
            yield from (f"  {example}" for example in self.examples)
            yield f"all of them: {self.listing}"


class Listing:
    """Counts, and a JSON line a fault, kept at `path` once the `with` ends, however it ends; nothing wrong leaves no file."""

    def __init__(self, path: Path) -> None:
        self.path, self._partial = path, path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
        self.rows = self.rejected = self._alone = self._same = 0
        self.reasons: Counter[str] = Counter()
        self.examples: list[str] = []

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("w", encoding="utf-8")
        except OSError as error:
            raise RunFault(f"{self.path}: cannot be written ({error})") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if self.reasons:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink()
            self.path.unlink(missing_ok=True)

    def add_row(self, place: Place, faults: Sequence[Fault]) -> None:
        """Counts a row and lists what is wrong with it."""
        self.rows += 1
        self.rejected += bool(faults)
        for fault in faults:
            self._list(place, fault)

    def add_alone(self, ranking: Ranking) -> None:
        """Lists a ranking of which no pair can be made."""
        self._alone += 1
        first = ranking.items[0]
        self._list(first.place, Fault(first.field, "has nothing to be compared with", short(ranking.caption)))

    def add_same(self, place: Place, fault: Fault) -> None:
        """Lists a pair of two identical pictures."""
        self._same += 1
        self._list(place, fault)

    def summary(self) -> str:
        """The reasons in one line."""
        return "; ".join(f"{count} × {reason}" for reason, count in self.reasons.most_common()) or "nothing"

    def report(self, out: Path, name: str, *, pairs: int, ties: int) -> ImportReport:
        """The counts as they stand."""
        return ImportReport(
            out=out, format=name, rows=self.rows, pairs=pairs, ties=ties, rejected=self.rejected, alone=self._alone,
            same=self._same, reasons=self.reasons, examples=tuple(self.examples), listing=self.path if self.reasons else None,
        )  # fmt: skip

    def _list(self, place: Place, fault: Fault) -> None:
        # A place in a list is the value's and not the kind's: file_path[3] is counted with file_path[0].
        self.reasons[f"{fault.field.partition('[')[0] or 'row'}: {fault.reason}"] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{place}, {fault}")
        self._file.write(json.dumps({"file": place.file, "row": place.row, **asdict(fault)}) + "\n")


def too_many(path: str, listing: Listing, allowed: float) -> str:
    """The refusal of annotations in which too much is wrong."""
    reasons = "".join(f"\n  {count} × {reason}" for reason, count in listing.reasons.most_common())
    examples = "".join(f"\n  {example}" for example in listing.examples)
    return (
        f"{path}: {listing.rejected} of {listing.rows} rows have a fault ({listing.rejected / listing.rows:.1%}), more than "
        f"--max-rejected-fraction {allowed:g} allows:{reasons}\nThe first ones:{examples}\nAll of them are in {listing.path}."
    )
