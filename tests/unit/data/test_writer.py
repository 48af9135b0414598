"""The pairs file is absent or complete, in bounded row groups, and what the readers expect."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inpo.data import writer
from inpo.data.config import DataConfig
from inpo.data.sources import ParquetPairs
from inpo.data.validate import validate
from inpo.data.writer import writing_pairs
from inpo.errors import InputError, RunFault
from tests.unit.data.making import png, row


def test_rows_come_back_with_their_extra_columns(tmp_path: Path) -> None:
    """What is written is valid, is what the source reads, and a value that a row lacks is null."""
    with writing_pairs(tmp_path / "new" / "p.parquet", {"score_0": float, "user_id": str, "seed_0": int}) as out:
        for i in range(6):
            out.write(row(i, **({"score_0": i / 2, "seed_0": 2**62} if i else {})))
    path = tmp_path / "new" / "p.parquet"
    assert (out.count, validate(str(path)).ok) == (6, True)
    assert [pair.caption for pair in map(ParquetPairs.open(DataConfig(str(path))).__getitem__, range(6))] == [
        f"caption {i}" for i in range(6)
    ]
    extra = pq.read_table(path, columns=["score_0", "user_id", "seed_0"]).to_pylist()
    assert extra[0] == {"score_0": None, "user_id": None, "seed_0": None}
    assert extra[3] == {"score_0": 1.5, "user_id": None, "seed_0": 2**62}
    assert [file.name for file in path.parent.iterdir()] == ["p.parquet"]


def test_row_groups_are_bounded_in_rows_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is closed by the row that reaches either bound, so what waits in memory is bounded by them."""
    monkeypatch.setattr(writer, "GROUP_ROWS", 4)
    sizes = len(png(0)) + len(png(1))
    for bytes_, groups in ((1 << 30, [4, 4, 2]), (2 * sizes, [2, 2, 2, 2, 2])):
        monkeypatch.setattr(writer, "GROUP_BYTES", bytes_ - 100)
        with writing_pairs(tmp_path / f"{bytes_}.parquet", {}) as out:
            for i in range(10):
                out.write(row(i))
        footer = pq.read_metadata(tmp_path / f"{bytes_}.parquet")
        assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == groups


def fail_half_way(path: Path) -> None:
    with writing_pairs(path, {}, force=True) as out:
        out.write(row(1))
        out.flush()
        out.write(row(1 // 0))


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    """Nothing new, nothing half: the earlier file stays as it was, with or without `force`."""
    path = tmp_path / "p.parquet"
    with writing_pairs(path, {}) as out:
        out.write(row(0))
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        fail_half_way(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["p.parquet"]
    with writing_pairs(path, {}, force=True) as out:
        out.write(row(1))
    assert path.read_bytes() != before


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    """A file that is there, a folder, another kind of file, and a folder that cannot be made."""
    (tmp_path / "p.parquet").write_text("mine")
    for path, words in ((tmp_path / "p.parquet", "--force"), (tmp_path, "is a folder"), (tmp_path / "p.csv", "ends in .parquet")):
        with pytest.raises(InputError, match=words), writing_pairs(path, {}):
            raise AssertionError("entered")
    with pytest.raises(RunFault, match="cannot be written"), writing_pairs(tmp_path / "p.parquet" / "q.parquet", {}):
        raise AssertionError("entered")
    assert (tmp_path / "p.parquet").read_text() == "mine"
