"""Folders of pictures as pairs: `win/` and `lose/`, or one folder of `…_w` and `…_l`, captions beside them.

Single pictures in `liked/` and `disliked/` are the business of `inpo.data.opinions`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Protocol

from inpo.data.fields import CAPTION, IMAGES, LABELS, PAIR, Fault, Names, Row, Shape
from inpo.data.files import OTHER_PICTURES, PICTURE_SUFFIXES, CaptionFiles, PictureFile, printable
from inpo.data.pairs import FAULTS
from inpo.data.shards import EXTRA, Shard, stamp_of
from inpo.errors import InputError, nearest

WIN, LOSE = "win", "lose"
SIDES = (WIN, LOSE)
UNMARKED = "unmarked"
CAPTION_FOLDER = "captions"
CAPTION_SUFFIX = ".txt"

GROUP_ROWS = 256
BATCH_ROWS = 16

_MARKS = {"_w": WIN, "_l": LOSE}
_LIKE_A_PICTURE = PICTURE_SUFFIXES | OTHER_PICTURES


class Entry(Protocol):
    """What was found for one row."""

    def row(self, folder: Path, stem: str) -> Row:
        """The row, its pictures and caption not read. `stem`: the name that the row goes by."""


@dataclass
class _Pair:
    """The names, relative to the folder, of what was found for one pair."""

    pictures: dict[str, list[str]] = field(default_factory=lambda: {side: [] for side in (*SIDES, UNMARKED)})
    captions: list[str] = field(default_factory=list)

    def row(self, folder: Path, stem: str) -> Row:
        faults = tuple(_faults(stem, self))
        if faults:
            return {FAULTS: faults}
        cells = {image: picture_at(folder, self.pictures[side][0]) for image, side in zip(IMAGES, SIDES, strict=True)}
        return {**cells, **dict(zip(LABELS, (1.0, 0.0), strict=True)), CAPTION: caption_at(folder, self.captions)}


@dataclass(frozen=True)
class FolderGroup:
    """Rows of a folder; pictures are read when a row is examined, so it holds no memory worth counting."""

    rows: Sequence[Row]
    nbytes: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, offset: int) -> Row:
        return self.rows[offset]


@dataclass(frozen=True)
class FolderShard(Shard):
    """A folder of pictures. Its rows are the pairs or the pictures in the order of their names, incomplete ones too."""

    path: Path
    name: str
    stamp: object
    entries: Sequence[tuple[str, Entry]] = field(repr=False)
    shape: Shape = PAIR
    names: Names = field(default_factory=lambda: MappingProxyType(dict(zip(IMAGES, SIDES, strict=True))))
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({"name": "text"}))

    @cached_property
    def group_rows(self) -> tuple[int, ...]:  # type: ignore[override]  # follows from the entries
        starts = range(0, len(self.entries), GROUP_ROWS)
        return tuple(min(GROUP_ROWS, len(self.entries) - start) for start in starts)

    def file_of(self, row: int) -> str:
        return f"{self.name}/{printable(self.entries[row][0])}"

    def batches(self, group: int, extra: Sequence[str]) -> Iterator[list[Row]]:
        rows = iter(self._rows(group, extra))
        while batch := list(islice(rows, BATCH_ROWS)):
            yield batch

    def load(self, group: int) -> FolderGroup:
        return FolderGroup(list(self._rows(group, ())))

    def _rows(self, group: int, extra: Sequence[str]) -> Iterator[Row]:
        start = self.first_rows[group]
        for stem, entry in self.entries[start : start + self.group_rows[group]]:
            yield {**entry.row(self.path, stem), **({EXTRA: {"name": stem}} if extra else {})}


def picture_at(folder: Path, name: str) -> PictureFile:
    """The picture of that name, relative to the folder."""
    return PictureFile(folder / name, printable(name))


def caption_at(folder: Path, names: Sequence[str]) -> CaptionFiles:
    """The caption in the files of these names."""
    return CaptionFiles([folder / name for name in names], [printable(name) for name in names])


def open_folder(path: Path, files: Sequence[tuple[str, Path]], *, shape: Shape = PAIR) -> FolderShard | None:
    """The pairs among `files` (names relative to `path`); None where neither layout is there. Raises `InputError` for half of one."""
    names = [name for name, _ in files if is_picture(name) or is_caption(name)]
    sides = two_folders(path, names, SIDES)
    located = _by_folder(names, sides) if sides else _by_suffix(names)
    pairs: dict[str, _Pair] = {}
    for stem, side, name in located:
        pair = pairs.setdefault(stem, _Pair())
        (pair.captions if side is None else pair.pictures[side]).append(name)
    if not any(pair.pictures[side] for pair in pairs.values() for side in SIDES):
        return None
    ordered = sorted(pairs.items(), key=lambda item: os.fsencode(item[0]))
    return FolderShard(path, printable(path.resolve().name), folder_stamp(path, names), ordered, shape)


def two_folders(path: Path, names: Iterable[str], wanted: tuple[str, str]) -> dict[str, str]:
    """The two folders `wanted` by their names as they are written; empty where neither is there. Raises `InputError` for one alone."""
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    found = {folder.lower(): folder for folder in folders if folder.lower() in wanted}
    if len(found) == 1:
        (there,) = found.values()
        (missing,) = set(wanted) - set(found)
        hint = nearest(missing, [folder for folder in folders if folder != there])
        raise InputError(f"data.path={path}: the folder holds {there}/ but nothing in {missing}/{hint}")
    return found


def folder_stamp(path: Path, names: Iterable[str]) -> str:
    """Another one when a file was changed, came or went."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(json.dumps([name, *stamp_of(path / name)]).encode())
    return digest.hexdigest()


def _by_folder(names: Iterable[str], sides: Mapping[str, str]) -> Iterator[tuple[str, str | None, str]]:
    """Stem, side (None for a caption) and name of each file: `win/a/b.png` is the winner of `a/b`."""
    places = {folder: side for side, folder in sides.items()}
    pictured, elsewhere = set(), []
    for name in names:
        top, _, rest = name.partition("/")
        if top in places and is_picture(rest):
            pictured.add(stem_of(rest))
            yield stem_of(rest), places[top], name
        elif is_caption(name) and (top in places or top == CAPTION_FOLDER):
            yield stem_of(rest), None, name
        elif is_caption(name):
            elsewhere.append(name)
    # A text that belongs to no picture is a caption in the folders of pictures; elsewhere it is a note or a licence.
    yield from ((stem_of(name), None, name) for name in elsewhere if stem_of(name) in pictured)


def _by_suffix(names: Sequence[str]) -> Iterator[tuple[str, str | None, str]]:
    """The same for `a_w.png`, `a_l.png` and `a.txt`, `a_w.txt` or `a_l.txt`."""
    for name in names:
        stem = stem_of(name)
        side = _MARKS.get(stem[-2:].lower())
        if is_picture(name):
            yield (stem[:-2], side, name) if side is not None else (stem, UNMARKED, name)
        elif is_caption(name):
            yield stem[:-2] if side is not None else stem, None, name


def _faults(stem: str, pair: _Pair) -> Iterator[Fault]:
    there = [name for side in SIDES for name in pair.pictures[side]]
    for name in pair.pictures[UNMARKED]:
        yield Fault(WIN, "the name ends neither in _w nor in _l", printable(name))
    if not there and pair.pictures[UNMARKED]:
        return
    if not there:
        yield Fault(CAPTION, "a caption without pictures", printable(pair.captions[0]))
        return
    for side in SIDES:
        found = pair.pictures[side]
        if not found:
            yield Fault(side, "there is no picture of this name on this side", f"only {printable(there[0])}")
        elif len(found) > 1:
            yield Fault(side, "several pictures share this name", printable(", ".join(found)))
    if not pair.captions:
        expected = printable(PurePosixPath(stem).name + CAPTION_SUFFIX)
        yield Fault(CAPTION, "there is no caption file", f"no {expected} beside {printable(there[0])}")


def stem_of(name: str) -> str:
    """A name without its ending."""
    return name[: -len(PurePosixPath(name).suffix) or None]


def is_picture(name: str) -> bool:
    """Whether a file is meant as a picture, readable or not."""
    return PurePosixPath(name).suffix.lower() in _LIKE_A_PICTURE


def is_caption(name: str) -> bool:
    """Whether a file is meant as a caption."""
    return PurePosixPath(name).suffix.lower() == CAPTION_SUFFIX
