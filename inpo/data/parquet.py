"""Parquet files of pairs or single pictures: checking their columns, and reading them a few rows or one row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from inpo.data.fields import HAS_LABEL, IMAGES, LABELS, PAIR, SINGLE, Fault, Labels, Names, Row, Shape, shape_of
from inpo.data.shards import EXTRA, Shard, stamp_of
from inpo.errors import InputError, nearest

MAX_BATCH_ROWS = 1024
BATCH_BYTES = 4 << 20

_MAGIC = b"PAR1"


@dataclass(frozen=True)
class ParquetGroup:
    """A row group in memory: the columns that make a pair, or a single picture."""

    table: pa.Table

    @property
    def nbytes(self) -> int:
        return int(self.table.nbytes)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def row(self, offset: int) -> Row:
        one = self.table.slice(offset, 1)
        return {name: column_values(one.column(name).combine_chunks())[0] for name in self.table.column_names}


@dataclass(frozen=True)
class ParquetShard(Shard):
    """One Parquet file. `footer`: read once, because opening a file of many row groups again for each would take hours."""

    path: Path
    name: str
    stamp: object
    footer: pq.FileMetaData = field(repr=False)
    shape: Shape = PAIR
    names: Names = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def group_rows(self) -> tuple[int, ...]:  # type: ignore[override]  # read from the footer
        return tuple(self.footer.row_group(i).num_rows for i in range(self.footer.num_row_groups))

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the file."""
        return self.footer.schema.to_arrow_schema()

    @cached_property
    def columns(self) -> Mapping[str, str]:  # type: ignore[override]  # read from the footer
        kinds = {field.name: kind for field in self.schema if (kind := _kind(field.type)) is not None}
        # Of a name that is there twice nobody could say which column is meant.
        return {name: kind for name, kind in kinds.items() if self.schema.names.count(name) == 1}

    def batches(self, group: int, extra: Sequence[str]) -> Iterator[list[Row]]:
        names = [name for name in (*self.shape.columns, *self.shape.optional) if name in self.schema.names]
        wanted = list(dict.fromkeys((*names, *extra)))
        try:
            with pq.ParquetFile(self.path, metadata=self.footer) as file:
                for batch in file.iter_batches(self._batch_rows(group), row_groups=[group], columns=wanted):
                    values = {name: column_values(batch.column(name)) for name in wanted}
                    yield _rows(values, names, extra)
        except (pa.ArrowException, OSError) as error:
            raise InputError(self._damaged(group, error)) from error

    def load(self, group: int) -> ParquetGroup:
        try:
            with pq.ParquetFile(self.path, metadata=self.footer) as file:
                return ParquetGroup(file.read_row_group(group, columns=list(self.shape.columns)))
        except (pa.ArrowException, OSError) as error:
            raise InputError(self._damaged(group, error)) from error

    def _batch_rows(self, group: int) -> int:
        a_row: int = self.footer.row_group(group).total_byte_size // max(1, self.group_rows[group])
        return min(MAX_BATCH_ROWS, max(1, BATCH_BYTES // max(1, a_row)))

    def _damaged(self, group: int, error: Exception) -> str:
        if stamp_of(self.path) != self.stamp:
            return f"{self.name}: the file was changed while in use"
        first = self.first_rows[group]
        return f"{self.name}: row group {group} (rows {first} to {first + self.group_rows[group] - 1}) is damaged: {error}"


def open_parquet(name: str, path: Path, *, labels: Labels = "needed") -> ParquetShard:
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
        shape = shape_of(footer.schema.to_arrow_schema().names, labels)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name}: a damaged Parquet file: {error}") from error
    return ParquetShard(path, name, stamp_of(path), footer, shape)


def schema_faults(schema: pa.Schema, shape: Shape) -> list[Fault]:
    """Columns of `shape` that are missing, double, or of a type that cannot hold what they must."""
    faults = [fault for column in shape.columns if (fault := _column_fault(schema, column)) is not None]
    there = [column for column in shape.optional if column in schema.names]
    return faults + [fault for column in there if (fault := _column_fault(schema, column)) is not None]


def _column_fault(schema: pa.Schema, column: str) -> Fault | None:
    if column not in schema.names:
        hint = nearest(column, [name for name in schema.names if name not in PAIR.columns])
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
    if column in (*IMAGES, *SINGLE.images):
        return "image bytes (binary, or a struct of bytes and path)", _is_image(kind)
    if column in LABELS:
        return "numbers", pa.types.is_floating(kind) or pa.types.is_integer(kind)
    if column in SINGLE.labels:
        plain = any(check(kind) for check in (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating))
        return "1 and 0, true and false, or words for them", plain or _is_text(kind)
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


def _rows(values: Mapping[str, list[object]], names: Sequence[str], extra: Sequence[str]) -> list[Row]:
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(values[name] for name in names), strict=True)]
    if extra:
        for row, asked in zip(rows, zip(*(values[name] for name in extra), strict=True), strict=True):
            row[EXTRA] = dict(zip(extra, asked, strict=True))
    return list(rows)


def _kind(kind: pa.DataType) -> str | None:
    """What data.where may compare a column with; None for columns that are no single values."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_null(plain):
        return "any"
    if pa.types.is_boolean(plain):
        return "true or false"
    if pa.types.is_integer(plain) or pa.types.is_floating(plain) or pa.types.is_decimal(plain):
        return "number"
    return "text" if _is_text(plain) else None


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
