"""Prompt files: .txt, .json, .jsonl, .csv, .parquet → a tuple of prompts whose *index* is their identity.

Benchmarks repeat prompts on purpose, so duplicates stay. Text is kept as it is written, spaces and all; only blank lines of a
.txt or .jsonl file, which are layout and no prompts, do not count.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from inpo.errors import InputError, nearest

COLUMNS = ("prompt", "caption")
"""Names under which a table or an object may hold its prompt, the first that is there."""

FILE = "file"
"""The name under which a table or an object may hold the file name of the picture that its prompt is of."""

_FOREIGN_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16", codecs.BOM_UTF32_BE: "UTF-32"}

Located = tuple[str, object]
"""Where a prompt stands ("line 3") and what was found there."""


def read_prompts(path: Path | str) -> tuple[str, ...]:
    """All prompts of a file, in order. Raises `InputError` naming file and line (or row) of the first thing that is wrong."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"prompts: there is no file {path}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: prompts are read from {', '.join(_READERS)}, not from {path.suffix or 'a file without suffix'!r}")
    prompts = tuple(_checked(path, place, value) for place, value in reader(path))
    if not prompts:
        raise InputError(f"{path}: no prompt in it")
    return prompts


def read_named_prompts(path: Path) -> dict[str, str] | None:
    """Prompts by the file names of their pictures, where a .csv or .jsonl file has a column or field `file`; None where it has none.

    Raises `InputError` naming file and line.
    """
    found: dict[str, str] = {}
    for place, values in _NAMED[path.suffix.lower()](path) if path.suffix.lower() in _NAMED else ():
        if not isinstance(values, dict) or (not found and FILE not in values):
            return None
        name = values.get(FILE)
        if not isinstance(name, str) or not name or name in found:
            raise InputError(f"{path}, {place}: {FILE!r} must be the file name of a picture, each of them once; found {name!r}")
        found[name] = _checked(path, place, values[_column(path, place, list(values))])
    return found or None


def place_of(path: Path, index: int) -> str:
    """Where the prompt of that index stands in a file that `read_prompts` has read: "line 3"."""
    return next(islice(_READERS[path.suffix.lower()](path), index, None))[0]


def _checked(path: Path, place: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path}, {place}: the prompt must be text, found {value!r}")
    if not value.strip():
        raise InputError(f"{path}, {place}: the prompt is empty; write one or remove the row")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InputError(f"{path}, {place}: the prompt holds half a surrogate pair, which is no text: {value!r}")
    return value


def _text(path: Path) -> str:
    """The file's text without a byte-order mark. Other encodings are named, not guessed at."""
    data = path.read_bytes()
    for mark, name in _FOREIGN_MARKS.items():
        if data.startswith(mark):
            raise InputError(f"{path}: the file is {name}; save it as UTF-8")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        hint = "it looks like Windows-1252 or Latin-1; save it as UTF-8"
        raise InputError(f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8 ({hint})") from None


def _lines(path: Path) -> Iterator[Located]:
    # Not str.splitlines: it also breaks at U+2028, U+0085 and form feeds, which may stand inside a prompt.
    for number, line in enumerate(re.split(r"\r\n|\n|\r", _text(path)), start=1):
        if line.strip():
            yield f"line {number}", line


def _json_values(path: Path) -> Iterator[Located]:
    for place, line in _lines(path):
        try:
            yield place, json.loads(str(line))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, {place}: not JSON ({error})") from None


def _json_lines(path: Path) -> Iterator[Located]:
    yield from ((place, _from_object(path, place, value)) for place, value in _json_values(path))


def _json(path: Path) -> Iterator[Located]:
    try:
        values = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, list):
        raise InputError(f'{path}: expected a list of prompts or of {{"prompt": …}}, found {type(values).__name__}')
    for number, value in enumerate(values):
        yield f"entry {number}", _from_object(path, f"entry {number}", value)


def _from_object(path: Path, place: str, value: object) -> object:
    """The prompt of `"…"` or of `{"prompt": "…"}`."""
    if not isinstance(value, dict):
        return value
    return value[_column(path, place, list(value))]


def _column(path: Path, place: str, names: Sequence[str]) -> str:
    for wanted in COLUMNS:
        if wanted in names:
            return wanted
    hint = next((nearest(name, COLUMNS) for name in names if nearest(name, COLUMNS)), "")
    raise InputError(f"{path}, {place}: no field 'prompt' or 'caption', only {', '.join(map(repr, names)) or 'none'}{hint}")


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Its rows by the names of the header, which holds a prompt's."""
    rows = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    _column(path, "line 1", list(rows.fieldnames or ()))
    try:
        for row in rows:
            yield f"line {rows.line_num}", dict(row)
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: not CSV ({error})") from None


def _csv(path: Path) -> Iterator[Located]:
    yield from ((place, row[_column(path, place, list(row))]) for place, row in _csv_rows(path))


def _parquet(path: Path) -> Iterator[Located]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            column = _column(path, "schema", file.schema_arrow.names)
            values = file.read(columns=[column]).column(column).to_pylist()
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from None
    yield from ((f"row {number}", value) for number, value in enumerate(values))


_READERS: dict[str, Callable[[Path], Iterator[Located]]] = {
    ".txt": _lines,
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
}
_NAMED: dict[str, Callable[[Path], Iterator[Located]]] = {".jsonl": _json_values, ".csv": _csv_rows}
