"""Tables of scores: what is written is read again, in every format, and a CSV or JSONL file is what other programs expect."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inpo.errors import InputError
from inpo.evaluation.scores import ScoreRow
from inpo.evaluation.tables import check_table, read_table, write_table

ROWS = [
    ScoreRow(0, 0, 7, "m", "s", float(np.float32(0.1)), '{"a": "b,\\n"}', "ab", 'a "red", circle\nand more'),
    ScoreRow(0, 1, 282583985695397696, "m", "s#k=1", float(np.float32(-1e-12)), "{}", "cd", "ein großes Viereck"),
]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    """To the last bit of a float32, with commas, quotes and line breaks in texts, and seeds of 63 bits; NaN stays NaN."""
    path = tmp_path / f"s{suffix}"
    write_table(path, [*ROWS, replace(ROWS[0], sample_index=2, score=math.nan)])
    *same, last = read_table(path)
    assert [replace(row, score=float(np.float32(row.score))) for row in same] == ROWS
    assert math.isnan(last.score)


def test_other_programs_read_them(tmp_path: Path) -> None:
    """A header and a score of nine digits, or one object a line; what is no number is empty, or null."""
    for suffix in (".csv", ".jsonl"):
        write_table(tmp_path / f"s{suffix}", [ROWS[0], replace(ROWS[0], score=math.nan)])
    first, second = csv.DictReader((tmp_path / "s.csv").read_text().splitlines(keepends=True))
    assert (first["score"], second["score"], first["prompt"]) == ("0.100000001", "", ROWS[0].prompt)
    one, two = map(json.loads, (tmp_path / "s.jsonl").read_text().splitlines())
    assert (one["score"], two["score"], one["seed"]) == (0.100000001, None, 7)


@pytest.mark.parametrize("prompt", ["=HYPERLINK(1)", "+1", "-2+3", "@a", "\ta", "'=1", "'", "a=1"])
def test_no_prompt_is_a_formula(prompt: str, tmp_path: Path) -> None:
    """To a spreadsheet: what begins like one stands behind an apostrophe, and is read back as it was."""
    write_table(tmp_path / "s.csv", [replace(ROWS[0], prompt=prompt)])
    (row,) = csv.DictReader((tmp_path / "s.csv").read_text().splitlines(keepends=True))
    assert row["prompt"] == (prompt if prompt == "a=1" else f"'{prompt}")
    assert read_table(tmp_path / "s.csv")[0].prompt == prompt


@pytest.mark.parametrize("prompt", ["a\rb", "\r=1", "a\r", "a\r\nb"])
def test_a_carriage_return_is_no_end_of_a_row(prompt: str, tmp_path: Path) -> None:
    """Prompts of files that were made on other systems have them."""
    write_table(tmp_path / "s.csv", [replace(ROWS[1], prompt=prompt)])
    assert [row.prompt for row in read_table(tmp_path / "s.csv")] == [prompt]


@pytest.mark.parametrize(
    ("name", "text"),
    [("s.csv", "score\n1\n"), ("s.csv", ""), ("s.jsonl", "{}\n"), ("s.jsonl", "half a li"), ("s.jsonl", '{"prompt_index": "x"}')],
)
def test_another_table_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}: is no table of scores with the columns prompt_index, sample_index, "):
        read_table(tmp_path / name)


def test_a_row_that_is_damaged_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "s.csv", ROWS)
    text = (tmp_path / "s.csv").read_text()
    (tmp_path / "s.csv").write_text(text.replace("282583985695397696", "many"))
    with pytest.raises(InputError, match="is no table of scores"):
        read_table(tmp_path / "s.csv")


def test_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scores are written as \.parquet, \.csv, \.jsonl; name a file that ends in one of them"):
        check_table(tmp_path / "s.txt")
    (tmp_path / "s.csv").mkdir()
    with pytest.raises(InputError, match=r"s\.csv is a folder; name the file to write, like .*s\.csv/scores\.parquet"):
        check_table(tmp_path / "s.csv")
