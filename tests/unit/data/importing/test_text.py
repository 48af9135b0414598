"""Text is read as a stream: the same elements whatever the pieces, and a refusal that names the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inpo.data.importing import text
from inpo.data.importing.text import JsonList, chunks, lines
from inpo.errors import InputError

VALUE = [{"a": "é\u2028\n", "b": [1, -2.5e3, None]}, 12, 345, "x,]", [], {"deep": {"er": [True]}}, "\U0001f600"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_elements_do_not_depend_on_the_pieces(size: int, indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number, a character or a bracket may lie across two pieces; a byte-order mark is no text."""
    monkeypatch.setattr(text, "_CHUNK", size)
    file = tmp_path / "a.json"
    file.write_text("\ufeff" * (size > 3) + json.dumps(VALUE, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(JsonList(file)) == VALUE
    file.write_text("  [ ] ")
    assert list(JsonList(file)) == []


def test_lines_end_at_line_feeds_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_CHUNK", 3)
    (tmp_path / "a").write_bytes("ab\u2028c\r\n\nlast".encode())
    assert list(lines(tmp_path / "a")) == ["ab\u2028c\r\n", "\n", "last"]


@pytest.mark.parametrize("size", [4, 1 << 20])
def test_a_byte_that_is_not_utf8_is_named_with_its_offset(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The offset counts from the file's start, wherever the pieces end; a character that is cut off at the end counts too."""
    monkeypatch.setattr(text, "_CHUNK", size)
    (tmp_path / "a").write_bytes("éé caf".encode() + b"\xe9 x")
    with pytest.raises(InputError, match="byte 0xe9 at offset 8 is not UTF-8"):
        list(chunks(tmp_path / "a"))
    (tmp_path / "a").write_bytes(b"abcdef\xc3")
    with pytest.raises(InputError, match="byte 0xc3 at offset 6"):
        list(chunks(tmp_path / "a"))
    (tmp_path / "a").write_text("[]", encoding="utf-16")
    with pytest.raises(InputError, match="is UTF-16"):
        list(chunks(tmp_path / "a"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"a": 1}, {"a": ]', "entry 1: not JSON"),
        ('[{"a": 1}, {"a": 2', "entry 1: not JSON"),
        ('[{"a": 1} {"a": 2}]', "entry 0: ']' is expected, found"),
        ('[{"a": 1},', "entry 1: not JSON"),
        ('[{"a": 1}', "entry 0: the file is cut off"),
        ("[" * 100000, "entry 0: not JSON"),
        ("", "entry 0: the file is cut off"),
    ],
)
def test_what_is_no_list_is_named_with_its_entry(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=words):
        list(JsonList(tmp_path / "a.json"))


def test_a_line_without_an_end_is_refused_before_it_fills_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_LONGEST", 100)
    monkeypatch.setattr(text, "_CHUNK", 64)
    (tmp_path / "a").write_text("x" * 300)
    with pytest.raises(InputError, match="longer than 100 characters"):
        list(lines(tmp_path / "a"))
