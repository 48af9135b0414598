"""The CLIP image transform in PIL and numpy, read from a model folder's own configuration.

transformers' processors pick torchvision where it is installed, and the pixels change by up to one grey level with it: scores
would depend on what else is on the machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpo.errors import InputError

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class ClipTransform:
    """Resize (to a shortest edge, or exactly), centre crop, scale, normalise. `resample` is PIL's number; 3 is bicubic."""

    resize: int | Size | None
    crop: Size | None
    resample: int
    rescale_factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 `[H,W,3]` to fp32 `[3,h,w]`."""
        image = Image.fromarray(pixels)
        if self.resize is not None:
            height, width = self._target(image.height, image.width)
            image = image.resize((width, height), Image.Resampling(self.resample))
        if self.crop is not None:
            height, width = self.crop
            # PIL pads with black where the crop is larger than the picture.
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        scaled = (np.asarray(image, dtype=np.float64) * self.rescale_factor).astype(np.float32)
        normal = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))

    def _target(self, height: int, width: int) -> Size:
        if not isinstance(self.resize, int):
            assert self.resize is not None
            return self.resize
        short, long = sorted((height, width))
        longer = int(self.resize * long / short)
        return (self.resize, longer) if height <= width else (longer, self.resize)


def read_transform(folder: Path) -> ClipTransform:
    """From `preprocessor_config.json`, or the `image_processor` of `processor_config.json` (transformers 5 writes either)."""
    path, values = _configuration(folder)
    for switch in ("do_rescale", "do_normalize", "do_convert_rgb"):
        if not values.get(switch, True):
            raise InputError(f"{path}: {switch}: false is not supported; a CLIP scorer rescales and normalises RGB")
    crop = _size(path, "crop_size", values.get("crop_size", 224)) if values.get("do_center_crop", True) else None
    if isinstance(crop, int):
        crop = (crop, crop)
    return ClipTransform(
        resize=_size(path, "size", values.get("size", 224)) if values.get("do_resize", True) else None,
        crop=crop,
        resample=int(_number(path, "resample", values.get("resample", Image.Resampling.BICUBIC))),
        rescale_factor=_number(path, "rescale_factor", values.get("rescale_factor", 1 / 255)),
        mean=_channels(path, "image_mean", values.get("image_mean")),
        std=_channels(path, "image_std", values.get("image_std")),
    )


def _configuration(folder: Path) -> tuple[Path, Mapping[str, object]]:
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        path = folder / name
        if not path.is_file():
            continue
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error})") from None
        values = values.get(key) if key and isinstance(values, dict) else values
        if isinstance(values, dict):
            return path, values
    raise InputError(f"{folder}: no preprocessor_config.json with the image transform's settings")


def _size(path: Path, key: str, value: object) -> int | Size:
    """224, {"shortest_edge": 224} or {"height": 224, "width": 224}."""
    if isinstance(value, Mapping):
        if value.get("shortest_edge"):
            return _size(path, key, value["shortest_edge"])
        height, width = value.get("height"), value.get("width")
        if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
            return height, width
    elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise InputError(f'{path}: {key!r} must be a number of pixels, {{"shortest_edge"}} or {{"height", "width"}}; found {value!r}')


def _number(path: Path, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{path}: {key!r} must be a number, found {value!r}")
    return value


def _channels(path: Path, key: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, Sequence) or len(value) != 3:
        raise InputError(f"{path}: {key!r} must be three numbers, found {value!r}")
    return tuple(_number(path, key, entry) for entry in value)
