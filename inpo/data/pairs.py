"""One row of a pairs file, or of single pictures: what is wrong with it, and the `PairRecord` it becomes when nothing is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from inpo.data.config import Verify
from inpo.data.fields import (
    CAPTION,
    HAS_LABEL,
    IMAGES,
    PAIR,
    Fault,
    Names,
    Row,
    Shape,
    caption_faults,
    label_faults,
    number_of,
    opinion,
    short,
)
from inpo.data.files import CaptionFiles, PictureFile, Unread
from inpo.data.images import BrokenImage, decode, verify_header
from inpo.errors import InputError
from inpo.types import PairRecord

FAULTS = "faults"
"""Key of a row whose source knows already what is wrong with it: a tuple of `Fault`."""

SAME_IMAGES = "the same bytes as the other picture: there is nothing to prefer"

_JOINED_BYTES = 1 << 14
# Below this, one call on a copy is faster than six calls without.


@dataclass(frozen=True)
class Verdict:
    """Who won, as scores have it: P(w ≻ l), and whether w is the second picture."""

    preference: float
    swap: bool


@dataclass(frozen=True)
class Examined:
    """What a row turned out to be. The other fields mean nothing where `faults` is not empty, or `labelled` or `wanted` is false.

    `wanted`: not filtered out by data.where. `id`: 32 bytes. `preference`: P(w ≻ l), 1 or ½. `swap`: jpg_1 is the winner.
    `lower_wins`: the winner is the image whose bytes sort first, so two rows of one id disagree where this differs.
    `scores`: of the first and the second picture, where scores judge; `preference` then only tells ties from others.
    `ranking`: the value of the row's column for it, if it has one.
    A `single` picture has `preference` 1 if it is desired and else 0, and `lower_wins` is the same.
    """

    faults: tuple[Fault, ...] = ()
    labelled: bool = True
    wanted: bool = True
    id: bytes = b""
    preference: float = 1.0
    swap: bool = False
    lower_wins: bool = True
    caption: str = ""
    scores: tuple[float, float] | None = None
    single: bool = False
    ranking: object = None

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
    return _digest((min(image, other), max(image, other), caption.encode("utf-8")))


def picture_id(image: bytes, caption: str) -> bytes:
    """The same over one picture and its caption. It does not know the label."""
    return _digest((image, caption.encode("utf-8")))


def _digest(parts: Sequence[bytes]) -> bytes:
    if sum(map(len, parts)) < _JOINED_BYTES:
        return hashlib.sha256(b"".join(chunk for part in parts for chunk in (len(part).to_bytes(8, "big"), part))).digest()
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def examine(row: Row, *, verify: Verify, names: Names = MappingProxyType({}), shape: Shape = PAIR) -> Examined:
    """Everything that is wrong with `row` (keys as `shape` has them), and what it holds. Never raises for bad data."""
    known = row.get(FAULTS)
    if isinstance(known, tuple):
        return Examined(faults=known)
    has_label = row.get(HAS_LABEL)
    if shape.labels and has_label is not None and not has_label:
        return Examined(labelled=False)
    row, images, faults = _read(row, shape)
    for field, data in zip(shape.images, images, strict=True):
        if data is not None:
            faults += _picture_faults(field, data, verify)
    if len(images) > 1 and None not in images and images[0] == images[1]:
        faults.append(Fault(IMAGES[1], SAME_IMAGES, ""))
    if faults:
        return Examined(faults=tuple(_renamed(fault, names) for fault in faults))
    return _judged(row, [image for image in images if image is not None], shape)


def record(row: Row, *, where: str, names: Names = MappingProxyType({}), shape: Shape = PAIR, verdict: Verdict | None = None) -> PairRecord:
    """`row` as a pair or a single picture, nothing decoded. Raises `InputError` naming `where`, the field and the value found.

    verdict: who won, where `shape` has no labels that say it.
    """
    known = row.get(FAULTS)
    if isinstance(known, tuple):
        raise InputError(f"{where}, {known[0]}")
    row, images, faults = _read(row, shape)
    if faults:
        raise InputError(f"{where}, {_renamed(faults[0], names)}")
    pictures = [image for image in images if image is not None]
    found = _judged(row, pictures, shape)
    outcome = verdict or Verdict(found.preference, found.swap)
    ordered = pictures[::-1] if outcome.swap else pictures
    win, lose = ordered[0], None if shape.single else ordered[1]
    return PairRecord(id=found.id.hex(), caption=found.caption, win=win, lose=lose, preference=outcome.preference, row=where)


def _read(row: Row, shape: Shape) -> tuple[Row, list[bytes | None], list[Fault]]:
    """The row with its files read, the bytes of its images, and what is wrong so far."""
    read, faults = dict(row), []
    for field in (*shape.images, CAPTION):
        cell = row.get(field)
        if isinstance(cell, PictureFile | CaptionFiles):
            try:
                read[field] = cell.read()
            except Unread as error:
                read[field] = None
                faults.append(Fault(field, error.reason, error.found))
    told = {fault.field for fault in faults}
    found = [*label_faults(read, shape.labels), *caption_faults(read.get(CAPTION))]
    images = [_image(read, field, found) for field in shape.images]
    return read, images, faults + [fault for fault in found if fault.field not in told]


def _renamed(fault: Fault, names: Names) -> Fault:
    return replace(fault, field=names.get(fault.field, fault.field))


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


def _judged(row: Row, images: Sequence[bytes], shape: Shape) -> Examined:
    caption = str(row[CAPTION])
    if shape.single:
        desired = bool(opinion(row[shape.labels[0]]))
        return Examined(id=picture_id(images[0], caption), preference=float(desired), lower_wins=desired, caption=caption, single=True)
    first, second = images
    label = number_of(row, 0) if shape.labels else 1.0
    return Examined(
        id=pair_id(first, second, caption),
        preference=0.5 if label == 0.5 else 1.0,
        swap=label == 0,
        lower_wins=(first <= second) == (label != 0),
        caption=caption,
    )
