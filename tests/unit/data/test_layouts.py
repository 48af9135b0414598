"""Pairs are the same pairs, whatever they are stored in; what is missing is listed; rows can be filtered by their columns."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from inpo.data.config import DataConfig
from inpo.data.index import REJECTED_FILE
from inpo.data.sources import ParquetPairs
from inpo.data.validate import validate
from inpo.errors import InputError
from inpo.types import PairRecord
from tests.unit.data.layouts import LAYOUTS, as_csv, as_jsonl, as_parquet, as_sides, as_suffixes, put
from tests.unit.data.making import pair_record, png, row, write


def records(path: Path, **settings: object) -> list[PairRecord]:
    """All pairs at a path, without the place where each stands."""
    pairs = ParquetPairs.open(DataConfig(str(path), **settings))  # type: ignore[arg-type]
    return [dataclasses.replace(pairs[i], row="") for i in range(pairs.size)]


def rejected(path: Path, run: Path, **settings: object) -> list[tuple[str, str, str]]:
    """File, field and reason of each line of rejected.jsonl."""
    ParquetPairs.open(DataConfig(str(path), max_rejected_fraction=0.9, **settings), folder=run)  # type: ignore[arg-type]
    lines = [json.loads(line) for line in (run / REJECTED_FILE).read_text(encoding="utf-8").splitlines()]
    return [(line["file"], line["field"], line["reason"]) for line in lines]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_pairs(tmp_path: Path, layout: str) -> None:
    """Twelve pairs: ids, captions, bytes, winners and order, through batches and groups of any size; and the report finds nothing."""
    path = LAYOUTS[layout](tmp_path / "data", 12)
    expected = [dataclasses.replace(pair_record(i), row="") for i in range(12)]
    for pair in range(1, 12, 2):
        swapped = expected[pair]
        expected[pair] = dataclasses.replace(swapped, win=swapped.lose, lose=swapped.win)
    assert records(path) == expected
    report = validate(str(path))
    assert (report.ok, report.warnings, report.tally.pairs, report.files) == (True, (), 12, 1), list(report.lines())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_index_of_every_layout_is_kept_and_recognised(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened again, nothing is examined; after a change it is, and the run is told."""
    path = LAYOUTS[layout](tmp_path / "data", 12)
    first = ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("inpo.data.index.scan", lambda *_, **__: pytest.fail("the rows were examined again"))
        assert ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run").fingerprint == first.fingerprint
    LAYOUTS[layout](tmp_path / "data", 11)
    for extra in (tmp_path / "data").rglob("*011*"):
        extra.unlink()
    with pytest.raises(InputError, match=r"run was made with other data: .* has changed"):
        ParquetPairs.open(DataConfig(str(path)), folder=tmp_path / "run")


def test_what_is_missing_in_a_folder_is_listed(tmp_path: Path) -> None:
    """A side, a caption, the pictures of a caption, a name used twice, captions that differ: one line each; the other pairs stay."""
    as_sides(tmp_path / "set", 12)
    for name, data in {
        "win/only won.png": png(90), "win/only won.txt": b"x", "lose/no caption.png": png(91), "win/no caption.png": png(92),
        "captions/no pictures.txt": b"x", "win/twice.png": png(93), "win/twice.jpg": png(94), "lose/twice.png": png(95),
        "win/twice.txt": b"x", "win/Case.png": png(96), "lose/case.png": png(97), "win/Case.txt": b"x",
        "win/two.png": png(98), "lose/two.png": png(99), "win/two.txt": b"one", "lose/two.txt": b"another",
    }.items():  # fmt: skip
        put(tmp_path / "set" / name, data)
    missing, none = "there is no picture of this name on this side", "there is no caption file"
    assert rejected(tmp_path / "set", tmp_path / "run") == [
        ("set/Case", "lose", missing),
        ("set/case", "win", missing), ("set/case", "caption", none),
        ("set/no caption", "caption", none),
        ("set/no pictures", "caption", "a caption without pictures"),
        ("set/only won", "lose", missing),
        ("set/twice", "win", "several pictures share this name"),
        ("set/two", "caption", "the caption files differ"),
    ]  # fmt: skip
    assert len(records(tmp_path / "set", max_rejected_fraction=0.5)) == 12


def test_what_is_missing_among_suffixes_is_listed(tmp_path: Path) -> None:
    as_suffixes(tmp_path / "set", 12)
    for name, data in {"a_w.png": png(90), "a.txt": b"x", "b.png": png(91), "notes.txt": b"x"}.items():
        put(tmp_path / "set" / name, data)
    assert rejected(tmp_path / "set", tmp_path / "run") == [
        ("set/a", "lose", "there is no picture of this name on this side"),
        ("set/b", "win", "the name ends neither in _w nor in _l"),
        ("set/notes", "caption", "a caption without pictures"),
    ]


def test_what_is_missing_in_a_listing_is_listed(tmp_path: Path) -> None:
    """Lines that are no object, files that are not there, folders, paths that lead elsewhere; the run names the columns its user wrote."""
    path = as_jsonl(tmp_path / "data", 12)
    put(tmp_path / "secret.png", png(5))
    good = {"win": "pictures/000 win.png", "lose": "pictures/000 lose.png", "caption": "x"}
    for change in ({"win": "gone.png"}, {"lose": "pictures"}, {"win": "../secret.png"}, {"lose": str(tmp_path / "secret.png")},
                   {"win": "a\0.png"}, {"lose": 3}, {"win": None}, {"caption": "\ud800"}):  # fmt: skip
        path.write_text(path.read_text() + "\n" + json.dumps({**good, **change}))
    path.write_text(path.read_text() + "\n[1]\n{broken\n")
    found = [(field, reason) for _, field, reason in rejected(path, tmp_path / "run")]
    leaves = "leaves the folder that the paths are relative to: name a folder that holds all pictures by data.root"
    assert found == [
        ("win", "there is no such file"), ("lose", "is not a file"), ("win", leaves), ("lose", leaves), ("win", "cannot be read"),
        ("lose", "is not bytes"), ("win", "is missing"),
        ("caption", "is not UTF-8 text"), ("line", "is not a JSON object"), ("line", "is not JSON"),
    ]  # fmt: skip


def test_a_root_says_what_paths_are_relative_to(tmp_path: Path) -> None:
    """The listing lies elsewhere than the pictures; absolute paths below the root are read as well."""
    path = as_jsonl(tmp_path / "data", 12)
    moved = path.rename(tmp_path / "moved.jsonl")
    assert len(records(moved, root=str(tmp_path / "data"))) == 12
    absolute = [json.loads(line) for line in moved.read_text().splitlines() if line]
    absolute = [{**line, "win": str(tmp_path / "data" / line["win"])} for line in absolute]
    moved.write_text("\n".join(map(json.dumps, absolute)))
    assert records(moved, root=str(tmp_path / "data")) == records(as_parquet(tmp_path / "again", 12))
    with pytest.raises(InputError, match=r"data\.root=.*nowhere: there is no such folder"):
        records(moved, root=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("make", [as_jsonl, as_csv])
def test_rows_are_filtered_by_the_columns_of_a_listing(tmp_path: Path, make: object) -> None:
    """Counted as filtered, not as rejected; numbers in a CSV file are text that reads as a number."""
    path = make(tmp_path, 12)  # type: ignore[operator]
    pairs = ParquetPairs.open(DataConfig(str(path), where=("score >= 3", "score != 5", "caption != 'caption 7'")))
    assert [pairs[i].caption for i in range(pairs.size)] == [f"caption {i}" for i in (3, 4, 6, 8, 9, 10, 11)]
    assert (pairs.tally.filtered, pairs.tally.rejected, pairs.tally.pairs) == (5, 0, 7)


def test_rows_are_filtered_by_the_columns_of_a_parquet_file(tmp_path: Path) -> None:
    """Numbers, text, truth and absent values; the list of pairs belongs to the conditions, and a resumed run keeps them."""
    lines = [row(i) | {"nsfw": None if i == 1 else i / 10, "model_0": "sdxl" if i % 2 else "sd", "safe": i < 6} for i in range(8)]
    lines[5]["jpg_0"] = b""
    config = DataConfig(
        str(write(tmp_path / "p.parquet", lines)), where=("nsfw < 0.7", "model_0 == 'sdxl'", "safe == true"), max_rejected_fraction=0.5
    )
    pairs = ParquetPairs.open(config, folder=tmp_path / "run")
    assert [pairs[i].caption for i in range(pairs.size)] == ["caption 3"]
    assert (pairs.tally.filtered, pairs.tally.rejected) == (6, 1)
    with pytest.raises(InputError, match=r"data\.where was .* and is \['safe == true'\]"):
        ParquetPairs.open(dataclasses.replace(config, where=("safe == true",)), folder=tmp_path / "run")


def test_rows_of_a_folder_are_filtered_by_name(tmp_path: Path) -> None:
    assert [pair.caption for pair in records(as_sides(tmp_path, 12), where=("name >= 'part 1/008'",))] == [
        f"caption {i}" for i in range(8, 12)
    ]


def test_a_filter_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of 12 rows can be trained on .*12 left out by data\.where=\['score < 0'\]"):
        records(as_jsonl(tmp_path, 12), where=("score < 0",))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_filter_by_an_unknown_column_names_the_nearest(tmp_path: Path, layout: str) -> None:
    path = LAYOUTS[layout](tmp_path / "data", 12)
    close = "name" if layout in ("win and lose", "suffixes") else "caption"
    with pytest.raises(InputError, match=rf"there is no column '{close[:-1]}'.*did you mean '{close}'"):
        records(path, where=(f"{close[:-1]} == 'x'",))
