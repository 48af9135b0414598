"""JSONL and CSV files that list pairs, or single pictures, by the paths of their pictures, read a group of lines at a time."""

from __future__ import annotations

import codecs
import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from inpo.data.fields import CAPTION, HAS_LABEL, IMAGES, LABELS, SINGLE, Fault, Labels, Names, Row, Shape, pair_shape, short
from inpo.data.files import PictureFile, printable
from inpo.data.folders import FolderGroup
from inpo.data.pairs import FAULTS
from inpo.data.shards import EXTRA, Shard, stamp_of
from inpo.errors import InputError, nearest

JSON_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*JSON_SUFFIXES, *TABLE_SUFFIXES)

GROUP_ROWS = 1024
BATCH_ROWS = 16
LINE_BYTES = 1 << 20
"""A longer line is no line of a listing."""

_SIDES = ("win", "lose")
_SINGLE = ("image",)
_PICTURES = (_SIDES, ("image_0", "image_1"), IMAGES, _SINGLE)
_LEAVES = "leaves the folder that the paths are relative to: name a folder that holds all pictures by data.root"
_OUTSIDE = object()
Record = Mapping[str, object] | Fault


@dataclass(frozen=True)
class ListingShard(Shard):
    """One listing. `offsets`: the byte at which each group starts. `root`: the folder that paths are relative to and may not leave."""

    path: Path
    name: str
    stamp: object
    root: Path
    group_rows: tuple[int, ...] = field(repr=False)
    offsets: tuple[int, ...] = field(repr=False)
    header: tuple[str, ...]
    pictures: tuple[str, ...]
    shape: Shape

    @property
    def names(self) -> Names:  # type: ignore[override]  # follows from the pictures' columns
        return dict(zip(self.shape.images, self.pictures, strict=True))

    @property
    def columns(self) -> Mapping[str, str]:  # type: ignore[override]  # follows from the header
        return dict.fromkeys(self.header, "any")

    def batches(self, group: int, extra: Sequence[str]) -> Iterator[list[Row]]:
        rows = self._rows(group, extra)
        while batch := list(islice(rows, BATCH_ROWS)):
            yield batch

    def load(self, group: int) -> FolderGroup:
        rows = list(self._rows(group, ()))
        return FolderGroup(rows, nbytes=1024 * len(rows))

    def _rows(self, group: int, extra: Sequence[str]) -> Iterator[Row]:
        columns = None if _is_json(self.path) else self.header
        with _Lines(self.name, self.path, self.offsets[group]) as lines:
            for found in islice(_records(lines, columns, self.path), self.group_rows[group]):
                yield self._row(found, extra)

    def _row(self, found: Record, extra: Sequence[str]) -> Row:
        if isinstance(found, Fault):
            return {FAULTS: (found,)}
        outside = [name for name in self.pictures if self._path(found.get(name)) is _OUTSIDE]
        if outside:
            return {FAULTS: tuple(Fault(name, _LEAVES, short(found[name])) for name in outside)}
        cells = {image: self._path(found.get(name)) for image, name in zip(self.shape.images, self.pictures, strict=True)}
        ordered = self.pictures == _SIDES
        labels = {name: float(i == 0) if ordered else self._label(found.get(name)) for i, name in enumerate(self.shape.labels)}
        asked = {EXTRA: {name: found.get(name) for name in extra}} if extra else {}
        return {**cells, **labels, CAPTION: found.get(CAPTION), HAS_LABEL: _boolean(found.get(HAS_LABEL)), **asked}

    def _label(self, value: object) -> object:
        return value if self.shape.single else _number(value)

    def _path(self, value: object) -> object:
        """The file that a path stands for, `_OUTSIDE`, or the value itself where it is no path: it is named as what it is later."""
        if not isinstance(value, str) or not value:
            return value or None
        path = Path(os.path.normpath(self.root / value))
        return PictureFile(path, printable(value)) if path.is_relative_to(self.root) else _OUTSIDE


def open_listing(name: str, path: Path, root: Path | None, *, labels: Labels = "needed") -> ListingShard:
    """Finds the columns and the groups' places in one reading.

    Raises `InputError` for another encoding, or other columns.
    """
    with _Lines(name, path) as lines:
        header = None if _is_json(path) else _header(name, path, lines)
        rows, offsets = 0, [lines.offset]
        for _ in _skim(lines, header, path):
            rows += 1
            if rows % GROUP_ROWS == 0:
                offsets.append(lines.offset)
    groups = tuple(min(GROUP_ROWS, rows - start) for start in range(0, rows, GROUP_ROWS))
    columns = tuple(header) if header is not None else _keys(name, path)
    folder = Path(os.path.abspath(root if root is not None else path.parent))
    pictures = _pictures(name, columns)
    there = pictures == _SIDES or set(LABELS) <= set(columns)
    shape = SINGLE if pictures == _SINGLE else pair_shape(labels, there=there)
    _check_columns(name, columns, pictures, shape)
    return ListingShard(path, name, stamp_of(path), folder, groups, tuple(offsets[: len(groups)]), columns, pictures, shape)


class _Lines(Iterator[str]):
    """A file's lines as text, and the `offset` in bytes of the next one. Raises `InputError` for what is not UTF-8."""

    def __init__(self, name: str, path: Path, offset: int = 0) -> None:
        self.offset = offset
        self._name, self._file = name, path.open("rb")
        self._file.seek(offset)

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __next__(self) -> str:
        line = self._file.readline(LINE_BYTES + 1)
        if not line:
            raise StopIteration
        if len(line) > LINE_BYTES:
            raise InputError(f"{self._name}: the line at byte {self.offset} is longer than {LINE_BYTES >> 20} MiB: write one pair a line")
        if self.offset == 0:
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in line:
                raise InputError(f"{self._name}: byte {line.find(0) if 0 in line else 0}: looks like UTF-16, not UTF-8: {_ADVICE}")
            line = line.removeprefix(codecs.BOM_UTF8)
            self.offset = self._file.tell() - len(line)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            where = self.offset + error.start
            raise InputError(f"{self._name}: byte {where} ({line[error.start]:#04x}) is not UTF-8: {_ADVICE}") from None
        self.offset += len(line)
        return text


_ADVICE = "save the file as UTF-8, as with `iconv -f UTF-16 -t UTF-8` or `iconv -f LATIN1 -t UTF-8`"


def _skim(lines: _Lines, header: Sequence[str] | None, path: Path) -> Iterator[object]:
    """One item per record, with no more work than finding where it ends."""
    return (line for line in lines if not line.isspace()) if header is None else _table_records(lines, header, path)


def _records(lines: _Lines, header: Sequence[str] | None, path: Path) -> Iterator[Record]:
    return _json_records(lines) if header is None else _table_records(lines, header, path)


def _json_records(lines: Iterator[str]) -> Iterator[Record]:
    for line in lines:
        if line.isspace():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            found = Fault("line", "is not JSON", f"{short(line)}: {error}")
        yield found if isinstance(found, dict | Fault) else Fault("line", "is not a JSON object", short(found))


def _table_records(lines: Iterator[str], header: Sequence[str], path: Path) -> Iterator[Record]:
    reader = csv.reader(lines, delimiter=TABLE_SUFFIXES[path.suffix.lower()], strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Fault("line", "is not CSV", str(error))
            continue
        if len(row) == len(header):
            yield dict(zip(header, row, strict=True))
        elif row:
            yield Fault("line", "has another number of fields than the header", f"{len(row)} instead of {len(header)}")


def _header(name: str, path: Path, lines: _Lines) -> list[str]:
    try:
        header = [column.strip() for column in next(csv.reader(lines, delimiter=TABLE_SUFFIXES[path.suffix.lower()]), [])]
    except csv.Error as error:
        raise InputError(f"{name}: the header is not CSV: {error}") from error
    twice = {column for column in header if header.count(column) > 1}
    if twice:
        raise InputError(f"{name}: the header names {', '.join(sorted(twice))} twice")
    return header


def _keys(name: str, path: Path) -> tuple[str, ...]:
    """All keys of the first group's objects: a key that is often left out may be missing in the first."""
    with _Lines(name, path) as lines:
        objects = [found for found in islice(_json_records(lines), GROUP_ROWS) if isinstance(found, dict)]
    return tuple(dict.fromkeys(key for found in objects for key in found))


def _pictures(name: str, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that hold the pictures' paths. Raises `InputError` where there are none."""
    for pictures in _PICTURES:
        if any(picture in columns for picture in pictures):
            return pictures
    hint = nearest(_SIDES[0], columns)
    raise InputError(
        f"{name}: no pairs are listed here: expected win, lose and caption, or image_0, image_1, label_0, label_1 and caption, "
        f"or, for single pictures, image, label and caption{hint}; found {', '.join(map(short, columns[:20])) or 'nothing'}"
    )


def _check_columns(name: str, columns: Sequence[str], pictures: tuple[str, ...], shape: Shape) -> None:
    needed = [*pictures, *(() if pictures == _SIDES else shape.labels), CAPTION]
    missing = [column for column in needed if column not in columns]
    if missing:
        hint = nearest(missing[0], [column for column in columns if column not in needed])
        raise InputError(f"{name}: there is no column {' and no '.join(missing)}{hint} beside {', '.join(columns)}")


def _is_json(path: Path) -> bool:
    return path.suffix.lower() in JSON_SUFFIXES


def _number(value: object) -> object:
    """A CSV file knows text only."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value.strip() else None
    except ValueError:
        return value


def _boolean(value: object) -> object:
    if not isinstance(value, str):
        return value
    return None if not value.strip() else value.strip().lower() not in ("false", "0", "no")
