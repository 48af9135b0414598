"""Pairs of one ranking share pictures, so they are held out together; data without shared rankings keep the split that they had."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from inpo.data import index as index_module
from inpo.data.config import DataConfig
from inpo.data.derived import SinglesOfPairs
from inpo.data.index import INDEX_FILE, read_index, write_index
from inpo.data.order import held_out, held_rows
from inpo.data.sources import ParquetPairs
from inpo.errors import InputError
from tests.unit.data.making import png, row, write

FRACTION = 0.3


def ranked(path: Path, rankings: int = 12, pictures: int = 4, **changes: object) -> Path:
    """Every pair of each ranking's pictures, as `inpo data import` writes them."""
    rows = [
        row(0, jpg_0=png(100 * number + i), jpg_1=png(100 * number + j), caption=f"caption {number}", ranking_id=str(number), **changes)
        for number in range(rankings)
        for i, j in combinations(range(pictures), 2)
    ]
    return write(path, rows)


def pictures_of(source: ParquetPairs, rows: np.ndarray) -> set[bytes]:
    return {picture for i in np.flatnonzero(rows) for picture in (source[int(i)].win, source[int(i)].lose)}


def test_no_picture_of_a_held_out_pair_is_trained_on(tmp_path: Path) -> None:
    """Twelve rankings of four: all six pairs of a ranking on one side, about the share that was asked for."""
    source = ParquetPairs.open(DataConfig(str(ranked(tmp_path / "p.parquet"))))
    held = held_rows(source, FRACTION)
    assert 0 < held.sum() < len(held) == source.size == 72
    assert not pictures_of(source, held) & pictures_of(source, ~held)
    by_ranking = held.reshape(12, 6)
    assert (by_ranking.all(axis=1) | ~by_ranking.any(axis=1)).all()
    # By its own id alone a pair would part from the others of its ranking.
    alone = np.array([held_out(name, FRACTION) for name in source.ids])
    assert pictures_of(source, alone) & pictures_of(source, ~alone)


@pytest.mark.parametrize("changes", [{}, {"ranking_id": "own"}, {"ranking_id": None}], ids=["no column", "one pair each", "no value"])
def test_pairs_that_share_no_ranking_keep_their_split_and_fingerprint(tmp_path: Path, changes: dict[str, object]) -> None:
    """By the pair's id, as ever: a checkpoint of an older version is still of the same data."""
    named = {"ranking_id": lambda i: f"{changes['ranking_id']} {i}"} if changes.get("ranking_id") else {}
    rows = [row(i, **(changes | {key: value(i) for key, value in named.items()})) for i in range(10)]
    plain = ParquetPairs.open(DataConfig(str(write(tmp_path / "plain" / "p.parquet", [row(i) for i in range(10)]))))
    source = ParquetPairs.open(DataConfig(str(write(tmp_path / "p.parquet", rows))))
    assert source.fingerprint == plain.fingerprint
    assert held_rows(source, FRACTION).tolist() == [held_out(name, FRACTION) for name in plain.ids]
    assert held_rows(source, FRACTION).any()


def test_a_run_of_an_older_version_keeps_the_split_that_it_trained_with(tmp_path: Path) -> None:
    """Its list names no rankings: read again it is by pair id; made anew, the data are others than its checkpoint's."""
    config = DataConfig(str(ranked(tmp_path / "p.parquet")))
    fresh = ParquetPairs.open(config, folder=tmp_path / "run")
    kept = read_index(tmp_path / "run" / INDEX_FILE)
    assert kept is not None
    table = kept.table.drop_columns(["ranking"])
    older = dataclasses.replace(kept, table=table, fingerprint=index_module._fingerprint(table, fresh._shards))
    write_index(older, tmp_path / "run" / INDEX_FILE)
    again = ParquetPairs.open(config, folder=tmp_path / "run")
    assert held_rows(again, FRACTION).tolist() == [held_out(name, FRACTION) for name in again.ids]
    assert again.fingerprint != fresh.fingerprint
    pq.write_table(pq.read_table(config.path), config.path)
    with pytest.raises(InputError, match="was made with other data"):
        ParquetPairs.open(config, folder=tmp_path / "run")


def test_what_is_made_of_pairs_is_held_out_with_them(tmp_path: Path) -> None:
    source = ParquetPairs.open(DataConfig(str(ranked(tmp_path / "p.parquet"))))
    assert held_rows(SinglesOfPairs(source, 0.5, 0), FRACTION).tolist() == held_rows(source, FRACTION).tolist()


def test_a_ranking_that_loses_a_pair_under_full_stays_where_it_was(tmp_path: Path) -> None:
    """Of a ranking of two pairs one is left, which shares its ranking no more: the run's split does not move."""
    data = bytearray(png(0))
    data[len(data) // 2 : len(data) // 2 + 8] = bytes(8)
    rows = [row(i, ranking_id=str(i // 2), **({"jpg_1": bytes(data)} if i == 3 else {})) for i in range(20)]
    config = DataConfig(str(write(tmp_path / "p.parquet", rows)), verify="headers", validation_fraction=0.5)
    before = held_rows(ParquetPairs.open(config, folder=tmp_path / "run"), 0.5)
    after = ParquetPairs.open(dataclasses.replace(config, verify="full"), folder=tmp_path / "run")
    assert held_rows(after, 0.5).tolist() == before.tolist()


def test_a_column_that_is_there_twice_is_not_read(tmp_path: Path) -> None:
    """Each pair is by itself then, as if there were none."""
    table = pq.read_table(ranked(tmp_path / "p.parquet", rankings=2))
    doubled = table.append_column("ranking_id", table.column("ranking_id"))
    pq.write_table(doubled, tmp_path / "p.parquet")
    source = ParquetPairs.open(DataConfig(str(tmp_path / "p.parquet")))
    assert list(source.split_names) == list(source.ids)
