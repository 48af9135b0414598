"""Rankings whose pictures stand in rows apart, put together on disk: memory does not grow with the number of rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from inpo.data.fields import Fault, short
from inpo.data.importing.rankings import Faulty, Item, Place, Ranking
from inpo.errors import RunFault

_TABLES = """
create table ranking (number integer primary key, id text unique, caption text, columns text);
create table item (ranking integer, path text, value real, file text, row integer, field text, columns text);
create index items_of on item (ranking);
"""


class Collected:
    """Rankings by id, in the order in which the ids were first met. Kept in a nameless file that goes with the object."""

    def __init__(self) -> None:
        # An empty name is SQLite's own temporary database: in memory as far as its small cache goes, then on disk.
        self._database = sqlite3.connect("")
        self._database.executescript(_TABLES)

    def add(self, ranking: Ranking) -> None:
        """Adds a ranking's pictures to those of the same id. Raises `Faulty` where the two have different captions."""
        number, caption = self._number(ranking)
        if caption != ranking.caption:
            raise Faulty(Fault("prompt", f"is not that of the other rows of {short(ranking.id)}", short(ranking.caption)))
        self._database.executemany(
            "insert into item values (?, ?, ?, ?, ?, ?, ?)",
            (
                (number, item.path, item.value, item.place.file, item.place.row, item.field, json.dumps(item.columns))
                for item in ranking.items
            ),
        )

    def __iter__(self) -> Iterator[Ranking]:
        for number, identity, caption, columns in self._database.execute("select * from ranking order by number"):
            rows = self._database.execute("select * from item where ranking = ? order by rowid", (number,))
            items = tuple(Item(path, value, Place(file, row), field, json.loads(kept)) for _, path, value, file, row, field, kept in rows)
            yield Ranking(identity, caption, items, json.loads(columns))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()
        if isinstance(error, sqlite3.Error):
            raise RunFault(f"rows that were put aside on disk cannot be kept ({error}); TMPDIR says where that is") from error

    def _number(self, ranking: Ranking) -> tuple[int, str]:
        query = "select number, caption from ranking where id = ?"
        row = self._database.execute(query, (ranking.id,)).fetchone()
        if row is None:
            values = (ranking.id, ranking.caption, json.dumps(ranking.columns))
            cursor = self._database.execute("insert into ranking (id, caption, columns) values (?, ?, ?)", values)
            return int(cursor.lastrowid or 0), ranking.caption
        return int(row[0]), str(row[1])
