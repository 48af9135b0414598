"""Text files as streams: UTF-8 or a refusal that names the byte, lines, and the elements of a JSON list one by one."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from inpo.errors import InputError

_CHUNK = 1 << 20
_LONGEST = 16 << 20
"""Characters of one line or one element of a list; what is longer is no annotation."""
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_FOREIGN_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16", codecs.BOM_UTF32_BE: "UTF-32"}


def chunks(path: Path) -> Iterator[str]:
    """The file's text in pieces, none empty, without a byte-order mark. Raises `InputError` naming the byte where it is not UTF-8."""
    try:
        with path.open("rb") as file:
            yield from _decoded(path, file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _decoded(path: Path, file: BinaryIO) -> Iterator[str]:
    decoded, pending = 0, b""
    while (data := file.read(_CHUNK)) or pending:
        piece = pending + data
        if decoded == 0:
            _refuse_foreign(path, piece)
        try:
            text, used = codecs.utf_8_decode(piece, "strict", not data)
        except UnicodeDecodeError as error:
            what = f"byte 0x{piece[error.start]:02x} at offset {decoded + error.start} is not UTF-8"
            raise InputError(f"{path}: {what}; save the file as UTF-8") from None
        if shown := text.removeprefix("\ufeff") if decoded == 0 else text:
            yield shown
        decoded, pending = decoded + used, piece[used:]


def _refuse_foreign(path: Path, start: bytes) -> None:
    for mark, name in _FOREIGN_MARKS.items():
        if start.startswith(mark):
            raise InputError(f"{path}: the file is {name} (its mark is at offset 0); save it as UTF-8")


def lines(path: Path) -> Iterator[str]:
    """Lines with their ends. Only line feeds end one: others may stand inside JSON text and CSV fields."""
    rest = ""
    for text in chunks(path):
        *whole, rest = (rest + text).split("\n")
        yield from (line + "\n" for line in whole)
        if len(rest) > _LONGEST:
            raise InputError(f"{path}: a line is longer than {_LONGEST} characters, which is no annotation")
    if rest:
        yield rest


def is_list(path: Path) -> bool:
    """Whether the first character that is no space opens a JSON list."""
    return next((stripped[0] for text in chunks(path) if (stripped := text.strip())), "") == "["


class JsonList:
    """The elements of a JSON list, parsed one by one as they are asked for: a list of millions costs the memory of one.

    Raises `InputError` naming the element where the file is not such a list.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._stream = path, chunks(path)
        self._text, self._at, self._number = "", 0, 0

    def __iter__(self) -> Iterator[object]:
        self._take("[")
        if self._peek() != "]":
            yield self._value()
            while self._peek() == ",":
                self._take(",")
                self._number += 1
                yield self._value()
        self._take("]")

    def _value(self) -> object:
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._at > _LONGEST or not self._read():
                    raise self._wrong(f"not JSON ({error})") from None
                continue
            # A number that ends where the text read so far does may go on.
            if end < len(self._text) or not self._read():
                self._at = end
                return value

    def _peek(self) -> str:
        """The next character that is no space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def _take(self, mark: str) -> None:
        if self._peek() != mark:
            found = self._text[self._at : self._at + 20]
            raise self._wrong(f"{mark!r} is expected, found {found!r}" if found else "the file is cut off")
        self._at += 1

    def _read(self) -> bool:
        more = next(self._stream, "")
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def _wrong(self, what: str) -> InputError:
        return InputError(f"{self._path}, entry {self._number}: {what}")
