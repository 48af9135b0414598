"""Pairs to one Parquet file in Pick-a-Pic's shape, a row group at a time: memory does not grow with the number of pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from inpo.data.pairs import CAPTION, IMAGES, LABELS
from inpo.errors import InputError, RunFault

GROUP_BYTES = 32 << 20
"""A row group is closed once its pictures hold this much: loaders read row groups whole."""
GROUP_ROWS = 400
"""… or once it has this many rows, so that shuffling has blocks to permute."""

Kind = type[str] | type[int] | type[float]
_KINDS: Mapping[Kind, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}


class PairWriter:
    """Writes rows to `path`, which is absent or complete at every moment: the file is written beside it and moved at the end.

    `extra`: names and kinds of columns beside the pair's own; rows may lack them. Used in a `with`; leaving it by an
    exception keeps nothing. Raises `InputError` where there is a file already and `force` is not set, `RunFault` where the
    system refuses to write.
    """

    def __init__(self, path: Path, extra: Mapping[str, Kind], *, force: bool = False) -> None:
        check_free(path, force=force)
        own = {**dict.fromkeys(IMAGES, pa.binary()), **dict.fromkeys(LABELS, pa.float64()), CAPTION: pa.string()}
        self._schema = pa.schema([*own.items(), *((name, _KINDS[kind]) for name, kind in extra.items())])
        self._path, self._partial = path, path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._rows: list[Mapping[str, object]] = []
        self._bytes = 0
        self.count = 0

    def __enter__(self) -> Self:
        plain = [name for name in self._schema.names if name not in IMAGES]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Pictures are compressed already, and statistics or dictionaries over them would repeat them.
            self._file = pq.ParquetWriter(
                self._partial, self._schema, use_dictionary=plain, write_statistics=plain,
                compression={name: "zstd" if name in plain else "none" for name in self._schema.names},
            )  # fmt: skip
        except OSError as error:
            raise self._refused(error) from error
        return self

    def write(self, row: Mapping[str, object]) -> None:
        """Adds one pair: the columns of docs/data.md, and those of `extra`."""
        self._rows.append(row)
        self._bytes += sum(len(data) for name in IMAGES if isinstance(data := row[name], bytes))
        self.count += 1
        if self._bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
            self._file.close()
            if kind is None:
                os.replace(self._partial, self._path)
        except OSError as failure:
            raise self._refused(failure) from failure
        finally:
            self._partial.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._rows:
            return
        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        self._rows, self._bytes = [], 0
        try:
            self._file.write_table(table)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> RunFault:
        return RunFault(f"{self._path}: cannot be written ({error}); nothing was kept of it")


def check_free(path: Path, *, force: bool) -> None:
    """Raises `InputError` where `path` is a folder, or is a file that `force` does not allow to replace."""
    if path.is_dir():
        raise InputError(f"--out {path} is a folder; name the file to write, like {path / 'pairs.parquet'}")
    if path.suffix != ".parquet":
        raise InputError(f"--out {path}: the pairs are written as Parquet; name a file that ends in .parquet")
    if path.exists() and not force:
        raise InputError(f"--out {path} is there already; choose another file, or replace it with --force")
