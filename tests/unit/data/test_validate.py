"""`validate` goes on after each fault, so its report holds all of them, with file, row and field."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from inpo.data.config import DataConfig
from inpo.data.sources import ParquetPairs
from inpo.data.validate import CLIP_PIECES, validate
from inpo.errors import InputError
from tests.unit.data.making import png, row, write


def test_a_clean_set_has_no_findings(tmp_path: Path) -> None:
    report = validate(str(write(tmp_path / "p.parquet", [row(i) for i in range(6)])))
    assert report.ok
    assert (report.files, report.tally.rows, report.tally.pairs) == (1, 6, 6)
    assert (report.problems, report.warnings) == ((), ())
    assert next(report.lines()).endswith("1 file, 6 rows: 6 pairs, 0 ties, 0 without a label")


def test_every_fault_of_every_row_is_listed(tmp_path: Path) -> None:
    """Two faults in one row are two problems and one rejected row; counts are by field and reason."""
    rows = [row(i) for i in range(12)]
    rows[1] |= {"jpg_0": b"", "caption": None}
    rows[4] |= {"jpg_1": b"<html></html>"}
    rows[5] |= {"jpg_1": rows[5]["jpg_0"]}
    rows[7] |= {"jpg_0": b""}
    rows[9] |= {"label_0": 2.0}
    report = validate(str(write(tmp_path / "p.parquet", rows)))
    assert [(p.row, p.field, p.reason.split(",")[0]) for p in report.problems] == [
        (1, "caption", "is missing"), (1, "jpg_0", "zero bytes"), (4, "jpg_1", "an HTML page"),
        (5, "jpg_1", "the same bytes as the other picture: there is nothing to prefer"),
        (7, "jpg_0", "zero bytes"), (9, "label_0", "is not 0"),
    ]  # fmt: skip
    assert str(report.problems[-1]) == "p.parquet, row 9, label_0: is not 0, 0.5 or 1 (found 2.0)"
    assert (report.tally.rejected, report.tally.pairs, report.identical_images) == (5, 7, 1)
    assert report.tally.reasons["jpg_0: zero bytes"] == 2
    assert not report.ok
    text = "\n".join(report.lines())
    assert "5 rows rejected, 1 of them with two identical images" in text
    assert "2 × jpg_0: zero bytes" in text
    assert "problem: p.parquet, row 4, jpg_1: an HTML page" in text


def test_it_counts_what_training_would_use(tmp_path: Path) -> None:
    """The same rows through `validate` and through the source."""
    rows = [row(i, **({"caption": ""} if i == 3 else {"label_0": 0.5, "label_1": 0.5} if i == 5 else {})) for i in range(20)]
    path = str(write(tmp_path / "p.parquet", [{**line, "has_label": i != 7} for i, line in enumerate(rows)]))
    assert validate(path).tally == ParquetPairs.open(DataConfig(path)).tally


def test_ties_are_problems_only_where_none_is_allowed(tmp_path: Path) -> None:
    path = str(write(tmp_path / "p.parquet", [row(0), row(1, label_0=0.5, label_1=0.5)]))
    assert validate(path).ok
    assert [(p.row, p.field) for p in validate(DataConfig(path, ties="error")).problems] == [(1, "label_0")]


def test_repeated_pairs_and_opposite_labels(tmp_path: Path) -> None:
    """Row 2 repeats row 0, row 3 repeats it with the columns exchanged, row 4 judges it the other way round; a tie opposes nobody."""
    first = row(0)
    swapped = {**first, "jpg_0": first["jpg_1"], "jpg_1": first["jpg_0"], "label_0": 0.0, "label_1": 1.0}
    opposite = {**first, "label_0": 0.0, "label_1": 1.0}
    tie = {**first, "label_0": 0.5, "label_1": 0.5}
    write(tmp_path / "a.parquet", [first, row(1)])
    write(tmp_path / "b.parquet", [first, swapped, opposite, tie, row(2)])
    report = validate(str(tmp_path))
    assert (report.duplicates, report.contradictions) == (3, 1)
    assert [str(warning) for warning in report.warnings] == [
        "b.parquet, row 0: the pair of a.parquet, row 0 once more",
        "b.parquet, row 1: the pair of a.parquet, row 0 once more",
        "b.parquet, row 2: the pair of a.parquet, row 0 with the opposite label",
        "b.parquet, row 3: the pair of a.parquet, row 0 once more",
    ]
    assert report.ok


def test_captions_that_clip_cuts_off_are_warned_of(tmp_path: Path) -> None:
    """75 words fit beside the start and the end; 76 do not. Punctuation counts."""
    captions = ["word " * CLIP_PIECES, "word " * (CLIP_PIECES + 1), "a, " * 40]
    report = validate(str(write(tmp_path / "p.parquet", [row(i, caption=caption) for i, caption in enumerate(captions)])))
    assert report.long_captions == 2
    assert [(warning.row, warning.field) for warning in report.warnings] == [(1, "caption"), (2, "caption")]


def test_headers_only_is_passed_on(tmp_path: Path) -> None:
    data = bytearray(png(3))
    data[len(data) // 2 : len(data) // 2 + 8] = bytes(8)
    path = str(write(tmp_path / "p.parquet", [row(0), row(1, jpg_1=bytes(data))]))
    assert validate(DataConfig(path, verify="headers")).ok
    assert [p.reason for p in validate(DataConfig(path, verify="full")).problems] == ["damaged PNG"]


def test_unusable_files_do_not_hide_the_others(tmp_path: Path) -> None:
    """A truncated file, one without a column, one with a damaged row group, and one with a bad row: all four are reported."""
    whole = write(tmp_path / "a.parquet", [row(i) for i in range(4)]).read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    write(tmp_path / "b.parquet", [{"Caption" if name == "caption" else name: value for name, value in row(0).items()}])
    path = write(tmp_path / "c.parquet", [row(i) for i in range(12)])
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(bytes(data))
    write(tmp_path / "d.parquet", [row(20), row(21, caption="")])
    seen: list[tuple[int, int]] = []
    report = validate(str(tmp_path), progress=lambda done, total: seen.append((done, total)))
    found = sorted((p.file, p.row, p.field) for p in report.problems if p.row is not None) + sorted(
        (p.file, p.reason.split(" (")[0]) for p in report.problems if p.row is None
    )
    assert found[:2] == [("d.parquet", 1, "caption"), ("a.parquet", "a truncated Parquet file")]
    assert found[2] == ("b.parquet", "the column is missing")
    assert found[3] == ("c.parquet", "row group 1")
    assert (report.files, report.tally.rows, report.tally.pairs) == (4, 10, 9)
    assert seen[-1] == (10, 14)


def test_nothing_to_read_is_a_problem_and_no_path_an_error(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "p.parquet", [row(0)]))
    pq.write_table(table.slice(0, 0), tmp_path / "p.parquet")
    report = validate(str(tmp_path / "p.parquet"))
    assert [p.reason for p in report.problems] == ["there are no rows that can be read"]
    assert not report.ok
    with pytest.raises(InputError, match="does not exist"):
        validate(str(tmp_path / "q.parquet"))
