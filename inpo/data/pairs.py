"""One row of a pairs file: what is wrong with it, and the `PairRecord` it becomes when nothing is."""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from inpo.data.config import Verify
from inpo.data.files import CaptionFiles, PictureFile, Unread
from inpo.data.images import BrokenImage, decode, verify_header
from inpo.errors import InputError
from inpo.types import PairRecord

IMAGES = ("jpg_0", "jpg_1")
LABELS = ("label_0", "label_1")
CAPTION = "caption"
HAS_LABEL = "has_label"

FAULTS = "faults"
"""Key of a row whose source knows already what is wrong with it: a tuple of `Fault`."""

SAME_IMAGES = "the same bytes as the other picture: there is nothing to prefer"

_JOINED_BYTES = 1 << 14
# Below this, one call on a copy is faster than six calls without.

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
class Examined:
    """What a row turned out to be. The other fields mean nothing where `faults` is not empty, or `labelled` or `wanted` is false.

    `wanted`: not filtered out by data.where. `id`: 32 bytes. `preference`: P(w ≻ l), 1 or ½. `swap`: jpg_1 is the winner.
    `lower_wins`: the winner is the image whose bytes sort first, so two rows of one id disagree where this differs.
    """

    faults: tuple[Fault, ...] = ()
    labelled: bool = True
    wanted: bool = True
    id: bytes = b""
    preference: float = 1.0
    swap: bool = False
    lower_wins: bool = True
    caption: str = ""

    @property
    def valid(self) -> bool:
        return self.wanted and self.labelled and not self.faults

    @property
    def tie(self) -> bool:
        return self.preference == 0.5


def pair_id(image: bytes, other: bytes, caption: str) -> bytes:
    """sha256 over a ‖ b ‖ c: the images' bytes with the one that sorts first as a, and the caption in UTF-8.

    Each part is preceded by its length in bytes, 8 bytes big-endian, so no two different pairs hash the same text. The id
    does not know the columns' order, the winner, the file or the row: it survives re-sharding, and rows that judge the
    same two pictures for the same caption share it.
    """
    parts = (min(image, other), max(image, other), caption.encode("utf-8"))
    if len(parts[0]) + len(parts[1]) < _JOINED_BYTES:
        return hashlib.sha256(b"".join(chunk for part in parts for chunk in (len(part).to_bytes(8, "big"), part))).digest()
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def examine(row: Row, *, verify: Verify, names: Names = MappingProxyType({})) -> Examined:
    """Everything that is wrong with `row` (keys as in Pick-a-Pic), and what pair it holds. Never raises for bad data."""
    known = row.get(FAULTS)
    if isinstance(known, tuple):
        return Examined(faults=known)
    has_label = row.get(HAS_LABEL)
    if has_label is not None and not has_label:
        return Examined(labelled=False)
    row, images, faults = _read(row)
    for field, data in zip(IMAGES, images, strict=True):
        if data is not None:
            faults += _picture_faults(field, data, verify)
    if None not in images and images[0] == images[1]:
        faults.append(Fault(IMAGES[1], SAME_IMAGES, ""))
    return Examined(faults=tuple(_renamed(fault, names) for fault in faults)) if faults else _pair(row, images)


def record(row: Row, *, where: str, names: Names = MappingProxyType({})) -> PairRecord:
    """`row` as a pair, its pictures not decoded. Raises `InputError` naming `where`, the field and the value found."""
    known = row.get(FAULTS)
    if isinstance(known, tuple):
        raise InputError(f"{where}, {known[0]}")
    row, images, faults = _read(row)
    if faults:
        raise InputError(f"{where}, {_renamed(faults[0], names)}")
    pair = _pair(row, images)
    first, second = (image for image in images if image is not None)
    win, lose = (second, first) if pair.swap else (first, second)
    return PairRecord(id=pair.id.hex(), caption=pair.caption, win=win, lose=lose, preference=pair.preference, row=where)


def _read(row: Row) -> tuple[Row, list[bytes | None], list[Fault]]:
    """The row with its files read, the bytes of its two images, and what is wrong so far."""
    read, faults = dict(row), []
    for field in (*IMAGES, CAPTION):
        cell = row.get(field)
        if isinstance(cell, PictureFile | CaptionFiles):
            try:
                read[field] = cell.read()
            except Unread as error:
                read[field] = None
                faults.append(Fault(field, error.reason, error.found))
    told = {fault.field for fault in faults}
    found = [*label_faults(read), *caption_faults(read.get(CAPTION))]
    images = [_image(read, field, found) for field in IMAGES]
    return read, images, faults + [fault for fault in found if fault.field not in told]


def _renamed(fault: Fault, names: Names) -> Fault:
    return replace(fault, field=names.get(fault.field, fault.field))


def label_faults(row: Row) -> list[Fault]:
    """What is wrong with the labels: each must be 0, ½ or 1, and the two must sum to 1."""
    faults = [fault for field in LABELS if (fault := _label_fault(field, row.get(field))) is not None]
    if not faults and _number(row, 0) + _number(row, 1) != 1:
        found = ", ".join(f"{field}={row[field]!r}" for field in LABELS)
        faults.append(Fault(LABELS[0], "the labels contradict each other: they must sum to 1", found))
    return faults


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


def _number(row: Row, side: int) -> float:
    value = row[LABELS[side]]
    assert isinstance(value, float | int | numbers.Real)
    return float(value)


def _image(row: Row, field: str, faults: list[Fault]) -> bytes | None:
    """The field's bytes, plain or in the {bytes, path} of Hugging Face; None, and a fault, where there are none."""
    value = row.get(field)
    if isinstance(value, Mapping):
        if value.get("bytes") is None and value.get("path") is not None:
            # A path in a data file is the sender's word, not ours: it is never opened.
            faults.append(Fault(field, "holds a path but no image bytes", short(value["path"])))
            return None
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    faults.append(Fault(field, "is missing", "null") if value is None else Fault(field, "is not bytes", short(value)))
    return None


def _picture_faults(field: str, data: bytes, verify: Verify) -> list[Fault]:
    check = decode if verify == "full" else verify_header
    try:
        check(data)
    except BrokenImage as error:
        return [Fault(field, error.reason, error.found or short(data))]
    return []


def _pair(row: Row, images: list[bytes | None]) -> Examined:
    first, second = (image for image in images if image is not None)
    caption = str(row[CAPTION])
    label = _number(row, 0)
    return Examined(
        id=pair_id(first, second, caption),
        preference=0.5 if label == 0.5 else 1.0,
        swap=label == 0,
        lower_wins=(first <= second) == (label != 0),
        caption=caption,
    )
