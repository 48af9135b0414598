"""The quick look at a header never says more than the slow one: whatever it accepts, Pillow opens with that size."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inpo.data import images
from inpo.data.headers import quick_size
from inpo.data.images import BrokenImage, verify_header
from tests.unit.data.making import encoded, noise_picture, png, raw_png

KNOWN = {
    "png": png(1, 24, 16),
    "grey": encoded(Image.fromarray(noise_picture(1, 24, 16)).convert("L"), "PNG"),
    "alpha": encoded(Image.fromarray(noise_picture(1, 24, 16)).convert("RGBA"), "PNG"),
    "16 bit": encoded(Image.fromarray(np.zeros((16, 24), np.uint16)), "PNG"),
    "jpeg": encoded(noise_picture(1, 24, 16), "JPEG"),
    "progressive": encoded(noise_picture(1, 24, 16), "JPEG", progressive=True, comment=b"made"),
    "grey jpeg": encoded(Image.fromarray(noise_picture(1, 24, 16)).convert("L"), "JPEG"),
}
LEFT_TO_PILLOW = {
    "palette": encoded(Image.fromarray(noise_picture(1, 24, 16)).convert("P"), "PNG"),
    "text": raw_png((24, 16, 8, 2), [bytes(72)] * 16, extra=b"\0\0\0\0tEXt\xaf\x11\xbb\x7d"),
    "cmyk": encoded(Image.fromarray(noise_picture(1, 24, 16)).convert("CMYK"), "JPEG"),
    "webp": encoded(noise_picture(1, 24, 16), "WEBP"),
    "nothing": b"",
}


@pytest.mark.parametrize("name", KNOWN)
def test_common_files_need_no_second_look(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their size is read from a few bytes, and checked, without Pillow."""
    assert quick_size(KNOWN[name]) == (24, 16)
    monkeypatch.setattr(images.Image, "open", lambda *_, **__: pytest.fail("Pillow was asked"))
    verify_header(KNOWN[name])


@pytest.mark.parametrize("name", LEFT_TO_PILLOW)
def test_others_are_looked_at_more_closely(name: str) -> None:
    assert quick_size(LEFT_TO_PILLOW[name]) is None


def test_limits_hold_without_pillow() -> None:
    """Too small, too long and too many pixels are refused with the same reasons."""
    for width, height, reason in ((7, 16, "too small"), (200, 8, "more than 16 times"), (8001, 8001, "more than 64 megapixels")):
        data = raw_png((width, height, 8, 2), [bytes(30)])
        assert quick_size(data) == (width, height)
        with pytest.raises(BrokenImage, match=reason):
            verify_header(data)


@settings(max_examples=400)
@given(
    name=st.sampled_from(sorted(KNOWN)),
    changes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 200),
)
def test_what_the_quick_look_accepts_pillow_opens(name: str, changes: list[tuple[int, int]], cut: int) -> None:
    """Bytes exchanged in the header and after it, and the end cut off: where a size is given, Pillow gives the same."""
    data = bytearray(KNOWN[name])
    for place, value in changes:
        data[min(place, len(data) - 1)] = value
    damaged = bytes(data[: len(data) - cut])
    size = quick_size(damaged)
    if size is not None and 0 < size[0] * size[1] <= images.MAX_PIXELS:
        assert Image.open(io.BytesIO(damaged), formats=images.FORMATS).size == size
