"""Cells that stand for files: pictures and captions are read where they are examined, not where they are listed."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inpo.errors import InputError

PICTURE_BYTES: Final = 256 << 20
CAPTION_BYTES: Final = 64 << 10

PICTURE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
OTHER_PICTURES: Final = frozenset({".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl", ".svg"})
"""Kinds that are listed like pictures, so that they are rejected by name and not passed over."""


class Unread(Exception):
    """A file that could not be read. `reason` is the same for all of a kind; `found` is what this one had."""

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(f"{reason} ({found})" if found else reason)
        self.reason = reason
        self.found = found


@dataclass(frozen=True)
class PictureFile:
    """A picture by its place. `shown`: the name that users gave it, for messages."""

    path: Path
    shown: str

    def read(self) -> bytes:
        """The file's bytes. Raises `Unread`."""
        return read_regular(self.path, self.shown, PICTURE_BYTES)


@dataclass(frozen=True)
class CaptionFiles:
    """The files that hold one pair's caption; where there are several they must agree."""

    paths: Sequence[Path]
    shown: Sequence[str]

    def read(self) -> str:
        """The caption without the white space around it. Raises `Unread`."""
        texts = [_text(path, shown) for path, shown in zip(self.paths, self.shown, strict=True)]
        if len(set(texts)) > 1:
            raise Unread("the caption files differ", ", ".join(self.shown))
        return texts[0]


def read_regular(path: Path, shown: str, limit: int) -> bytes:
    """A regular file's bytes, at most `limit` of them: a pipe would wait for ever, a device never end. Raises `Unread`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unread("is not a file", shown)
        if status.st_size > limit:
            raise Unread(f"is larger than {limit >> 10} KiB", f"{shown}, {status.st_size} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise Unread("there is no such file", shown) from None
    except (OSError, ValueError) as error:  # A name with a zero byte is a ValueError.
        raise Unread("cannot be read", f"{shown}: {getattr(error, 'strerror', None) or error}") from error


def printable(name: str) -> str:
    """A file's name fit for one line of a message."""
    return name if name.isprintable() else ascii(name)[1:-1]


def walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names relative to `folder`, and paths, of all files below it. Links are followed, but never in a circle; hidden names are skipped."""
    yield from _walk(folder, "", frozenset())


def _walk(folder: Path, prefix: str, above: frozenset[str]) -> Iterator[tuple[str, Path]]:
    here = os.path.realpath(folder)
    if here in above:
        return
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"data.path: the folder {folder} cannot be read: {error.strerror}") from error
    for entry in found:
        if entry.name.startswith((".", "_")):
            continue
        if _is_folder(entry):
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", above | {here})
        else:
            yield prefix + entry.name, Path(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself.
        return False


def _text(path: Path, shown: str) -> str:
    data = read_regular(path, shown, CAPTION_BYTES)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Unread("is not UTF-8 text: save it as UTF-8", f"{shown}: UTF-16")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise Unread("is not UTF-8 text: save it as UTF-8", f"{shown}: byte {error.start} is {data[error.start]:#04x}") from None
