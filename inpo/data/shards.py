"""Parquet files of pairs: finding them, checking their columns, and reading them a few rows or one row group at a time."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inpo.data.pairs import CAPTION, HAS_LABEL, IMAGES, LABELS, Fault
from inpo.errors import InputError, nearest

COLUMNS = (*IMAGES, *LABELS, CAPTION)
BATCH_ROWS = 16

_MAGIC = b"PAR1"
_SPLIT = re.compile(r"(.+?)-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class Shard:
    """One Parquet file: its name relative to the data set, and the rows of each of its row groups."""

    path: Path
    name: str
    group_rows: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.group_rows)

    @cached_property
    def first_rows(self) -> tuple[int, ...]:
        """The number, in the file and from 0, of each row group's first row."""
        return tuple(accumulate(self.group_rows, initial=0))[:-1]


def find_files(path: str) -> list[tuple[str, Path]]:
    """Names and paths of the Parquet files that `path` (a file, a folder, a glob) stands for, sorted by name.

    Raises `InputError` where there are none, and where a folder mixes the splits of a Hugging Face data set.
    """
    given = Path(path).expanduser()
    if given.is_file():
        return [(given.name, given)]
    if given.is_dir():
        found = [file for file in given.rglob("*.parquet") if file.is_file() and not _hidden(file.relative_to(given))]
        files = sorted((file.relative_to(given).as_posix(), file) for file in found)
        _check_one_split(path, [name for name, _ in files])
    else:
        files = sorted((Path(name).as_posix(), Path(name)) for name in glob.glob(str(given), recursive=True) if Path(name).is_file())
    if not files:
        raise InputError(_nothing_at(path, given))
    return files


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


def _check_one_split(path: str, names: Sequence[str]) -> None:
    splits = sorted({match.group(1) for name in names if (match := _SPLIT.match(Path(name).name))})
    if len(splits) > 1:
        example = f"{path}/{splits[-1]}-*.parquet"
        raise InputError(f"data.path={path}: the folder holds the splits {', '.join(splits)}; name one by a glob, like {example}")


def _nothing_at(path: str, given: Path) -> str:
    if given.is_dir():
        return f"data.path={path}: the folder holds no *.parquet file"
    if glob.has_magic(str(given)):
        return f"data.path={path}: no file matches"
    siblings = [entry.name for entry in given.parent.iterdir()] if given.parent.is_dir() else []
    return f"data.path={path}: does not exist{nearest(given.name, siblings)}"


def open_shard(name: str, path: Path) -> tuple[Shard, pa.Schema]:
    """Reads a file's footer. Raises `InputError` where the file is no complete Parquet file."""
    with path.open("rb") as file:
        head, size = file.read(4), path.stat().st_size
        file.seek(max(0, size - 4))
        tail = file.read(4)
    if size == 0:
        raise InputError(f"{name}: zero bytes, not a Parquet file")
    if head != _MAGIC:
        raise InputError(f"{name}: not a Parquet file (it starts with {head!r})")
    if tail != _MAGIC:
        raise InputError(f"{name}: a truncated Parquet file ({size} bytes, the footer is missing): fetch or write it again")
    try:
        footer = pq.read_metadata(path)
        schema = footer.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name}: a damaged Parquet file: {error}") from error
    return Shard(path, name, tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))), schema


def open_shards(path: str) -> list[Shard]:
    """All files of a data set, their columns checked. Raises `InputError` at the first file that cannot be used."""
    shards: list[Shard] = []
    for name, file in find_files(path):
        shard, schema = open_shard(name, file)
        faults = schema_faults(schema)
        if faults:
            drift = f"; {shards[0].name} has it right: the files' columns drift apart" if shards else ""
            raise InputError(f"{name}: " + "; ".join(map(str, faults)) + drift)
        shards.append(shard)
    return shards


def schema_faults(schema: pa.Schema) -> list[Fault]:
    """Columns that are missing, double, or of a type that cannot hold what they must."""
    faults = [fault for column in COLUMNS if (fault := _column_fault(schema, column)) is not None]
    if HAS_LABEL in schema.names and (fault := _column_fault(schema, HAS_LABEL)) is not None:
        faults.append(fault)
    return faults


def _column_fault(schema: pa.Schema, column: str) -> Fault | None:
    if column not in schema.names:
        hint = nearest(column, [name for name in schema.names if name not in COLUMNS])
        return Fault(column, f"the column is missing{hint}", f"columns {', '.join(schema.names)}")
    if schema.names.count(column) > 1:
        return Fault(column, "the column is there twice", "")
    kind = schema.field(column).type
    wanted, fits = _expected(column, kind)
    return None if fits else Fault(column, f"the column must hold {wanted}", str(kind))


def _expected(column: str, kind: pa.DataType) -> tuple[str, bool]:
    # A column with no value at all has the type null: its rows are what is wrong, and they are named one by one.
    if pa.types.is_null(kind):
        return "", True
    if column in IMAGES:
        return "image bytes (binary, or a struct of bytes and path)", _is_image(kind)
    if column in LABELS:
        return "numbers", pa.types.is_floating(kind) or pa.types.is_integer(kind)
    if column == HAS_LABEL:
        return "true or false", pa.types.is_boolean(kind) or pa.types.is_integer(kind)
    return "text", _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null))


def _is_text(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def read_batches(shard: Shard, group: int) -> Iterator[list[dict[str, object]]]:
    """A row group's rows, a few at a time. Raises `InputError` where the group is damaged."""
    try:
        with pq.ParquetFile(shard.path) as file:
            columns = [name for name in (*COLUMNS, HAS_LABEL) if name in file.schema_arrow.names]
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
                values = {name: column_values(batch.column(name)) for name in columns}
                yield [dict(zip(columns, row, strict=True)) for row in zip(*values.values(), strict=True)]
    except (pa.ArrowException, OSError) as error:
        raise InputError(damaged_group(shard, group, error)) from error


def read_group(shard: Shard, group: int) -> pa.Table:
    """One whole row group, the columns that make a pair. Raises `InputError` where it is damaged."""
    try:
        with pq.ParquetFile(shard.path) as file:
            return file.read_row_group(group, columns=list(COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise InputError(damaged_group(shard, group, error)) from error


def damaged_group(shard: Shard, group: int, error: Exception) -> str:
    first = shard.first_rows[group]
    return f"{shard.name}: row group {group} (rows {first} to {first + shard.group_rows[group] - 1}) is damaged: {error}"


def column_values(column: pa.Array) -> list[object]:
    """A column's values as Python objects; text that is not UTF-8 comes as bytes."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        return [_text(value) for value in plain.cast(pa.large_binary()).to_pylist()]


def _text(value: bytes | None) -> str | bytes | None:
    try:
        return value if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value
