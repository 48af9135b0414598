"""Which rows are pairs or single pictures to train on: found by one pass over the data, kept in the run folder, read again on resume."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from inpo.data.config import DataConfig
from inpo.data.mending import with_stand_ins
from inpo.data.scan import Batch, Progress, Tally, rules_of, scan
from inpo.data.shards import Shard
from inpo.data.soft import soft_preference
from inpo.data.split import ranking_key, rankings_bytes, with_rankings
from inpo.errors import InputError
from inpo.files import replacing

INDEX_FILE = "pairs-index.parquet"
REJECTED_FILE = "rejected.jsonl"

_LAYOUT = 2
_CHUNK_ROWS = 1 << 15
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
_SCORES = ("first", "second")
_WITH_SCORES = pa.schema([*_SCHEMA, *((name, pa.float64()) for name in _SCORES)])


@dataclass(frozen=True)
class PairIndex:
    """The valid pairs in file order (`table`: `_SCHEMA`), what was left out, and what the index was made from.

    A single picture's `preference` is 1 or 0, and it is never swapped. `table` names the rankings that several pairs are of, if any are.

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
            index = _mended(kept, index, config) or _refuse(folder, kept, made_from)
    write_index(index, folder / INDEX_FILE)
    return index


def _mended(kept: PairIndex, closer: PairIndex, config: DataConfig) -> PairIndex | None:
    """The run's own list where `closer` differs from it by pairs that data.verify=full rejects and data.verify=headers did not."""
    if kept.made_from.get("verify") != "headers" or {**kept.made_from, "verify": "full"} != closer.made_from:
        return None
    table = with_stand_ins(kept.table, closer.table, config.validation_fraction)
    # The fingerprint stays: it is the same data, and checkpoints were made with it.
    return None if table is None else replace(closer, table=table, fingerprint=kept.fingerprint)


def _refuse(folder: Path, kept: PairIndex, made_from: dict[str, object]) -> NoReturn:
    raise InputError(_what_changed(folder, kept, made_from))


def _has_its_list(kept: PairIndex, folder: Path) -> bool:
    # Whoever deleted the list of what was left out wants a new one.
    return not kept.tally.rejected or (folder / REJECTED_FILE).is_file()


def _made_from(shards: Sequence[Shard], config: DataConfig) -> dict[str, object]:
    settings: dict[str, object] = {"ties": config.ties, "verify": config.verify, "where": list(config.where)}
    # Only where they are set: the list of a run that knows nothing of scores is still its list.
    scores = {"score_columns": config.score_columns, "scorer": config.scorer, "score_range": config.score_range}
    settings |= {key: value if isinstance(value, str) else list(value) for key, value in scores.items() if value is not None}
    return {"layout": _LAYOUT, **settings, "files": {shard.name: shard.stamp for shard in shards}}


def _build(
    shards: Sequence[Shard], config: DataConfig, *, made_from: dict[str, object], rejected: TextIO | None, progress: Progress | None
) -> PairIndex:
    tally, chunks, rankings = Tally(), [], list[bytes | None]()
    schema = _SCHEMA if config.score_columns is None else _WITH_SCORES
    rows: list[tuple[object, ...]] = []
    for batch in scan(shards, rules=rules_of(config), progress=progress):
        tally.add(batch.examined)
        shard = shards[batch.shard]
        _note_faults(batch, shard, tally, rejected)
        _refuse_ties(batch, shard, config)
        kept = [(row, examined) for row, examined in batch.rows() if examined.valid and (not examined.tie or config.ties == "half")]
        rankings += [ranking_key(examined.ranking) for _, examined in kept]
        rows += [
            (batch.shard, batch.group, row, examined.id, examined.preference, examined.swap, *(examined.scores or ()))
            for row, examined in kept
        ]
        if len(rows) >= _CHUNK_ROWS:
            chunks.append(_table(rows, schema))
            rows = []
    table = pa.concat_tables([*chunks, _table(rows, schema)]).combine_chunks()
    table = with_rankings(table if config.score_columns is None else _softened(table, config), rankings)
    return PairIndex(table, tally, _fingerprint(table, shards), made_from)


def _note_faults(batch: Batch, shard: Shard, tally: Tally, rejected: TextIO | None) -> None:
    for row, examined in batch.rows():
        if not examined.faults:
            continue
        tally.add_reasons(examined, shard.place(row))
        if rejected is not None:
            place = {"file": shard.file_of(row), "row": row}
            rejected.writelines(json.dumps({**place, **asdict(fault)}, ensure_ascii=False) + "\n" for fault in examined.faults)


def _refuse_ties(batch: Batch, shard: Shard, config: DataConfig) -> None:
    if config.ties != "error":
        return
    for row, examined in batch.rows():
        if examined.valid and examined.tie:
            where = shard.place(row)
            found = "label_0: 0.5" if examined.scores is None else f"{' and '.join(config.score_columns or ())}: equal"
            raise InputError(f"{where}, {found}, a tie, and data.ties=error allows none (drop leaves ties out, half keeps them)")


def _table(rows: list[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)], schema=schema)


def _softened(table: pa.Table, config: DataConfig) -> pa.Table:
    """The list of pairs with P(w ≻ l) of their scores; without a range of the settings, by the least and the largest score there is."""
    scores = np.stack([table.column(name).to_numpy() for name in _SCORES], axis=1)
    limits = config.score_range or ((scores.min(), scores.max()) if len(scores) else (0.0, 1.0))
    preference = pa.array(soft_preference(scores, limits).astype(np.float32))
    return table.drop_columns(list(_SCORES)).set_column(_SCHEMA.get_field_index("preference"), _SCHEMA.field("preference"), preference)


def _fingerprint(table: pa.Table, shards: Sequence[Shard]) -> str:
    digest = hashlib.sha256(json.dumps([shard.group_rows for shard in shards]).encode())
    if any(shard.shape.single for shard in shards):
        digest.update(b"singles")
    digest.update(ids_of(table).data)
    for name in ("preference", "swap"):
        digest.update(table.column(name).to_numpy().astype(np.float32))
    digest.update(rankings_bytes(table))
    return digest.hexdigest()


def ids_of(table: pa.Table) -> np.ndarray:
    """The pair ids as `[n, 32]` bytes, without a copy where the column is of one piece."""
    column = table.column("id").combine_chunks() if table.column("id").num_chunks != 1 else table.column("id").chunk(0)
    values = np.frombuffer(column.buffers()[1] or b"", dtype=np.uint8)
    return values[32 * column.offset : 32 * (column.offset + len(column))].reshape(-1, 32)


def read_index(path: Path) -> PairIndex | None:
    """The index at `path`; None where there is none, or none that this version can read."""
    try:
        table = pq.read_table(path).combine_chunks()
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
    known = ("ties", "verify", "where", "score_columns", "scorer", "score_range")
    settings = [key for key in known if then.get(key) != now.get(key) and (key in now or key in then)]
    changes = [f"data.{key} was {then.get(key)} and is {now.get(key)}" for key in settings]
    before, after = then.get("files"), now["files"]
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    changes += [f"{name} is new" for name in after if name not in before]
    changes += [f"{name} is gone" for name in before if name not in after]
    changes += [f"{name} has changed" for name in after if name in before and after[name] != before[name]]
    return f"{folder} was made with other data: {'; '.join(changes)}. Put the data back as they were, or start in another output folder"
