"""Untrusted bytes to upright 8-bit RGB pictures, or a `BrokenImage` that says what they are instead.

Only JPEG, PNG and WebP are ever handed to a decoder, and sizes are checked in the header, before memory is spent on pixels.
"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from PIL import Image

from inpo.data.headers import quick_size
from inpo.errors import InputError

MAX_PIXELS: Final = 64_000_000
MIN_SIDE: Final = 8
MAX_ASPECT: Final = 16

FORMATS: Final = ("JPEG", "PNG", "WEBP")
_ALLOWED: Final = "not a JPEG, PNG or WebP image"

_OTHER_FILES: Final = (
    (b"gif8", "a GIF"),
    (b"simple  =", "a FITS file"),
    (b"bm", "a BMP"),
    (b"ii*\0", "a TIFF"),
    (b"mm\0*", "a TIFF"),
    (b"%pdf", "a PDF"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)

_ORIENTATION_TAG: Final = 0x0112
# EXIF says how the camera was held; these undo it (CIPA DC-008, tag 0x0112).
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImage(InputError):
    """Bytes that are no picture to train on. `reason` is the same for all of a kind; `found` is what this one had."""

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(f"{reason} ({found})" if found else reason)
        self.reason = reason
        self.found = found


def decode(data: bytes) -> Image.Image:
    """The picture in `data`: mode RGB, upright (EXIF), transparency over white, 16-bit grey scaled to 8.

    Raises `BrokenImage` for anything that is not one complete JPEG, PNG or WebP picture of sane size.
    """
    image = _open(data)
    try:
        image.load()
        return _to_rgb(_upright(image))
    except Exception as error:  # Hostile bytes make Pillow's decoders raise nearly every built-in exception.
        name = _format(data)
        raise BrokenImage(f"truncated {name}" if "truncat" in str(error).lower() else f"damaged {name}", str(error)) from error


def verify_header(data: bytes) -> None:
    """All that `decode` checks but the pixels: kind, completeness as far as the ends show it, size, animation.

    Raises `BrokenImage`. A picture that passes may still be damaged inside.
    """
    size = quick_size(data)
    if size is None or _is_cut_short(data, _format(data) or ""):
        _open(data)
    else:
        _check_size(*size)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BrokenImage("zero bytes")
    name = _format(data)
    if name is None:
        raise BrokenImage(f"{_describe(data)}, {_ALLOWED}")
    if _is_cut_short(data, name):
        raise BrokenImage(f"truncated {name}", f"{len(data)} bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        animated = name != "JPEG" and getattr(image, "is_animated", False)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenImage(_too_many_pixels(), str(error)) from error
    except Exception as error:  # As in `decode`.
        raise BrokenImage(f"damaged {name}", str(error)) from error
    if animated:
        raise BrokenImage(f"an animated {name}, not one picture")
    _check_size(*image.size)
    return image


def _format(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    return "WebP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _describe(data: bytes) -> str:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, name in _OTHER_FILES:
        if head.startswith(start):
            return name
    if head.startswith(b"<"):
        if b"<svg" in head:
            return "an SVG drawing"
        return "an HTML page" if b"<!doctype html" in head or b"<html" in head else "an XML or HTML document"
    return "bytes of an unknown kind"


def _is_cut_short(data: bytes, name: str) -> bool:
    if name == "JPEG":
        return data.rfind(b"\xff\xd9") < 0
    if name == "PNG":
        return data.rfind(b"IEND") < 0
    return int.from_bytes(data[4:8], "little") + 8 > len(data)


def _too_many_pixels() -> str:
    return f"more than {MAX_PIXELS // 1_000_000} megapixels"


def _check_size(width: int, height: int) -> None:
    short, long = sorted((width, height))
    if width * height > MAX_PIXELS:
        raise BrokenImage(_too_many_pixels(), f"{width}×{height}")
    if short < MIN_SIDE:
        raise BrokenImage(f"too small: each side needs {MIN_SIDE} pixels", f"{width}×{height}")
    if long > MAX_ASPECT * short:
        raise BrokenImage(f"more than {MAX_ASPECT} times as long as wide", f"{width}×{height}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # Unreadable EXIF says nothing about the pixels, and viewers show such pictures as they are.
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips: everything above 255 of 65535 would be white.
    wide = np.asarray(image).astype(np.uint32)
    grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey[wide == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
