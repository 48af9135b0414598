"""One resize, crop and flip for both pictures of a pair, in relative coordinates, so different sizes show the same part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inpo.data.config import Crop
from inpo.randomness import seed_for


@dataclass(frozen=True)
class View:
    """Where the largest square lies in a picture, and whether it is mirrored.

    `x`, `y` in [0, 1]: 0 is the left or upper end of what the square leaves free, ½ the centre.
    """

    x: float = 0.5
    y: float = 0.5
    flip: bool = False


CENTER = View()

Sizes = tuple[int, int, int, int, int, int]
"""What SDXL's network is told of a picture, in pixels and its order: see `sizes_of`."""


def view_of(pair_id: str, *, seed: int, epoch: int, crop: Crop, flip: bool) -> View:
    """The view of a pair in an epoch: pure in its arguments, uniform over places (crop "random") and mirrorings (`flip`)."""
    if crop == "center" and not flip:
        return CENTER
    draw = np.random.default_rng(seed_for(seed, "view", epoch, pair_id)).random(3)
    x, y = (draw[0], draw[1]) if crop == "random" else (CENTER.x, CENTER.y)
    return View(float(x), float(y), flip and bool(draw[2] < 0.5))


def show(image: Image.Image, view: View, resolution: int) -> Tensor:
    """The square `view` of an RGB picture, Lanczos-resampled with antialiasing: fp32 `[3, resolution, resolution]` in [−1, 1]."""
    left, top, side = _square(image.size, view)
    # Resampling out of the box never makes the whole picture larger, however long and thin it is.
    square = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    if view.flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(square, dtype=np.float32)).permute(2, 0, 1).div_(127.5).sub_(1).contiguous()


def show_pair(images: Sequence[Image.Image], view: View, resolution: int) -> Tensor:
    """Winner and loser, or a single picture, under one view: `[P, 3, resolution, resolution]`."""
    return torch.stack([show(image, view, resolution) for image in images])


def sizes_of(size: tuple[int, int], view: View, resolution: int) -> Sizes:
    """What SDXL is told of a picture of `size` (width, height) that `show` shows (arXiv:2307.01952 §2.2; diffusers' `_get_add_time_ids`).

    Original height and width, before any resizing; upper and left edge of the crop, in pixels of the picture resized until its
    shorter side is `resolution`; height and width of what is shown. A mirrored picture's crop is counted from its own left edge:
    nothing tells the network that it was mirrored.
    """
    width, height = size
    left, top, side = _square(size, view)
    if view.flip:
        left = width - side - left
    return height, width, round(top * resolution / side), round(left * resolution / side), resolution, resolution


def _square(size: tuple[int, int], view: View) -> tuple[int, int, int]:
    """Left and upper edge and side of what is cut out, before it is mirrored."""
    side = min(size)
    # Whole pixels: half a pixel off would blur a picture that needs no resizing at all.
    left, top = (round(place * (length - side)) for place, length in zip((view.x, view.y), size, strict=True))
    return left, top, side
