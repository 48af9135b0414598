"""The rows of an annotation file, whatever it is written in: JSON (a list, or one object a line), CSV, Parquet, or two folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from inpo.data.fields import Fault, short
from inpo.data.files import PICTURE_SUFFIXES, CaptionFiles, Unread, walk
from inpo.data.folders import CAPTION_SUFFIX
from inpo.data.importing.pictures import inside
from inpo.data.importing.text import JsonList, is_list, lines
from inpo.data.parquet import column_values
from inpo.errors import InputError

FOLDERS = {"liked": True, "disliked": False}
"""Folders of pictures with captions beside them, and what being there means."""

_BATCH = 1024


@dataclass(frozen=True)
class Row:
    """One row: the file's name and the row's number from 0 (None in folders, where a file is a row), and what it holds."""

    file: str
    number: int | None
    values: Mapping[str, object] | Fault


def read_rows(path: Path) -> Iterator[Row]:
    """Rows in order, as many in memory as are read together. Raises `InputError` where the file as a whole cannot be read."""
    if path.is_dir():
        return _folder_rows(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: annotations are read from {', '.join(_READERS)}, not from {path.suffix or 'a file without suffix'!r}")
    return (Row(path.name, number, values) for number, values in enumerate(reader(path)))


def _checked(value: object) -> Mapping[str, object] | Fault:
    return value if isinstance(value, dict) else Fault("", "is not an object with fields", short(value))


def _json(path: Path) -> Iterator[Mapping[str, object] | Fault]:
    return map(_checked, JsonList(path)) if is_list(path) else _json_lines(path)


def _json_lines(path: Path) -> Iterator[Mapping[str, object] | Fault]:
    for line in lines(path):
        if line.strip():
            yield _json_line(line)


def _json_line(line: str) -> Mapping[str, object] | Fault:
    try:
        return _checked(json.loads(line))
    except (ValueError, RecursionError) as error:
        return Fault("", f"is not JSON: {error}", short(line))


def _csv(path: Path) -> Iterator[Mapping[str, object] | Fault]:
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = csv.reader(lines(path), delimiter=separator, strict=True)
    try:
        names = next(rows, [])
        for fields in rows:
            if len(fields) == len(names):
                yield dict(zip(names, fields, strict=True))
            elif fields:
                yield Fault("", f"has {len(fields)} fields, and the header names {len(names)}", short(separator.join(fields)))
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: not CSV ({error})") from None


def _parquet(path: Path) -> Iterator[Mapping[str, object] | Fault]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                names = batch.schema.names
                yield from (dict(zip(names, row, strict=True)) for row in zip(*map(column_values, batch.columns), strict=True))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from None


_READERS: dict[str, Callable[[Path], Iterator[Mapping[str, object] | Fault]]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


def _folder_rows(folder: Path) -> Iterator[Row]:
    """Each picture of liked/ and disliked/ with the caption of the text file beside it (`a.png`, `a.txt`)."""
    for name, label in FOLDERS.items():
        places = [f"{name}/{place}" for place, _ in walk(folder / name)]
        pictures = {PurePosixPath(place).with_suffix("") for place in places if _is_picture(place)}
        for place in places:
            path = PurePosixPath(place)
            if _is_picture(place):
                yield Row(place, None, _captioned(folder, place, label=label))
            elif path.suffix.lower() != CAPTION_SUFFIX:
                yield Row(place, None, Fault("", "is neither a picture nor a caption", short(path.name)))
            elif path.with_suffix("") not in pictures:
                yield Row(place, None, Fault("image", "is missing: a caption without a picture", short(path.name)))


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


def _captioned(folder: Path, picture: str, *, label: bool) -> Mapping[str, object] | Fault:
    name = str(PurePosixPath(picture).with_suffix(CAPTION_SUFFIX))
    try:
        return {"image": picture, "caption": CaptionFiles([inside(folder.resolve(), name)], [short(name)]).read(), "label": label}
    except Unread as error:
        return Fault("caption", error.reason, error.found)
