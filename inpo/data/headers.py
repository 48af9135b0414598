"""A quick look at a picture's header, for the common files of which nothing else needs to be known.

Opening a picture with Pillow costs tens of microseconds, which for millions of small rows is most of the time of an index.
"""

from __future__ import annotations

import zlib
from typing import Final

_PNG_KINDS: Final = frozenset([(depth, 0) for depth in (1, 2, 4, 8, 16)] + [(depth, kind) for kind in (2, 4, 6) for depth in (8, 16)])
"""(bit depth, colour type) of PNG without a palette (PNG specification, table 12)."""

_BASELINE, _PROGRESSIVE, _QUANTISATION, _SCAN = 0xC0, 0xC2, 0xDB, 0xDA
_PLAIN_SEGMENTS: Final = frozenset({0xC4, _QUANTISATION, 0xDD, 0xE0, 0xFE})
"""Tables, restart interval, JFIF and comments: segments that say nothing about the picture's size."""


def quick_size(data: bytes) -> tuple[int, int] | None:
    """Width and height where `data` is plainly a still JPEG, PNG or WebP with a sound header; None where that takes a closer look."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_size(data)
    return _jpeg_size(data) if data.startswith(b"\xff\xd8\xff") else None


def _png_size(data: bytes) -> tuple[int, int] | None:
    if data[8:16] != b"\0\0\0\rIHDR" or data[37:41] != b"IDAT" or len(data) < 45:
        return None
    header = data[12:29]
    sound = (header[12], header[13]) in _PNG_KINDS and header[14:17] in (b"\0\0\0", b"\0\0\1")
    if not sound or zlib.crc32(header) != int.from_bytes(data[29:33], "big"):
        return None
    return int.from_bytes(header[4:8], "big"), int.from_bytes(header[8:12], "big")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walks the segments up to the first scan, all of which must be plain (ITU-T T.81, annex B)."""
    place, size = 2, None
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : place + 2 + length]
        if len(segment) != length - 2:
            return None
        if marker == _SCAN:
            return size
        if marker in (_BASELINE, _PROGRESSIVE) and size is None:
            size = _frame_size(segment)
        if not _is_plain(marker, segment, size):
            return None
        place += 2 + length
    return None


def _is_plain(marker: int, segment: bytes, size: tuple[int, int] | None) -> bool:
    if marker in (_BASELINE, _PROGRESSIVE):
        return size is not None
    if marker == _QUANTISATION:
        # Tables of 64 bytes, each after its number; tables of 16 bits are rare enough for the closer look.
        return len(segment) % 65 == 0 and all(number < 16 for number in segment[::65])
    return marker in _PLAIN_SEGMENTS


def _frame_size(frame: bytes) -> tuple[int, int] | None:
    """Of a frame header: 8 bits a sample, and 1 or 3 components."""
    if len(frame) < 6 or frame[0] != 8 or frame[5] not in (1, 3) or len(frame) != 6 + 3 * frame[5]:
        return None
    return int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")
