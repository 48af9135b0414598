"""Scores as a table in the format that a file's name asks for: Parquet as everywhere, or CSV or JSONL for people and other programs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from inpo.errors import InputError
from inpo.evaluation.scores import ScoreRow, read_scores, write_scores
from inpo.files import replacing

_KINDS: dict[str, Callable[[str], object]] = {"int": int, "str": str, "float": lambda text: float(text) if text else math.nan}
COLUMNS = tuple(field.name for field in fields(ScoreRow))


def check_table(path: Path) -> None:
    """Raises `InputError` for a name that no table can have."""
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"--out {path}: scores are written as {', '.join(_FORMATS)}; name a file that ends in one of them")
    if path.is_dir():
        raise InputError(f"--out {path} is a folder; name the file to write, like {path / 'scores.parquet'}")


def write_table(path: Path, rows: Sequence[ScoreRow]) -> None:
    """Replaces `path` by these rows, in one move. A score that is not a number is null in JSONL and empty in CSV."""
    write, _ = _FORMATS[path.suffix.lower()]
    write(path, rows)


def read_table(path: Path) -> tuple[ScoreRow, ...]:
    """All rows. Raises `InputError` for a file that `write_table` did not write."""
    _, read = _FORMATS[path.suffix.lower()]
    return read(path)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def _score(row: ScoreRow) -> float | None:
    """Nine digits: all that a float32 holds."""
    return float(f"{row.score:.9g}") if math.isfinite(row.score) else None


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""Beginnings that a spreadsheet takes for a formula; the apostrophe in front of one is how it is told that it is text."""


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _write_csv(path: Path, rows: Sequence[ScoreRow]) -> None:
    buffer = io.StringIO(newline="")
    # Text is quoted: Python leaves a bare carriage return as it is, and readers take it for the end of the row.
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    writer.writerows([_cell(getattr(row, name)) if name != "score" else _score(row) for name in COLUMNS] for row in rows)
    _write_text(path, buffer.getvalue())


def _read_csv(path: Path) -> tuple[ScoreRow, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise _not_ours(path)
        return tuple(_row(path, {name: (text or "").removeprefix("'") for name, text in row.items()}) for row in reader)


def _write_jsonl(path: Path, rows: Sequence[ScoreRow]) -> None:
    values = [{name: getattr(row, name) if name != "score" else _score(row) for name in COLUMNS} for row in rows]
    _write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def _read_jsonl(path: Path) -> tuple[ScoreRow, ...]:
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.strip():
            try:
                values = json.loads(line)
            except ValueError:
                raise _not_ours(path) from None
            if not isinstance(values, dict) or tuple(values) != COLUMNS:
                raise _not_ours(path)
            rows.append(_row(path, {name: "" if value is None else str(value) for name, value in values.items()}))
    return tuple(rows)


def _row(path: Path, values: dict[str, str]) -> ScoreRow:
    try:
        return ScoreRow(**{field.name: _KINDS[str(field.type)](values[field.name]) for field in fields(ScoreRow)})  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise _not_ours(path) from None


def _not_ours(path: Path) -> InputError:
    columns = ", ".join(COLUMNS)
    return InputError(f"{path}: is no table of scores with the columns {columns}; replace it with --force, or choose another --out")


_FORMATS: dict[str, tuple[Callable[[Path, Sequence[ScoreRow]], None], Callable[[Path], tuple[ScoreRow, ...]]]] = {
    ".parquet": (write_scores, read_scores),
    ".csv": (_write_csv, _read_csv),
    ".jsonl": (_write_jsonl, _read_jsonl),
}
