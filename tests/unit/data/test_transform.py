"""Winner and loser are cropped, resized and mirrored alike, and the numbers that come out are the picture's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inpo.data.transform import CENTER, Sizes, View, show, show_pair, sizes_of, view_of
from tests.unit.data.making import noise_picture


def columns(width: int, height: int) -> Image.Image:
    """A picture whose red is the column's number and whose green is the row's."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[..., 0] = np.arange(width)
    picture[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(picture)


def levels(shown: torch.Tensor) -> torch.Tensor:
    """Back from [−1, 1] to 0…255."""
    return (shown + 1) * 127.5


def test_a_picture_of_the_right_size_is_only_rescaled() -> None:
    """x/127.5 − 1, to the bit: no resampling where none is needed."""
    picture = noise_picture(0, 32, 32)
    shown = show(Image.fromarray(picture), CENTER, 32)
    assert shown.dtype == torch.float32
    assert torch.equal(shown, torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1)


@pytest.mark.parametrize("width", [33, 34, 35])
def test_a_crop_starts_at_a_whole_pixel(width: int) -> None:
    """One, two or three columns too many: the centre is some 32 of the columns as they are, not a blur of neighbours."""
    picture = noise_picture(0, width, 32)
    shown = levels(show(Image.fromarray(picture), CENTER, 32)).round().permute(1, 2, 0).numpy()
    assert any((shown == picture[:, start : start + 32]).all() for start in range((width - 32) // 2, (width - 31) // 2 + 1))


def test_black_is_minus_one_and_white_is_one() -> None:
    assert show(Image.new("RGB", (8, 8), "black"), CENTER, 8).unique().tolist() == [-1.0]
    assert show(Image.new("RGB", (8, 8), "white"), CENTER, 8).unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("view", "first_column", "last_column"),
    [(CENTER, 12, 19), (View(x=0.0), 0, 7), (View(x=1.0), 24, 31), (View(x=0.25), 6, 13), (View(flip=True), 19, 12)],
)
def test_the_crop_lies_where_the_view_says(view: View, first_column: int, last_column: int) -> None:
    """32 × 8 pixels leave 24 free: the centre square starts at column 12, x = ¼ at column 6."""
    red = levels(show(columns(32, 8), view, 8))[0]
    assert (red[0, 0].item(), red[0, -1].item()) == pytest.approx((first_column, last_column), abs=1e-3)


def test_rows_are_cropped_by_y() -> None:
    green = levels(show(columns(8, 32), View(y=1.0), 8))[1]
    assert (green[0, 0].item(), green[-1, 0].item()) == pytest.approx((24, 31), abs=1e-3)


def test_downsampling_averages_and_does_not_skip() -> None:
    """A one-pixel checkerboard, 8 times smaller, is grey everywhere; without antialiasing it is black or white."""
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    shown = show(Image.fromarray(np.stack([board] * 3, axis=-1).astype(np.uint8)), CENTER, 8)
    assert shown.abs().max() < 0.02


def test_sides_of_different_size_show_the_same_part() -> None:
    """The same scene in 96 × 32 and in 48 × 16: after one view both are the same picture, up to resampling."""
    scene = Image.fromarray(np.linspace(0, 255, 96, dtype=np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2))
    small = scene.resize((48, 16), Image.Resampling.LANCZOS)
    win, lose = show_pair([scene, small], View(x=0.8, y=0.3, flip=True), 16)
    assert (levels(win) - levels(lose)).abs().max() < 4
    assert (levels(win) - levels(show(scene, CENTER, 16))).abs().max() > 20


def test_an_extreme_aspect_costs_no_more_than_its_square() -> None:
    """16 : 1 at 512 pixels: the long side is never blown up to 8192."""
    assert show(columns(128, 8), View(x=1.0), 512).shape == (3, 512, 512)


@given(st.text(max_size=8), st.integers(0, 9), st.integers(0, 9))
def test_views_are_pure_and_in_range(pair_id: str, seed: int, epoch: int) -> None:
    view = view_of(pair_id, seed=seed, epoch=epoch, crop="random", flip=True)
    assert view == view_of(pair_id, seed=seed, epoch=epoch, crop="random", flip=True)
    assert 0 <= view.x <= 1
    assert 0 <= view.y <= 1


def test_views_differ_by_pair_epoch_and_seed_and_mirror_half() -> None:
    views = [view_of(f"{i}", seed=seed, epoch=epoch, crop="random", flip=True) for i in range(100) for seed in (0, 1) for epoch in (0, 1)]
    assert len({view.x for view in views}) == len({view.y for view in views}) == 400
    assert 150 < sum(view.flip for view in views) < 250


def test_what_is_switched_off_stays_off() -> None:
    assert view_of("a", seed=0, epoch=0, crop="center", flip=False) == CENTER
    assert {view_of(f"{i}", seed=0, epoch=0, crop="center", flip=True) for i in range(20)} == {CENTER, View(flip=True)}
    assert not any(view_of(f"{i}", seed=0, epoch=0, crop="random", flip=False).flip for i in range(20))


@pytest.mark.parametrize(
    ("size", "view", "sizes"),
    [
        ((1536, 1024), CENTER, (1024, 1536, 0, 128, 512, 512)),
        ((1536, 1024), View(x=0.25, y=0.9), (1024, 1536, 0, 64, 512, 512)),
        ((1536, 1024), View(x=0.25, y=0.9, flip=True), (1024, 1536, 0, 192, 512, 512)),
        ((200, 300), CENTER, (300, 200, 128, 0, 512, 512)),
        ((200, 300), View(x=0.9, y=0.1), (300, 200, 26, 0, 512, 512)),
        ((200, 300), View(x=0.9, y=0.1, flip=True), (300, 200, 26, 0, 512, 512)),
        ((512, 512), View(x=0.9, y=0.1, flip=True), (512, 512, 0, 0, 512, 512)),
    ],
)
def test_sizes_by_hand(size: tuple[int, int], view: View, sizes: Sizes) -> None:
    """512 wanted. 1536 × 1024 halved is 768 × 512: 256 columns free, of which ½ or ¼ are left of the crop, or ¾ of the mirrored picture.

    200 × 300 becomes 512 × 768, with 256 rows free: half of them is 128, a tenth 25.6. A picture as it is wanted: the constant.
    """
    assert sizes_of(size, view, 512) == sizes


@given(st.integers(8, 64), st.integers(8, 64), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_sizes_say_where_the_pixels_come_from(width: int, height: int, x: float, y: float, flip: bool) -> None:
    """At the shorter side as resolution nothing is resampled: the crop's corner is the first pixel's place in the (mirrored) picture."""
    view, resolution = View(x, y, flip), min(width, height)
    _, _, top, left, *_ = sizes_of((width, height), view, resolution)
    red, green, _ = levels(show(columns(width, height), view, resolution)).round()
    assert (green[0, 0], red[0, 0]) == (top, width - 1 - left if flip else left)
