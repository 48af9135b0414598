"""The columns of a row, by the names that Pick-a-Pic gave them, and what may be wrong with labels and captions."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

IMAGES = ("jpg_0", "jpg_1")
LABELS = ("label_0", "label_1")
CAPTION = "caption"
HAS_LABEL = "has_label"

Labels = Literal["needed", "taken", "ignored"]
"""Whether the labels of pairs must be there, are taken where they are, or are not looked at because scores judge."""

OPINIONS = {
    **dict.fromkeys(("true", "1", "1.0", "like", "liked", "up"), True),
    **dict.fromkeys(("false", "0", "0.0", "-1", "-1.0", "dislike", "disliked", "down"), False),
}
"""What the label of a single picture may be as text, in lower case."""

Row = Mapping[str, object]
Names = Mapping[str, str]
"""What a source's users call Pick-a-Pic's columns, where they call them otherwise."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a row: the field, what is wrong, and the value found, shortened."""

    field: str
    reason: str
    value: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" + (f" (found {self.value})" if self.value else "")


@dataclass(frozen=True)
class Shape:
    """The columns that a row's pictures and labels stand in. `labels` is empty where scores judge, and no label is read."""

    images: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All that a row must have."""
        return (*self.images, *self.labels, CAPTION)

    @property
    def optional(self) -> tuple[str, ...]:
        """What is read where it is there."""
        return (HAS_LABEL,) if self.labels else ()

    @property
    def single(self) -> bool:
        """Whether a row is one picture and not a pair."""
        return len(self.images) == 1


PAIR = Shape(IMAGES, LABELS)
UNJUDGED = Shape(IMAGES, ())
SINGLE = Shape(("jpg",), ("label",))


def shape_of(columns: Collection[str], labels: Labels) -> Shape:
    """What the rows of a Parquet file with these columns are: single pictures where it has their column and none of a pair's."""
    if SINGLE.images[0] in columns and not set(IMAGES) & set(columns):
        return SINGLE
    return pair_shape(labels, there=set(LABELS) <= set(columns))


def pair_shape(labels: Labels, *, there: bool) -> Shape:
    """What a pair's row is, whose labels are `there` or not."""
    return PAIR if labels == "needed" or (labels == "taken" and there) else UNJUDGED


def label_faults(row: Row, labels: Sequence[str]) -> list[Fault]:
    """What is wrong with the labels: of two, each must be 0, ½ or 1 and both sum to 1; one alone must say yes or no."""
    if len(labels) == 1:
        return _opinion_faults(labels[0], row.get(labels[0]))
    faults = [fault for field in labels if (fault := _label_fault(field, row.get(field))) is not None]
    if labels and not faults and number_of(row, 0) + number_of(row, 1) != 1:
        found = ", ".join(f"{field}={row[field]!r}" for field in labels)
        faults.append(Fault(labels[0], "the labels contradict each other: they must sum to 1", found))
    return faults


def _opinion_faults(field: str, value: object) -> list[Fault]:
    if value is None:
        return [Fault(field, "is missing", "null")]
    return [] if opinion(value) is not None else [Fault(field, f"is not one of {', '.join(OPINIONS)}", short(value))]


def opinion(value: object) -> bool | None:
    """Whether a single picture is a desired one; None where its label says neither."""
    return OPINIONS.get(str(value).strip().lower()) if isinstance(value, str | numbers.Real) else None


def caption_faults(value: object) -> list[Fault]:
    """What is wrong with a caption: it must be text with something in it."""
    if value is None:
        return [Fault(CAPTION, "is missing", "null")]
    if not isinstance(value, str):
        return [Fault(CAPTION, "is not UTF-8 text", short(value))]
    if not value.strip():
        return [Fault(CAPTION, "is empty", short(value))]
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return [Fault(CAPTION, "is not UTF-8 text", short(value))]
    return []


def short(value: object, limit: int = 60) -> str:
    """`repr(value)`, cut in the middle of nowhere but never longer than `limit`; bytes as their number and their start."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes, {value[:12]!r}…"
    text = ascii(value[:limit] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _label_fault(field: str, value: object) -> Fault | None:
    if value is None:
        return Fault(field, "is missing", "null")
    if isinstance(value, bool) or not isinstance(value, float | int | numbers.Real):
        return Fault(field, "is not a number", short(value))
    if math.isnan(value):
        return Fault(field, "is not a number", "NaN")
    return None if value in (0, 0.5, 1) else Fault(field, "is not 0, 0.5 or 1", short(value))


def number_of(row: Row, side: int) -> float:
    """The label of one of two pictures, found sound before."""
    value = row[LABELS[side]]
    assert isinstance(value, float | int | numbers.Real)
    return float(value)
