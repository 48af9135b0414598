"""Files that are no set of pairs: each is refused at the entrance, by name, with what to do."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inpo.data.config import DataConfig
from inpo.data.sources import ParquetPairs
from inpo.errors import InputError
from tests.unit.data.making import row, write


def refusal(path: Path | str, **settings: object) -> str:
    """The message with which opening `path` fails."""
    with pytest.raises(InputError) as caught:
        ParquetPairs.open(DataConfig(str(path), **settings))
    return str(caught.value)


def test_a_path_that_is_not_there_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "pairs.parquet", [row(0)])
    assert "does not exist (did you mean 'pairs.parquet'?)" in refusal(tmp_path / "pair.parquet")
    assert "does not exist" in refusal(tmp_path / "no" / "such" / "folder")
    assert "no file matches" in refusal(tmp_path / "*.parq")
    (tmp_path / "empty").mkdir()
    assert "holds no *.parquet file" in refusal(tmp_path / "empty")


def test_a_side_of_a_folder_of_pictures_names_the_whole(tmp_path: Path) -> None:
    """`win/` alone is half of the pairs; a folder that only holds the folder of pictures is no folder of pictures."""
    for side in ("Win", "lose"):
        (tmp_path / "all" / "mine" / side).mkdir(parents=True)
    assert refusal(tmp_path / "all" / "mine" / "Win").endswith(f"(did you mean {str(tmp_path / 'all' / 'mine')!r}?)")
    assert refusal(tmp_path / "all").endswith(f"(did you mean {str(tmp_path / 'all' / 'mine')!r}?)")


@pytest.mark.parametrize(
    ("found", "hint"),
    [("jpg0", "did you mean 'jpg0'?"), ("image", "columns image, jpg_1")],
)
def test_a_missing_column_names_the_nearest(tmp_path: Path, found: str, hint: str) -> None:
    lines = [{found if name == "jpg_0" else name: value for name, value in row(i).items()} for i in range(2)]
    message = refusal(write(tmp_path / "p.parquet", lines))
    assert message.startswith("p.parquet: jpg_0: the column is missing")
    assert hint in message


def test_every_missing_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "p.parquet")
    message = refusal(tmp_path / "p.parquet")
    assert all(name in message for name in ("jpg_0", "jpg_1", "label_0", "label_1", "caption", "columns prompt"))


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("label_0", ["1", "0"], "label_0: the column must hold numbers (found string)"),
        ("label_1", [True, False], "label_1: the column must hold numbers (found bool)"),
        ("caption", [1, 2], "caption: the column must hold text (found int64)"),
        ("jpg_0", ["a.png", "b.png"], "jpg_0: the column must hold image bytes"),
        ("jpg_1", [{"path": "a"}, {"path": "b"}], "jpg_1: the column must hold image bytes"),
        ("has_label", ["yes", "no"], "has_label: the column must hold true or false (found string)"),
    ],
)
def test_a_column_of_the_wrong_type_is_named(tmp_path: Path, column: str, values: list[object], words: str) -> None:
    table = pq.read_table(write(tmp_path / "p.parquet", [row(0), row(1)]))
    table = table.drop_columns([column]) if column in table.column_names else table
    pq.write_table(table.append_column(column, pa.array(values)), tmp_path / "p.parquet")
    assert words in refusal(tmp_path / "p.parquet")


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "p.parquet", [row(0), row(1)]))
    pq.write_table(table.append_column("caption", pa.array(["x", "y"])), tmp_path / "p.parquet")
    assert "caption: the column is there twice" in refusal(tmp_path / "p.parquet")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_other_ways_to_store_the_same_columns_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    """Captions as large, dictionary or view strings; labels as integers or single precision; images as large binary."""
    table = pq.read_table(write(tmp_path / "p.parquet", [row(0), row(1)]))
    for name, new in (("caption", kind), ("label_0", pa.int8()), ("label_1", pa.float32()), ("jpg_0", pa.large_binary())):
        table = table.set_column(table.column_names.index(name), name, table.column(name).cast(new))
    pq.write_table(table, tmp_path / "p.parquet")
    pairs = ParquetPairs.open(DataConfig(str(tmp_path / "p.parquet")))
    assert [pairs[i].caption for i in range(2)] == ["caption 0", "caption 1"]


def test_columns_that_drift_between_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [row(0)])
    write(tmp_path / "b.parquet", [{("text" if name == "caption" else name): value for name, value in row(1).items()}])
    message = refusal(tmp_path)
    assert message.startswith("b.parquet: caption: the column is missing")
    assert "a.parquet has it right" in message


def test_mixed_splits_are_refused(tmp_path: Path) -> None:
    """A folder as Hugging Face ships it would put the test split into training."""
    for name in ("train-00000-of-00002-abc", "train-00001-of-00002-abc", "test_unique-00000-of-00001"):
        write(tmp_path / "data" / f"{name}.parquet", [row(0)])
    assert f"holds the splits test_unique, train; name one by a glob, like {tmp_path}/train-*.parquet" in refusal(tmp_path)
    assert ParquetPairs.open(DataConfig(f"{tmp_path}/data/train-*.parquet")).size == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "zero bytes"),
        (lambda data: b"id,caption\n1,a\n", "not a Parquet file"),
        (lambda data: data[:-20], "a truncated Parquet file"),
        (lambda data: data[: len(data) // 2], "a truncated Parquet file"),
        (lambda data: data[:-408] + b"\xff" * 400 + data[-8:], "a damaged Parquet file"),
    ],
    ids=["empty", "csv", "no footer", "half", "broken footer"],
)
def test_a_file_that_is_not_whole_is_named(tmp_path: Path, change: object, words: str) -> None:
    good = write(tmp_path / "a.parquet", [row(i) for i in range(4)]).read_bytes()
    (tmp_path / "b.parquet").write_bytes(change(good))  # type: ignore[operator]
    message = refusal(tmp_path)
    assert message.startswith("b.parquet: ")
    assert words in message


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", [row(i) for i in range(12)])
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(bytes(data))
    assert refusal(path).startswith("p.parquet: row group 1 (rows 4 to 7) is damaged")


def test_captions_that_are_not_utf8_are_broken_rows(tmp_path: Path) -> None:
    """Parquet does not check text; one such caption costs one row, not the file."""
    table = pq.read_table(write(tmp_path / "p.parquet", [row(i) for i in range(12)]))
    captions = [b"fine"] * 12
    captions[7] = b"caf\xe9"
    bad = pa.Array.from_buffers(pa.string(), 12, pa.array(captions, pa.binary()).buffers())
    pq.write_table(table.set_column(table.column_names.index("caption"), "caption", bad), tmp_path / "p.parquet")
    pairs = ParquetPairs.open(DataConfig(str(tmp_path / "p.parquet")))
    assert pairs.size == 11
    assert pairs.tally.examples == ["p.parquet, row 7, caption: is not UTF-8 text (found 4 bytes, b'caf\\xe9'…)"]


def test_sets_with_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    """No rows; only ties; only rows without labels."""
    table = pq.read_table(write(tmp_path / "p.parquet", [row(0)]))
    pq.write_table(table.slice(0, 0), tmp_path / "none.parquet")
    assert "there are no rows" in refusal(tmp_path / "none.parquet")
    ties = write(tmp_path / "ties.parquet", [row(i, label_0=0.5, label_1=0.5) for i in range(3)])
    assert "none of 3 rows can be trained on (0 rejected, 3 ties with data.ties=drop, 0 without a label)" in refusal(ties)
    bare = write(tmp_path / "bare.parquet", [row(i, has_label=False) for i in range(2)])
    assert "2 without a label" in refusal(bare)
    nulls = write(tmp_path / "nulls.parquet", [row(i, label_0=None) for i in range(2)])
    assert "2 × label_0: is missing" in refusal(nulls)


def test_a_path_inside_the_data_is_never_opened(tmp_path: Path) -> None:
    """An image given by path only, to a file that exists: the row is refused, because the data's author chose the path."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(bytes(row(0)["jpg_0"]))  # type: ignore[call-overload]
    path = write(tmp_path / "p.parquet", [row(0), row(1)], structs=True)
    table = pq.read_table(path)
    given = pa.array([{"bytes": None, "path": str(secret)}] * 2, table.schema.field("jpg_0").type)
    pq.write_table(table.set_column(table.column_names.index("jpg_0"), "jpg_0", given), path)
    assert "2 × jpg_0: holds a path but no image bytes" in refusal(path)
