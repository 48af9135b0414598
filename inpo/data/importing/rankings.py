"""The noun that every format becomes: pictures of one caption, with a value each that says how good somebody found it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as default

from inpo.data.fields import CAPTION, Fault, caption_faults, short

Columns = Mapping[str, object]
"""Columns that are kept beside a pair, by name; a value is None where the source has none."""


@dataclass(frozen=True)
class Place:
    """Where something stands in the annotations; `row` counts from 0 and is None where a file is a row."""

    file: str
    row: int | None

    def __str__(self) -> str:
        return self.file if self.row is None else f"{self.file}, row {self.row}"


@dataclass(frozen=True)
class Item:
    """One picture of a ranking. `value`: higher is better. `path` as it is written, relative to the pictures' folder.

    `field` is where the path stood, for messages; `columns` are kept for each side of a pair: rank → rank_0, rank_1.
    """

    path: str
    value: float
    place: Place
    field: str
    columns: Columns = default(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """Pictures of one caption that were compared. `columns` are kept for the pair as a whole."""

    id: str
    caption: str
    items: tuple[Item, ...]
    columns: Columns = default(default_factory=dict)


class Faulty(Exception):
    """A row that is no ranking, with everything that is wrong with it."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def text(row: Columns, name: str) -> str:
    """A field that must hold text with something in it. Raises `Faulty`."""
    value = row.get(name)
    if value is None:
        raise Faulty(Fault(name, "is missing", "null"))
    if not isinstance(value, str) or optional_text(value) != value:
        raise Faulty(Fault(name, "is not UTF-8 text", short(value)))
    if not value.strip():
        raise Faulty(Fault(name, "is empty", short(value)))
    return value


def caption(row: Columns, name: str) -> str:
    """The caption in a field, checked as a pairs file's would be. Raises `Faulty` naming the field."""
    value = row.get(name)
    if faults := caption_faults(value):
        raise Faulty(*(Fault(name if fault.field == CAPTION else fault.field, fault.reason, fault.value) for fault in faults))
    return str(value)


def number(value: object, name: str) -> float:
    """A finite number, or text that is one (CSV has no others). Raises `Faulty` naming the field."""
    if value is None:
        raise Faulty(Fault(name, "is missing", "null"))
    try:
        found = float(value) if isinstance(value, numbers.Real | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise Faulty(Fault(name, "is not a finite number", short(value)))
    return found


def optional(value: object, name: str) -> float | None:
    """A finite number, or None where there is none. Raises `Faulty` naming the field."""
    return None if value is None else number(value, name)


def array(row: Columns, name: str) -> list[object]:
    """A field that must hold a list. Raises `Faulty`."""
    value = row.get(name)
    if isinstance(value, list):
        return value
    raise Faulty(Fault(name, "is missing" if value is None else "is not a list", short(value)))


def optional_text(value: object) -> str | None:
    """Text, with question marks for what UTF-8 cannot hold; what is no text as none."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else None
