"""Which rows are pairs to train on: found by one pass over the data, kept in the run folder, and read again on resume."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from inpo.data.config import DataConfig
from inpo.data.pairs import Examined
from inpo.data.scan import Progress, Tally, scan
from inpo.data.shards import Shard
from inpo.errors import InputError
from inpo.files import replacing

INDEX_FILE = "pairs-index.parquet"
REJECTED_FILE = "rejected.jsonl"

_LAYOUT = 1
_SCHEMA = pa.schema(
    [
        ("file", pa.int32()),
        ("row_group", pa.int32()),
        ("row", pa.int64()),
        ("id", pa.binary(32)),
        ("preference", pa.float32()),
        ("swap", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class PairIndex:
    """The valid pairs in file order (`table`: `_SCHEMA`), what was left out, and what the index was made from.

    `fingerprint`: hex sha256 over the pairs and the sizes of the row groups, which both shape the order of training; it
    does not know file names or times. `made_from` does: it tells cheaply whether the files are the ones that were indexed.
    """

    table: pa.Table
    tally: Tally
    fingerprint: str
    made_from: dict[str, object]


def load_or_build(shards: Sequence[Shard], config: DataConfig, *, folder: Path | None, progress: Progress | None = None) -> PairIndex:
    """The index kept in `folder` where it still describes these files, else a new one, kept there for next time.

    Raises `InputError` where the folder's index was made from other data or settings, naming what changed.
    """
    made_from = _made_from(shards, config)
    if folder is None:
        return _build(shards, config, made_from=made_from, rejected=None, progress=progress)
    kept = read_index(folder / INDEX_FILE)
    if kept is not None and kept.made_from == made_from and _has_its_list(kept, folder):
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / REJECTED_FILE) as partial:
        with partial.open("w", encoding="utf-8") as rejected:
            index = _build(shards, config, made_from=made_from, rejected=rejected, progress=progress)
        if kept is not None and kept.fingerprint != index.fingerprint:
            raise InputError(_what_changed(folder, kept, made_from))
    write_index(index, folder / INDEX_FILE)
    return index


def _has_its_list(kept: PairIndex, folder: Path) -> bool:
    # Whoever deleted the list of what was left out wants a new one.
    return not kept.tally.rejected or (folder / REJECTED_FILE).is_file()


def _made_from(shards: Sequence[Shard], config: DataConfig) -> dict[str, object]:
    files = {}
    for shard in shards:
        status = shard.path.stat()
        files[shard.name] = [status.st_size, status.st_mtime_ns]
    return {"layout": _LAYOUT, "ties": config.ties, "verify": config.verify, "files": files}


def _build(
    shards: Sequence[Shard], config: DataConfig, *, made_from: dict[str, object], rejected: TextIO | None, progress: Progress | None
) -> PairIndex:
    tally, chunks = Tally(), []
    rows: list[tuple[int, int, int, bytes, float, bool]] = []
    for place, examined in scan(shards, verify=config.verify, progress=progress):
        name = shards[place.file].name
        where = f"{name}, row {place.row}"
        tally.add(examined, where)
        if rejected is not None:
            _write_faults(rejected, name, place.row, examined)
        if examined.faults or not examined.labelled:
            continue
        if examined.tie and config.ties == "error":
            raise InputError(f"{where}, label_0: 0.5, a tie, and data.ties=error allows none (drop leaves ties out, half keeps them)")
        if not examined.tie or config.ties == "half":
            rows.append((place.file, place.row_group, place.row, examined.id, examined.preference, examined.swap))
        if len(rows) == 1 << 14:
            chunks.append(_table(rows))
            rows = []
    table = pa.concat_tables([*chunks, _table(rows)]).combine_chunks()
    return PairIndex(table, tally, _fingerprint(table, shards), made_from)


def _table(rows: list[tuple[int, int, int, bytes, float, bool]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(_SCHEMA)
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)


def _write_faults(file: TextIO, name: str, row: int, examined: Examined) -> None:
    for fault in examined.faults:
        file.write(json.dumps({"file": name, "row": row, **asdict(fault)}, ensure_ascii=False) + "\n")


def _fingerprint(table: pa.Table, shards: Sequence[Shard]) -> str:
    digest = hashlib.sha256(json.dumps([shard.group_rows for shard in shards]).encode())
    digest.update(ids_of(table).tobytes())
    for name in ("preference", "swap"):
        digest.update(table.column(name).to_numpy().astype(np.float32).tobytes())
    return digest.hexdigest()


def ids_of(table: pa.Table) -> np.ndarray:
    """The pair ids as `[n, 32]` bytes."""
    joined = b"".join(table.column("id").to_pylist())
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, 32)


def read_index(path: Path) -> PairIndex | None:
    """The index at `path`; None where there is none, or none that this version can read."""
    try:
        table = pq.read_table(path)
        notes = json.loads(table.schema.metadata[b"inpo"])
        tally = Tally(**{**notes["tally"], "reasons": Counter(notes["tally"]["reasons"])})
        return PairIndex(table.replace_schema_metadata(None), tally, notes["fingerprint"], notes["made_from"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def write_index(index: PairIndex, path: Path) -> None:
    """Writes the index: at every moment `path` is absent, the old one or the new one."""
    notes = {"tally": vars(index.tally), "fingerprint": index.fingerprint, "made_from": index.made_from}
    with replacing(path) as partial:
        pq.write_table(index.table.replace_schema_metadata({b"inpo": json.dumps(notes)}), partial)


def _what_changed(folder: Path, kept: PairIndex, now: dict[str, object]) -> str:
    then = kept.made_from
    changes = [f"data.{key} was {then.get(key)} and is {now[key]}" for key in ("ties", "verify") if then.get(key) != now[key]]
    before, after = then.get("files"), now["files"]
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    changes += [f"{name} is new" for name in after if name not in before]
    changes += [f"{name} is gone" for name in before if name not in after]
    changes += [f"{name} has changed" for name in after if name in before and after[name] != before[name]]
    return f"{folder} was made with other data: {'; '.join(changes)}. Put the data back as they were, or start in another output folder"
