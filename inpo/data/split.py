"""Which pairs are held out together: those of one ranking share pictures, so training on one of them would show the others' too."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

RANKING = "ranking_id"
"""The column of a pairs file that names the ranking a pair was made of."""
_KEPT = "ranking"


def ranking_key(value: object) -> bytes | None:
    """16 bytes for a ranking's id; None for a pair without one."""
    text = "" if value is None else str(value).strip()
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16] if text else None


def with_rankings(table: pa.Table, rankings: Sequence[bytes | None]) -> pa.Table:
    """A list of pairs with the keys of those rankings that several pairs are of; as it is where there are none."""
    times = Counter(rankings)
    shared = [key if key is not None and times[key] > 1 else None for key in rankings]
    return table.append_column(_KEPT, pa.array(shared, pa.binary(16))) if any(shared) else table


def without_rankings(table: pa.Table) -> pa.Table:
    """The list as it was before `with_rankings`."""
    return table.drop_columns([_KEPT]) if _KEPT in table.column_names else table


def rankings_bytes(table: pa.Table) -> bytes:
    """What a fingerprint of the list needs to know of the rankings; empty where no pairs share one."""
    return b"" if _KEPT not in table.column_names else b"rankings" + b"".join(key or b"-" for key in table.column(_KEPT).to_pylist())


class SplitNames(Sequence[str]):
    """What decides for each pair of a list whether it is held out: its ranking where it shares one, else its own id."""

    def __init__(self, table: pa.Table) -> None:
        self._ids = table.column("id")
        self._rankings = table.column(_KEPT) if _KEPT in table.column_names else None

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # slices are not needed
        ranking = None if self._rankings is None else self._rankings[index].as_py()
        return self._ids[index].as_py().hex() if ranking is None else f"ranking {ranking.hex()}"
