"""What pairs are read from, whatever they are stored in: named shards of rows, in groups that are read together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from inpo.data.fields import Names, Row, Shape

EXTRA = "extra"
"""Key of a row under which the columns stand that data.where asks for: a mapping by the names that users know."""


class Group(Protocol):
    """A row group made ready for reading single rows. `nbytes`: memory that it holds."""

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def row(self, offset: int) -> Row: ...


class Shard(ABC):
    """One file or folder of pairs, or of single pictures. Rows count from 0 through all of its groups.

    `name`: what messages call it, relative to the data set. `shape`: what a row holds. `columns`: what data.where may name, with the
    kind of value ("number", "text", "true or false", or "any" where it differs by row). `names`: see `inpo.data.fields.Names`.
    `stamp`: a plain value that is another one when the files were changed, found without reading them.
    """

    path: Path
    name: str
    group_rows: tuple[int, ...]
    columns: Mapping[str, str]
    shape: Shape
    names: Names
    stamp: object

    @property
    def rows(self) -> int:
        return sum(self.group_rows)

    @cached_property
    def first_rows(self) -> tuple[int, ...]:
        """The number of each group's first row."""
        return tuple(accumulate(self.group_rows, initial=0))[:-1]

    def file_of(self, row: int) -> str:
        """The name of what holds a row."""
        return self.name

    def place(self, row: int) -> str:
        """A row's place, for messages."""
        return f"{self.file_of(row)}, row {row}"

    @abstractmethod
    def batches(self, group: int, extra: Sequence[str]) -> Iterator[list[Row]]:
        """A group's rows, a few at a time, with the columns `extra` under `EXTRA`. Raises `InputError` where it is damaged."""

    @abstractmethod
    def load(self, group: int) -> Group:
        """A group for reading rows by their offset. Raises `InputError` where it is damaged."""


def stamp_of(path: Path) -> list[int]:
    """Size in bytes and time of change in nanoseconds, where the file is still there."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
