"""Bytes that are no picture: each is refused with a reason that a person understands, and none hangs or crashes the reader."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inpo.data.images import BrokenImage, decode, verify_header
from inpo.errors import InputError
from tests.unit.data.making import encoded, noise_picture, png, raw_png

PICTURES = {
    "JPEG": encoded(noise_picture(1), "JPEG"),
    "PNG": encoded(noise_picture(1), "PNG"),
    "WebP": encoded(noise_picture(1), "WEBP"),
}
GIF = encoded(noise_picture(1), "GIF")
ANIMATED_GIF = encoded(noise_picture(1), "GIF", save_all=True, append_images=[Image.fromarray(noise_picture(2))])
FITS = b"SIMPLE  =                    T".ljust(2880)


def bomb(side: int) -> bytes:
    """A few bytes that claim to be side × side pixels."""
    return raw_png((side, side, 8, 2), [bytes(30)])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"\xef\xbb\xbf \n<html lang='en'>moved</html>", "an HTML page"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<svg onload='alert(1)'/>", "an SVG drawing"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML or HTML document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (FITS, "a FITS file"),
        (GIF, "a GIF"),
        (ANIMATED_GIF, "a GIF"),
        (encoded(noise_picture(1), "TIFF"), "a TIFF"),
        (encoded(noise_picture(1), "BMP"), "a BMP"),
        (b"%PDF-1.7", "a PDF"),
        (b"\0" * 64, "bytes of an unknown kind"),
        (encoded(noise_picture(1), "PNG", save_all=True, append_images=[Image.fromarray(noise_picture(2))]), "an animated PNG"),
        (encoded(noise_picture(1), "WEBP", save_all=True, append_images=[Image.fromarray(noise_picture(2))]), "an animated WebP"),
        (bomb(8_001), "more than 64 megapixels"),
        (bomb(10_000), "more than 64 megapixels"),
        (bomb(30_000), "more than 64 megapixels"),
        (png(1, 1, 1), "too small"),
        (png(1, 8, 7), "too small"),
        (png(1, 200, 8), "more than 16 times as long as wide"),
        (png(1, 8, 129), "more than 16 times as long as wide"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_picture_is_named(data: bytes, reason: str) -> None:
    """Both checks refuse it from its first bytes and header, with the same reason."""
    for check in (decode, verify_header):
        with pytest.raises(BrokenImage, match=reason) as caught:
            check(data)
        assert isinstance(caught.value, InputError)


def test_a_bomb_is_refused_before_memory_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The header alone decides: pixels are never asked for."""
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("pixels were decoded"))
    with pytest.raises(BrokenImage, match="megapixels"):
        decode(bomb(8_500))


def test_the_largest_and_longest_allowed_are_read() -> None:
    """64 megapixels and 16 : 1 are within the limits."""
    verify_header(bomb(8_000))
    assert decode(png(1, 128, 8)).size == (128, 8)


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_cut_anywhere_is_truncated(kind: str) -> None:
    """Every proper beginning of a file is refused; none is read with a grey lower half. (A PNG's last chunk has no content.)"""
    data = PICTURES[kind]
    for length in range(1, len(data) - 12 if kind == "PNG" else len(data), 7):
        with pytest.raises(BrokenImage):
            decode(data[:length])
    with pytest.raises(BrokenImage, match=f"truncated {kind}"):
        verify_header(data[: len(data) // 2])
    with pytest.raises(BrokenImage, match=f"truncated {kind}"):
        decode(data[: len(data) // 2])


def test_damage_inside_is_found_by_decoding_only() -> None:
    """What `verify: headers` does not see, `full` does."""
    data = bytearray(PICTURES["PNG"])
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(8)
    verify_header(bytes(data))
    with pytest.raises(BrokenImage, match="damaged PNG"):
        decode(bytes(data))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150)
@given(kind=st.sampled_from(sorted(PICTURES)), seed=st.integers(0, 2**32))
def test_flipped_bytes_are_read_or_refused(kind: str, seed: int) -> None:
    """Random damage: a picture or a `BrokenImage`, never another exception."""
    data, dice = bytearray(PICTURES[kind]), random.Random(seed)
    for _ in range(dice.randint(1, 8)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    try:
        image = decode(bytes(data))
    except BrokenImage:
        return
    assert np.asarray(image).shape[2] == 3


@settings(max_examples=100)
@given(st.one_of(st.binary(max_size=200), st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"]).flatmap(
    lambda head: st.binary(max_size=200).map(lambda rest: head + rest))))  # fmt: skip
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    """Noise, and noise behind a picture's first bytes."""
    with pytest.raises(BrokenImage):
        decode(data)
