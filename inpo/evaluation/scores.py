"""scores.parquet: one row a picture and scorer, enough to redo every statistic without scoring again. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from inpo.errors import InputError
from inpo.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

SCORES = Path("evaluation", "scores.parquet")
"""Where a run folder keeps its scores."""

PART = "#"
"""Separates a scorer's name from one of its parts: rows of scorer "world:oracle#shape" hold a part of "world:oracle"."""


@dataclass(frozen=True)
class ScoreRow:
    """One score. `score` (kept as float32) is not a number where the picture could not be read or the scorer gave none.

    `image_sha256` is of the file's bytes, empty where there is no file; `scorer_spec` is JSON with sorted keys.
    """

    prompt_index: int
    sample_index: int
    seed: int
    model: str
    scorer: str
    score: float
    scorer_spec: str
    image_sha256: str
    prompt: str


CacheKey = tuple[str, str, str]
"""(image sha256, prompt, scorer spec): all that a score depends on."""


def write_scores(path: Path, rows: Sequence[ScoreRow]) -> None:
    """Replaces `path` by these rows, in one move: a reader sees the old file or the new one, never half of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(ScoreRow)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        pq.write_table(pa.table(columns, schema=_schema()), partial)


def read_scores(path: Path) -> tuple[ScoreRow, ...]:
    """All rows. Raises `InputError` where the file is no Parquet or its columns are not those of `ScoreRow`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error}); remove it to score again") from None
    if table.schema.remove_metadata() != _schema():
        raise InputError(f"{path}: its columns are {_described(table.schema)}; expected {_described(_schema())}")
    nan = math.nan
    return tuple(ScoreRow(**{**row, "score": nan if row["score"] is None else row["score"]}) for row in table.to_pylist())


def known_scores(rows: Sequence[ScoreRow]) -> Mapping[CacheKey, Mapping[str, float]]:
    """Scores and parts by what they depend on, so that nothing is scored twice. What is not finite is left out: it is tried again."""
    known: dict[CacheKey, dict[str, float]] = {}
    for row in rows:
        if row.image_sha256 and math.isfinite(row.score):
            known.setdefault((row.image_sha256, row.prompt, row.scorer_spec), {})[row.scorer] = row.score
    return known


def _schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {"int": pa.int64(), "float": pa.float32(), "str": pa.string()}
    return pa.schema([(field.name, kinds[str(field.type)]) for field in fields(ScoreRow)])


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
