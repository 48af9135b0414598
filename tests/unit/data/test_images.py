"""Every kind of picture that data sets hold is read as a viewer shows it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from inpo.data.images import decode, verify_header
from tests.unit.data.making import encoded, noise_picture, png_chunk, raw_png


def pixels(data: bytes) -> np.ndarray:
    """Decoded pixels, after checking that the header check agrees that this is a picture."""
    verify_header(data)
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_rgb_is_read_exactly(kind: str, options: dict[str, object]) -> None:
    picture = noise_picture(0, 24, 16)
    assert (pixels(encoded(picture, kind, **options)) == picture).all()


def test_jpeg_is_read_as_its_decoder_reads_it() -> None:
    """A JPEG of one colour keeps it within rounding."""
    picture = np.full((16, 24, 3), (200, 100, 50), dtype=np.uint8)
    assert np.abs(pixels(encoded(picture, "JPEG", quality=95)) - picture).max() <= 2


def test_cmyk_is_converted_to_the_colour_it_prints() -> None:
    """(255 − c)(255 − k)/255: cyan 10, magenta 200, yellow 30, black 40 is (206.6, 46.4, 189.7)."""
    jpeg = encoded(Image.new("CMYK", (16, 16), (10, 200, 30, 40)), "JPEG", quality=95)
    assert np.abs(pixels(jpeg)[8, 8] - (206.6, 46.4, 189.7)).max() <= 2


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    """16-bit 0, 257·128, 65535 are 8-bit 0, 128, 255; Pillow's own conversion makes everything above 255 white."""
    grey = np.tile(np.array([0, 128 * 257, 65535, 200], dtype=np.uint16), (8, 2))
    assert pixels(encoded(grey))[0, :4].tolist() == [[0] * 3, [128] * 3, [255] * 3, [1] * 3]


def test_16_bit_grey_with_a_transparent_value_is_white_there() -> None:
    rows = [struct.pack(">8H", *[40000, 20000] * 4)] * 8
    picture = pixels(raw_png((8, 8, 16, 0), rows, png_chunk(b"tRNS", struct.pack(">H", 40000))))
    assert picture[0, :2].tolist() == [[255] * 3, [78] * 3]


@pytest.mark.parametrize(("colour_type", "value"), [(2, (0x80, 0x40, 0x20)), (4, (0x80,) * 3), (6, (0x80, 0x40, 0x20))])
def test_16_bit_colour_keeps_the_upper_byte(colour_type: int, value: tuple[int, int, int]) -> None:
    """RGB, grey with alpha and RGBA of 16 bits, opaque."""
    channels = {2: (0x80FF, 0x40FF, 0x20FF), 4: (0x80FF, 0xFFFF), 6: (0x80FF, 0x40FF, 0x20FF, 0xFFFF)}[colour_type]
    picture = pixels(raw_png((8, 8, 16, colour_type), [struct.pack(f">{len(channels)}H", *channels) * 8] * 8))
    assert np.abs(picture[4, 4] - value).max() <= 1


def test_palette_and_its_transparency_lie_over_white() -> None:
    """Entry 0 opaque red, entry 1 fully transparent, entry 2 half-transparent black."""
    image = Image.fromarray(np.tile(np.array([0, 1, 2, 0], dtype=np.uint8), (8, 2)), "P")
    image.putpalette([255, 0, 0, 0, 0, 255, 0, 0, 0])
    picture = pixels(encoded(image, transparency=bytes([255, 0, 128])))
    assert np.abs(picture[0, :3] - [(255, 0, 0), (255, 255, 255), (127, 127, 127)]).max() <= 1
    assert pixels(encoded(image))[0, 1].tolist() == [0, 0, 255]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_lies_over_white(kind: str) -> None:
    """Alpha 0 is white whatever colour hides below it; alpha 255 is the colour."""
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[:, 4:] = (10, 20, 30, 255)
    picture = pixels(encoded(rgba, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[0, 7].tolist() == [10, 20, 30]


def test_a_transparent_colour_of_an_rgb_png_is_white() -> None:
    picture = np.full((8, 8, 3), 9, dtype=np.uint8)
    picture[0, 0] = (1, 2, 3)
    assert pixels(encoded(picture, transparency=(1, 2, 3)))[0, :2].tolist() == [[255] * 3, [9] * 3]


def test_one_bit_and_grey_are_read() -> None:
    assert pixels(raw_png((8, 8, 1, 0), [b"\xaa"] * 8))[0, :2].tolist() == [[255] * 3, [0] * 3]
    assert pixels(encoded(np.full((8, 8), 77, dtype=np.uint8)))[3, 3].tolist() == [77] * 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    """The stored pixels of a camera held in each of eight ways come out as one upright picture, red at its upper left."""
    upright = np.full((16, 24, 3), 255, dtype=np.uint8)
    upright[:8, :8] = (255, 0, 0)
    upright[8:, 16:] = (0, 0, 255)
    # How the camera stores what it sees (EXIF 2.3, table of tag 0x0112): rows and columns by where the 0th ones are.
    lying = upright.swapaxes(0, 1)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: lying, 6: lying[::-1], 7: lying[::-1, ::-1], 8: lying[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}}[kind]
    picture = pixels(encoded(np.ascontiguousarray(stored), kind, exif=exif, **options))
    assert picture.shape == upright.shape
    assert np.abs(picture - upright).max() <= 6


def test_unreadable_exif_leaves_the_picture_as_it_is() -> None:
    picture = np.full((16, 24, 3), 90, dtype=np.uint8)
    assert pixels(encoded(picture, "JPEG", exif=b"Exif\0\0garbage")).shape == picture.shape


def test_a_jpeg_with_a_second_picture_inside_is_its_first() -> None:
    """Phones write such files (MPO) for portraits; they end in .jpg."""
    first, second = (Image.fromarray(np.full((16, 16, 3), value, dtype=np.uint8)) for value in (200, 20))
    buffer = io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert np.abs(pixels(buffer.getvalue()) - 200).max() <= 2
