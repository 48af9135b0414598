"""Pairs come out of Parquet files as they went in, through a list of valid ones that is made once and recognised again."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inpo.data import index as index_module
from inpo.data import order as order_module
from inpo.data import parquet as parquet_module
from inpo.data import sources as sources_module
from inpo.data.config import DataConfig
from inpo.data.index import INDEX_FILE, REJECTED_FILE, read_index
from inpo.data.order import held_out
from inpo.data.sources import ParquetPairs
from inpo.errors import InputError
from inpo.types import PairRecord
from tests.unit.data.making import pair_record, png, row, write


def contents(pairs: ParquetPairs) -> list[tuple[str, str, bytes, bytes, float]]:
    """All that training sees of a set of pairs."""
    return [(pair.id, pair.caption, pair.win, pair.lose, pair.preference) for pair in (pairs[i] for i in range(pairs.size))]


@pytest.mark.parametrize("structs", [False, True])
def test_rows_come_out_as_pairs(tmp_path: Path, structs: bool) -> None:
    """Plain bytes and Hugging Face's structs alike; the winner by its label."""
    pairs = ParquetPairs.open(DataConfig(str(write(tmp_path / "p.parquet", [row(i) for i in range(10)], structs=structs))))
    assert (pairs.size, pairs.block) == (10, 4)
    for i in range(10):
        first, second = png(2 * i), png(2 * i + 1)
        win, lose = (first, second) if i % 2 == 0 else (second, first)
        assert pairs[i] == PairRecord(pair_record(i).id, f"caption {i}", win, lose, 1.0, f"p.parquet, row {i}")
        assert pairs.ids[i] == pairs[i].id
    with pytest.raises(IndexError):
        pairs[10]


def test_a_folder_and_a_glob_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    """Files in subfolders too; hidden ones, and those of tools that write beside the data, not."""
    for name, first in (("b.parquet", 4), ("a/z.parquet", 0), (".cache/x.parquet", 90), ("_tmp/y.parquet", 91)):
        write(tmp_path / name, [row(i) for i in range(first, first + 4)], structs=first == 4)
    folder = ParquetPairs.open(DataConfig(str(tmp_path)))
    assert [folder[i].caption for i in range(8)] == [f"caption {i}" for i in range(8)]
    assert folder[5].row == "b.parquet, row 1"
    assert ParquetPairs.open(DataConfig(f"{tmp_path}/b*.parquet")).size == 4


def test_ids_survive_resharding(tmp_path: Path) -> None:
    """One file of row groups of 5, or three files of row groups of 2: the same pairs."""
    rows = [row(i) for i in range(9)]
    whole = ParquetPairs.open(DataConfig(str(write(tmp_path / "whole.parquet", rows, group=5))))
    for i in range(3):
        write(tmp_path / "parts" / f"{i}.parquet", rows[3 * i : 3 * i + 3], group=2)
    assert contents(ParquetPairs.open(DataConfig(str(tmp_path / "parts")))) == contents(whole)


@pytest.mark.parametrize(("ties", "captions"), [("drop", [0, 2]), ("half", [0, 1, 2])])
def test_ties_and_unlabelled_rows(tmp_path: Path, ties: str, captions: list[int]) -> None:
    """A tie is dropped or has P(w ≻ l) = ½; a row without a label is never used; neither counts as broken."""
    rows = [row(0), row(1, label_0=0.5, label_1=0.5), row(2), row(3)]
    rows = [{**line, "has_label": i != 3} for i, line in enumerate(rows)]
    config = DataConfig(str(write(tmp_path / "p.parquet", rows)), ties=ties, max_rejected_fraction=0.0)
    pairs = ParquetPairs.open(config, folder=tmp_path / "run")
    assert [pairs[i].caption for i in range(pairs.size)] == [f"caption {i}" for i in captions]
    assert {pairs[i].caption: pairs[i].preference for i in range(pairs.size)}.get("caption 1") == (0.5 if ties == "half" else None)
    assert (pairs.tally.pairs, pairs.tally.ties, pairs.tally.unlabelled, pairs.tally.rejected) == (2, 1, 1, 0)
    assert (tmp_path / "run" / REJECTED_FILE).read_text() == ""


def test_ties_as_an_error_name_the_row(tmp_path: Path) -> None:
    config = DataConfig(str(write(tmp_path / "p.parquet", [row(0), row(1, label_0=0.5, label_1=0.5)])), ties="error")
    with pytest.raises(InputError, match=r"p\.parquet, row 1, label_0: 0\.5, a tie, and data\.ties=error"):
        ParquetPairs.open(config, folder=tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_broken_rows_go_to_the_list_of_rejected(tmp_path: Path) -> None:
    """One line for each fault, with file, row, field, reason and value; the other pairs are as without those rows."""
    rows = [row(i) for i in range(10)]
    rows[3]["jpg_1"] = png(7)[:60]
    rows[8]["label_0"] = float("nan")
    rows[8]["caption"] = " "
    pairs = ParquetPairs.open(DataConfig(str(write(tmp_path / "p.parquet", rows)), max_rejected_fraction=0.2), folder=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / REJECTED_FILE).read_text().splitlines()]
    assert lines == [
        {"file": "p.parquet", "row": 3, "field": "jpg_1", "reason": "truncated PNG", "value": "60 bytes"},
        {"file": "p.parquet", "row": 8, "field": "label_0", "reason": "is not a number", "value": "NaN"},
        {"file": "p.parquet", "row": 8, "field": "caption", "reason": "is empty", "value": "' '"},
    ]
    clean = [line for i, line in enumerate(rows) if i not in (3, 8)]
    assert contents(pairs) == contents(ParquetPairs.open(DataConfig(str(write(tmp_path / "clean.parquet", clean)))))
    assert pairs[3].row == "p.parquet, row 4"


def test_too_many_broken_rows_refuse_to_start(tmp_path: Path) -> None:
    """With the counts by reason, the first examples, and where all of them are."""
    rows = [row(i, **({"jpg_0": b"<html></html>"} if i in (1, 5) else {})) for i in range(10)]
    path = write(tmp_path / "p.parquet", rows)
    assert ParquetPairs.open(DataConfig(str(path), max_rejected_fraction=0.2)).size == 8
    with pytest.raises(InputError) as caught:
        ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run")
    message = str(caught.value)
    assert "2 of 10 rows are broken (20.0%), more than data.max_rejected_fraction=0.1" in message
    assert "2 × jpg_0: an HTML page, not a JPEG, PNG or WebP image" in message
    assert "p.parquet, row 1, jpg_0: an HTML page" in message
    assert str(tmp_path / "run" / REJECTED_FILE) in message
    assert len((tmp_path / "run" / REJECTED_FILE).read_text().splitlines()) == 2


def test_headers_only_lets_inner_damage_through(tmp_path: Path) -> None:
    data = bytearray(png(7))
    data[len(data) // 2 : len(data) // 2 + 8] = bytes(8)
    path = write(tmp_path / "p.parquet", [row(i, **({"jpg_1": bytes(data)} if i == 3 else {})) for i in range(10)])
    assert ParquetPairs.open(DataConfig(str(path), verify="headers")).size == 10
    assert ParquetPairs.open(DataConfig(str(path), verify="full")).size == 9


def test_a_run_that_met_a_damaged_picture_goes_on_under_full(tmp_path: Path) -> None:
    """Under headers it was a pair; under full, in the same folder, it is listed and another stands in its place, of the same side of the
    validation split. Every other pair stays where it was, it is the same data, and the list is kept."""
    data = bytearray(png(15))
    data[len(data) // 2 : len(data) // 2 + 8] = bytes(8)
    path = write(tmp_path / "p.parquet", [row(i, **({"jpg_1": bytes(data)} if i == 7 else {})) for i in range(20)])
    config = DataConfig(str(path), verify="headers", validation_fraction=0.5)
    before = ParquetPairs.open(config, folder=tmp_path / "run")
    for _ in range(2):
        after = ParquetPairs.open(dataclasses.replace(config, verify="full"), folder=tmp_path / "run")
        moved = [i for i in range(20) if after.ids[i] != before.ids[i]]
        assert (after.size, after.fingerprint, moved, after.tally.rejected) == (20, before.fingerprint, [7], 1)
        stand_in = next(i for i in range(8, 20) if held_out(before.ids[i], 0.5) == held_out(before.ids[7], 0.5))
        assert after[7] == before[stand_in]
    assert '"row": 7' in (tmp_path / "run" / REJECTED_FILE).read_text()
    write(path, [row(i) for i in range(1, 21)])
    with pytest.raises(InputError, match=r"p\.parquet has changed"):
        ParquetPairs.open(config, folder=tmp_path / "run")


def test_the_index_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened again over the same files, nothing is examined; counts and limits are those of the first time."""
    path = write(tmp_path / "p.parquet", [row(i, **({"caption": ""} if i == 2 else {})) for i in range(10)])
    first = ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run")
    monkeypatch.setattr(index_module, "scan", lambda *_, **__: pytest.fail("the rows were examined again"))
    again = ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run")
    assert contents(again) == contents(first)
    assert (again.fingerprint, again.tally, again.block) == (first.fingerprint, first.tally, first.block)
    with pytest.raises(InputError, match="1 of 10 rows are broken"):
        ParquetPairs.open(DataConfig(str(path), max_rejected_fraction=0.05), folder=tmp_path / "run")


def test_a_list_of_rejected_rows_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    """The index alone would hide which rows they were. Where none was rejected there is nothing to list."""
    for name, caption in (("some", ""), ("none", "fine")):
        rows = [row(i, **({"caption": caption} if i == 2 else {})) for i in range(10)]
        config = DataConfig(str(write(tmp_path / name / "p.parquet", rows)))
        ParquetPairs.open(config, folder=tmp_path / name)
        lines = (tmp_path / name / REJECTED_FILE).read_text()
        (tmp_path / name / REJECTED_FILE).unlink()
        ParquetPairs.open(config, folder=tmp_path / name)
        assert (tmp_path / name / REJECTED_FILE).exists() == bool(lines)
    assert (tmp_path / "some" / REJECTED_FILE).read_text().count("is empty") == 1


def test_moved_data_are_the_same_data(tmp_path: Path) -> None:
    """Another time stamp and folder: looked at again, found equal."""
    path = write(tmp_path / "p.parquet", [row(i) for i in range(6)])
    first = ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "p.parquet")
    os.utime(moved, (1, 1))
    assert ParquetPairs.open(DataConfig(str(moved)), folder=tmp_path / "run").fingerprint == first.fingerprint


def test_changed_data_are_refused_and_named(tmp_path: Path) -> None:
    """A swapped label, a file more, another treatment of ties: each is named; the list of rejected rows stays the old one."""
    write(tmp_path / "data/a.parquet", [row(i, **({"caption": ""} if i == 2 else {})) for i in range(20)])
    config = DataConfig(str(tmp_path / "data"))
    first = ParquetPairs.open(config, folder=tmp_path / "run")
    rejected = (tmp_path / "run" / REJECTED_FILE).read_text()
    write(tmp_path / "data/a.parquet", [row(0, label_0=0.0, label_1=1.0), *(row(i) for i in range(1, 20))])
    write(tmp_path / "data/b.parquet", [row(30, label_0=0.5, label_1=0.5)])
    with pytest.raises(InputError) as caught:
        ParquetPairs.open(DataConfig(str(tmp_path / "data"), ties="half"), folder=tmp_path / "run")
    for words in ("run was made with other data", "data.ties was drop and is half", "b.parquet is new", "a.parquet has changed"):
        assert words in str(caught.value)
    assert (tmp_path / "run" / REJECTED_FILE).read_text() == rejected
    assert ParquetPairs.open(config).fingerprint != first.fingerprint


def test_one_exchanged_label_is_another_data_set(tmp_path: Path) -> None:
    """Ids know no winner, but the fingerprint does: a run does not resume over a label that was turned round."""
    path = write(tmp_path / "p.parquet", [row(i) for i in range(6)])
    ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run")
    write(path, [*(row(i) for i in range(5)), row(5, label_0=1.0, label_1=0.0)])
    with pytest.raises(InputError, match=r"p\.parquet has changed"):
        ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run")


def test_an_unreadable_index_is_made_anew(tmp_path: Path) -> None:
    config = DataConfig(str(write(tmp_path / "p.parquet", [row(i) for i in range(6)])))
    first = ParquetPairs.open(config, folder=tmp_path / "run")
    index = tmp_path / "run" / INDEX_FILE
    index.write_bytes(index.read_bytes()[:100])
    assert contents(ParquetPairs.open(config, folder=tmp_path / "run")) == contents(first)
    pq.write_table(pa.table({"x": [1]}), index)
    assert contents(ParquetPairs.open(config, folder=tmp_path / "run")) == contents(first)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {INDEX_FILE, REJECTED_FILE}


def test_progress_counts_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "MAX_BATCH_ROWS", 16)
    seen: list[tuple[int, int]] = []
    path = write(tmp_path / "p.parquet", [row(i) for i in range(40)], group=40)
    ParquetPairs.open(DataConfig(str(path)), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)
    assert len(seen) > 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_file_changed_while_in_use_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", [row(i) for i in range(8)])
    pairs = ParquetPairs.open(DataConfig(str(path)))
    write(path, [row(i + 1) for i in range(8)])
    with pytest.raises(InputError, match="the file was changed while in use"):
        pairs[5]


@pytest.mark.parametrize("folder_kept", [False, True])
def test_the_index_holds_few_bytes_a_row_and_no_object_of_python(tmp_path: Path, folder_kept: bool) -> None:
    """Place, id, preference and winner are 52 bytes and a bit; between 2,000 and 6,000 rows Python's own memory grows by less than one
    integer a row, kept or read again."""
    line, retained = row(0), {}
    for rows in (2_000, 6_000):
        path = write(tmp_path / f"{rows}.parquet", [{**line, "caption": f"{i}"} for i in range(rows)], group=1000)
        config, folder = DataConfig(str(path), verify="headers"), tmp_path / f"run {rows}"
        if folder_kept:
            ParquetPairs.open(config, folder=folder)
        tracemalloc.start()
        pairs = ParquetPairs.open(config, folder=folder)
        gc.collect()
        retained[rows] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert pairs.size == rows
    assert read_index(folder / INDEX_FILE).table.nbytes < 56 * rows  # type: ignore[union-attr]
    assert retained[6_000] - retained[2_000] < 8 * 4_000


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """48 and 144 row groups of 8 rows, shuffled in windows of 8 groups: Arrow holds as much after the one as after the other."""
    monkeypatch.setattr(order_module, "WINDOW_PAIRS", 64)
    line, held = row(0), []
    for groups in (48, 144):
        lines = [{**line, "caption": f"{i}"} for i in range(8 * groups)]
        pairs = ParquetPairs.open(DataConfig(str(write(tmp_path / f"{groups}.parquet", lines, group=8)), verify="headers"))
        before = pa.total_allocated_bytes()
        for i in range(pairs.size):
            pairs[i]
        held.append(pa.total_allocated_bytes() - before)
        del pairs
    assert held[1] < 1.1 * held[0]


def test_large_row_groups_are_dropped_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for two groups' bytes, no more than two stay; what is read is the same."""
    path = write(tmp_path / "p.parquet", [row(i) for i in range(32)])
    group_bytes = sum(len(png(i)) for i in range(8))
    monkeypatch.setattr(sources_module, "GROUP_CACHE_BYTES", int(2.9 * group_bytes))
    pairs = ParquetPairs.open(DataConfig(str(path)))
    before = pa.total_allocated_bytes()
    assert [pairs[i].caption for i in range(32)] == [f"caption {i}" for i in range(32)]
    assert pa.total_allocated_bytes() - before < 4 * group_bytes
