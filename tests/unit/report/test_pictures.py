"""Pictures in the page: small, counted, never broken."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpo.report.pictures import BUDGET_BYTES, Album


def noise(path: Path, size: int, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_small_files_are_embedded_as_they_are(tmp_path: Path):
    """Bit for bit, under their own media type."""
    path = noise(tmp_path / "a.png", 32)
    picture = Album().embed(path)
    assert picture is not None
    assert picture.uri.startswith("data:image/png;base64,")
    assert base64.b64decode(picture.uri.partition(",")[2]) == path.read_bytes()
    assert (picture.width, picture.tiny) == (32, True)


def test_large_pictures_are_made_smaller(tmp_path: Path):
    """At most 256 pixels on the longer side, shape kept."""
    Image.new("RGB", (1024, 512)).save(tmp_path / "a.png")
    picture = Album().embed(tmp_path / "a.png")
    assert picture is not None
    assert (picture.width, picture.height, picture.tiny) == (256, 128, False)
    assert decoded(picture.uri).size == (256, 128)


@pytest.mark.parametrize("data", [b"", b"<svg xmlns='http://www.w3.org/2000/svg' onload='x'/>", b"GIF89a", b"\x89PNG\r\n\x1a\n truncated"])
def test_what_is_no_picture_is_counted(tmp_path: Path, data: bytes):
    """Other formats are not passed on to the browser either."""
    (tmp_path / "a.png").write_bytes(data)
    album = Album()
    assert album.embed(tmp_path / "a.png") is None
    assert album.embed(tmp_path / "a.png") is None
    assert (album.unreadable, album.shown) == (1, 0)


def test_truncated_file_is_not_embedded(tmp_path: Path):
    """It would open, and show half."""
    path = noise(tmp_path / "a.png", 64)
    path.write_bytes(path.read_bytes()[:-200])
    assert Album().embed(path) is None


def test_budget_is_kept_and_said(tmp_path: Path):
    """Past the budget pictures are left out, and counted."""
    album = Album(spent_bytes=BUDGET_BYTES - 5000)
    first, second = noise(tmp_path / "a.png", 32), noise(tmp_path / "b.png", 32, seed=1)
    assert album.embed(first) is not None
    assert album.embed(second) is None
    assert (album.shown, album.left_out) == (1, 1)
