"""Pairs to one Parquet file in Pick-a-Pic's shape, a row group at a time: memory does not grow with the number of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inpo.data.fields import CAPTION, IMAGES, LABELS
from inpo.errors import InputError, RunFault
from inpo.files import replacing

GROUP_BYTES = 32 << 20
"""A row group is closed once its pictures hold this much: loaders read row groups whole."""
GROUP_ROWS = 400
"""… or once it has this many rows, so that shuffling has blocks to permute."""

Kind = type[str] | type[int] | type[float]
_KINDS: Mapping[object, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}


class PairWriter:
    """Adds pairs to an open Parquet file; `count` is how many. Made by `writing_pairs`."""

    def __init__(self, file: pq.ParquetWriter) -> None:
        self._file = file
        self._rows: list[Mapping[str, object]] = []
        self._bytes = 0
        self.count = 0

    def write(self, row: Mapping[str, object]) -> None:
        """Adds one pair: the columns of docs/data.md, and any of the extra ones."""
        self._rows.append(row)
        self._bytes += sum(len(data) for name in IMAGES if isinstance(data := row[name], bytes))
        self.count += 1
        if self._bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Closes the row group."""
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._file.schema))
        self._rows, self._bytes = [], 0


@contextmanager
def writing_pairs(
    path: Path, extra: Mapping[str, Kind | pa.DataType], *, force: bool = False, metadata: Mapping[str, str] | None = None
) -> Iterator[PairWriter]:
    """A writer to `path`, which is at every moment absent, the old file or the new one; leaving by an exception keeps nothing.

    `extra`: names and kinds of columns beside the pair's own; rows may lack them. `metadata`: kept with the schema. Raises `InputError`
    where `check_free` does, `RunFault` where the system refuses to write.
    """
    check_free(path, force=force)
    own = {**dict.fromkeys(IMAGES, pa.binary()), **dict.fromkeys(LABELS, pa.float64()), CAPTION: pa.string()}
    schema = pa.schema([*own.items(), *((name, _KINDS.get(kind, kind)) for name, kind in extra.items())], metadata)
    plain = [name for name in schema.names if name not in IMAGES]
    # Pictures are compressed already, and statistics or dictionaries over them would repeat them.
    compression = {name: "zstd" if name in plain else "none" for name in schema.names}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(path) as partial,
            pq.ParquetWriter(partial, schema, use_dictionary=plain, write_statistics=plain, compression=compression) as file,
        ):
            writer = PairWriter(file)
            yield writer
            writer.flush()
    except OSError as error:
        raise RunFault(f"{path}: cannot be written ({error}); nothing of it was kept") from error


def check_free(path: Path, *, force: bool) -> None:
    """Raises `InputError` where `path` is a folder, no .parquet, or a file that `force` does not allow to replace."""
    if path.is_dir():
        raise InputError(f"--out {path} is a folder; name the file to write, like {path / 'pairs.parquet'}")
    if path.suffix != ".parquet":
        raise InputError(f"--out {path}: the pairs are written as Parquet; name a file that ends in .parquet")
    if path.exists() and not force:
        raise InputError(f"--out {path} is there already; choose another file, or replace it with --force")
