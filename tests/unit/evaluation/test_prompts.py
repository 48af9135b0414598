"""Prompt files in every format, and errors that name the line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inpo.errors import InputError
from inpo.evaluation.prompts import read_prompts

PROMPTS = ("a red circle", "ein Kreis, größer", "a red circle", "line\u2028separator")


def written(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "\n".join(PROMPTS) + "\n"),
        ("p.txt", "\ufeff" + "\r\n\r\n".join(PROMPTS)),
        ("p.json", json.dumps(PROMPTS)),
        ("p.json", json.dumps([{"prompt": prompt, "tag": 1} for prompt in PROMPTS])),
        ("p.jsonl", "\n".join(json.dumps({"caption": prompt}) for prompt in PROMPTS)),
        ("p.csv", "id,prompt\n" + "".join(f'{i},"{prompt}"\n' for i, prompt in enumerate(PROMPTS))),
        ("P.TXT", "\n".join(PROMPTS)),
    ],
)
def test_every_format_reads_the_same_prompts(tmp_path: Path, name: str, text: str):
    """Order and duplicates stay; a byte-order mark, blank lines and line endings do not matter; U+2028 breaks no line."""
    assert read_prompts(written(tmp_path, name, text)) == PROMPTS


@pytest.mark.parametrize("column", ["prompt", "caption"])
def test_parquet_column(tmp_path: Path, column: str):
    """The column may be called prompt or caption."""
    pq.write_table(pa.table({column: PROMPTS, "other": [1, 2, 3, 4]}), tmp_path / "p.parquet")
    assert read_prompts(str(tmp_path / "p.parquet")) == PROMPTS


def test_csv_field_with_a_line_break(tmp_path: Path):
    """Quoted line breaks belong to the prompt."""
    assert read_prompts(written(tmp_path, "p.csv", 'prompt\n"a\nb"\n')) == ("a\nb",)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.txt", b"good\nbad \xe9\n", r"p\.txt, line 2: byte 0xe9 is not UTF-8"),
        ("p.txt", "a".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("p.txt", b"\n \n", "no prompt in it"),
        ("p.md", b"a", r"not from '\.md'"),
        ("p.json", b'{"prompt": "a"}', "expected a list"),
        ("p.json", b'["a",\n oops]', r"not JSON .*line 2"),
        ("p.json", b"[" * 100_000, "not JSON"),
        ("p.json", b'["a", ""]', "entry 1: the prompt is empty"),
        ("p.json", b'["a", 3]', "entry 1: the prompt must be text, found 3"),
        ("p.json", b'["\\ud800"]', "half a surrogate"),
        ("p.jsonl", b'{"prompt": "a"}\n{"promt": "b"}\n', r"line 2: no field .* \(did you mean 'prompt'\?\)"),
        ("p.jsonl", b'{"prompt": null}\n', "line 1: the prompt must be text"),
        ("p.jsonl", b'{"prompt": "a"}\n{"pro', "line 2: not JSON"),
        ("p.csv", b"promt\na\n", "did you mean 'prompt'"),
        ("p.csv", b'prompt\n"a', "not CSV"),
        ("p.csv", b"", "no field"),
        ("p.csv", b"id,prompt\n1\n", "line 2: the prompt must be text"),
        ("p.parquet", b"PAR1 not really", "not a readable Parquet"),
    ],
)
def test_errors_name_file_and_place(tmp_path: Path, name: str, data: bytes, message: str):
    """Where it is wrong, what was found, what to do."""
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(written(tmp_path, name, data))
    assert str(tmp_path / name) in str(caught.value)


def test_absent_file(tmp_path: Path):
    """An error of the user's, not a traceback of ours."""
    with pytest.raises(InputError, match="no file"):
        read_prompts(tmp_path / "none.txt")
