"""Folders of pictures as pairs: `win/` and `lose/`, or one folder of `…_w` and `…_l`, captions beside them."""

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

from inpo.data.files import OTHER_PICTURES, PICTURE_SUFFIXES, CaptionFiles, PictureFile, printable
from inpo.data.pairs import CAPTION, FAULTS, IMAGES, LABELS, Fault, Names, Row
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


@dataclass
class _Pair:
    """The names, relative to the folder, of what was found for one pair."""

    pictures: dict[str, list[str]] = field(default_factory=lambda: {side: [] for side in (*SIDES, UNMARKED)})
    captions: list[str] = field(default_factory=list)


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
    """A folder of pictures. Its rows are the pairs in the order of their names, incomplete ones too."""

    path: Path
    name: str
    stamp: object
    pairs: Sequence[tuple[str, _Pair]] = field(repr=False)
    names: Names = field(default_factory=lambda: MappingProxyType(dict(zip(IMAGES, SIDES, strict=True))))
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({"name": "text"}))

    @cached_property
    def group_rows(self) -> tuple[int, ...]:  # type: ignore[override]  # follows from the pairs
        starts = range(0, len(self.pairs), GROUP_ROWS)
        return tuple(min(GROUP_ROWS, len(self.pairs) - start) for start in starts)

    def file_of(self, row: int) -> str:
        return f"{self.name}/{printable(self.pairs[row][0])}"

    def batches(self, group: int, extra: Sequence[str]) -> Iterator[list[Row]]:
        rows = iter(self._rows(group, extra))
        while batch := list(islice(rows, BATCH_ROWS)):
            yield batch

    def load(self, group: int) -> FolderGroup:
        return FolderGroup(list(self._rows(group, ())))

    def _rows(self, group: int, extra: Sequence[str]) -> Iterator[Row]:
        start = self.first_rows[group]
        for stem, pair in self.pairs[start : start + self.group_rows[group]]:
            yield {**self._row(stem, pair), **({EXTRA: {"name": stem}} if extra else {})}

    def _row(self, stem: str, pair: _Pair) -> Row:
        faults = tuple(_faults(stem, pair))
        if faults:
            return {FAULTS: faults}
        cells = {image: self._picture(pair.pictures[side][0]) for image, side in zip(IMAGES, SIDES, strict=True)}
        caption = CaptionFiles([self.path / name for name in pair.captions], [printable(name) for name in pair.captions])
        return {**cells, **dict(zip(LABELS, (1.0, 0.0), strict=True)), CAPTION: caption}

    def _picture(self, name: str) -> PictureFile:
        return PictureFile(self.path / name, printable(name))


def open_folder(path: Path, files: Sequence[tuple[str, Path]]) -> FolderShard | None:
    """The pairs among `files` (names relative to `path`); None where neither layout is there. Raises `InputError` for half of one."""
    names = [name for name, _ in files if _is_picture(name) or _is_caption(name)]
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    sides = {folder.lower(): folder for folder in folders if folder.lower() in SIDES}
    if len(sides) == 1:
        (there,) = sides.values()
        (missing,) = set(SIDES) - set(sides)
        hint = nearest(missing, [folder for folder in folders if folder != there])
        raise InputError(f"data.path={path}: the folder holds {there}/ but nothing in {missing}/{hint}")
    located = _by_folder(names, sides) if sides else _by_suffix(names)
    pairs: dict[str, _Pair] = {}
    for stem, side, name in located:
        pair = pairs.setdefault(stem, _Pair())
        (pair.captions if side is None else pair.pictures[side]).append(name)
    if not any(pair.pictures[side] for pair in pairs.values() for side in SIDES):
        return None
    ordered = sorted(pairs.items(), key=lambda item: os.fsencode(item[0]))
    return FolderShard(path, printable(path.resolve().name), _stamp(path, names), ordered)


def _stamp(path: Path, names: Iterable[str]) -> str:
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
        if top in places and _is_picture(rest):
            pictured.add(_stem(rest))
            yield _stem(rest), places[top], name
        elif _is_caption(name) and (top in places or top == CAPTION_FOLDER):
            yield _stem(rest), None, name
        elif _is_caption(name):
            elsewhere.append(name)
    # A text that belongs to no picture is a caption in the folders of pictures; elsewhere it is a note or a licence.
    yield from ((_stem(name), None, name) for name in elsewhere if _stem(name) in pictured)


def _by_suffix(names: Sequence[str]) -> Iterator[tuple[str, str | None, str]]:
    """The same for `a_w.png`, `a_l.png` and `a.txt`, `a_w.txt` or `a_l.txt`."""
    for name in names:
        stem = _stem(name)
        side = _MARKS.get(stem[-2:].lower())
        if _is_picture(name):
            yield (stem[:-2], side, name) if side is not None else (stem, UNMARKED, name)
        elif _is_caption(name):
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


def _stem(name: str) -> str:
    return name[: -len(PurePosixPath(name).suffix) or None]


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _LIKE_A_PICTURE


def _is_caption(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() == CAPTION_SUFFIX
