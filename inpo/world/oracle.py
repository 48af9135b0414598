"""The world's truth: how good a picture is for its prompt, by parts, read from the pixels alone.

Backgrounds have no hue and items do, so chroma separates them, and neither blur nor fading changes a hue. What is found is then
measured against what the caption asks for. `parts` are in [0, 1]; `correct` says whether every attribute named in the prompt is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inpo.errors import InputError
from inpo.world.shapes import BACKGROUNDS, COLOURS, OFFSET, PLACES, RELATIONS, SHAPES, SIDE, Item, Picture, Plane, Scene, coverage, parse

WEIGHTS = {"fidelity": 0.5, "composition": 0.2, "sharpness": 0.15, "contrast": 0.15}
# Chroma below this is a background's; the most faded item keeps about 75.
MIN_CHROMA = 30.0
# Fewer pixels than this are a stray blot; the smallest item covers about 65.
MIN_AREA = 16
# Halfway, in ratio, between the areas of small and big items.
BIG_AREA = 170.0
_WIDTH = SIDE + 1  # One empty column, so that shifting a row by a bit cannot run into its neighbour.


@dataclass(frozen=True)
class Blob:
    """One item as found: its share of each pixel, `[32, 32]`, and its overlap with each shape of the same area and centre."""

    colour: str
    cover: Plane
    area: float
    centre: tuple[float, float]
    matches: Mapping[str, float]

    @property
    def shape(self) -> str:
        """The shape that it overlaps most."""
        return max(self.matches, key=self.matches.__getitem__)

    @property
    def middle(self) -> tuple[float, float]:
        """The middle of its box; a triangle's centre of mass lies below it."""
        return self.centre[0], self.centre[1] - _SINKS[self.shape] * float(np.sqrt(self.area / _AREAS[self.shape]))

    @property
    def place(self) -> str:
        """The nearest of the named places."""
        x, y = self.middle[0] - SIDE / 2, self.middle[1] - SIDE / 2
        return min(PLACES, key=lambda place: (x - PLACES[place][0]) ** 2 + (y - PLACES[place][1]) ** 2)


@dataclass(frozen=True)
class Seen:
    """What a picture shows: its background, its items from the largest to the smallest, and the picture itself in floats."""

    background: str
    ground: Plane
    blobs: tuple[Blob, ...]
    picture: Plane


def see(image: Picture) -> Seen:
    """Reads a picture, uint8 `[32, 32, 3]`. Raises `InputError` for another size."""
    if image.shape != (SIDE, SIDE, 3):
        raise InputError(f"world:oracle judges pictures of {SIDE}×{SIDE} pixels; found {image.shape[1]}×{image.shape[0]}")
    picture = image.astype(np.float32)
    chroma = picture.max(-1) - picture.min(-1)
    # The background is a median over the border, where items seldom are, and of grey pixels where there are any.
    border = np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])
    ground = np.median(border, axis=0)
    level = float(ground.mean())
    background = "black" if level < 72 else "gray" if level < 184 else "white"
    strong = chroma > max(MIN_CHROMA, 0.5 * float(np.partition(chroma, -40, axis=None)[-40]))
    hue = _hues(picture)
    blobs = [blob for i, colour in enumerate(COLOURS) for mask in _regions(strong & (hue == i)) for blob in [_blob(colour, mask, chroma)]]
    return Seen(background, ground, tuple(sorted(blobs, key=lambda blob: -blob.area)), picture)


def _unit_chroma(rgb: Plane) -> Plane:
    """The direction of each colour seen along the grey axis, `[…, 2]`; fading and mixing with grey leave it unchanged."""
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    plane = np.stack([r - 0.5 * (g + b), 0.866 * (g - b)], axis=-1)
    unit: Plane = plane / np.maximum(np.sqrt((plane * plane).sum(-1, keepdims=True)), 1e-6)
    return unit


_HUES = _unit_chroma(np.asarray(list(COLOURS.values()), dtype=np.float32))


def _hues(picture: Plane) -> NDArray[np.intp]:
    """The index of the nearest hue of the palette, `[32, 32]`."""
    nearest: NDArray[np.intp] = (_unit_chroma(picture) @ _HUES.T).argmax(-1)
    return nearest


def _to_bits(mask: np.ndarray) -> int:
    padded = np.zeros((SIDE, _WIDTH), dtype=bool)
    padded[:, :SIDE] = mask
    return int.from_bytes(np.packbits(padded, bitorder="little").tobytes(), "little")


def _to_mask(bits: int) -> np.ndarray:
    raw = np.frombuffer(bits.to_bytes((SIDE * _WIDTH + 7) // 8, "little"), dtype=np.uint8)
    return np.unpackbits(raw, count=SIDE * _WIDTH, bitorder="little").reshape(SIDE, _WIDTH)[:, :SIDE].astype(bool)


_EVERYWHERE = _to_bits(np.ones((SIDE, SIDE), dtype=bool))


def _grow(bits: int, within: int) -> int:
    return (bits | bits << 1 | bits >> 1 | bits << _WIDTH | bits >> _WIDTH) & within


def _regions(mask: np.ndarray) -> list[int]:
    """The connected regions of a mask that are not blots, as bit sets: a flood fill takes microseconds on one large integer."""
    left, regions = _to_bits(mask), []
    while left:
        region, before = left & -left, 0
        while region != before:
            region, before = _grow(region, left), region
        left ^= region
        if region.bit_count() >= MIN_AREA:
            regions.append(region)
    return regions


def _blob(colour: str, region: int, chroma: Plane) -> Blob:
    core = _to_mask(region)
    # The item's own chroma is a high quantile of it; a softer pixel's share of the item is its chroma's share of that.
    full = float(np.quantile(chroma[core], 0.8))
    around = _to_mask(_grow(_grow(region, _EVERYWHERE), _EVERYWHERE))
    cover = np.where(around, np.clip((chroma - 6) / (full - 6), 0, 1), 0).astype(np.float32)
    area = float(cover.sum())
    axis = np.arange(SIDE, dtype=np.float32) + 0.5
    centre = (float(cover.sum(0) @ axis) / area, float(cover.sum(1) @ axis) / area)
    # Blur must not make every shape round: what is at least mostly covered counts as covered, and the reverse.
    firm = np.clip(2.5 * cover - 0.75, 0, 1)
    return Blob(colour, cover, area, centre, {shape: _overlap(shape, firm, float(firm.sum()), centre) for shape in SHAPES})


# Area over radius squared, and how far a shape's centre of mass lies below the middle of its box, in radii.
_AREAS = {"circle": np.pi, "square": 4 * 0.886**2, "triangle": 2 * 1.15**2}
_SINKS = {"circle": 0.0, "square": 0.0, "triangle": 1.15 / 3}


def _overlap(shape: str, cover: Plane, area: float, centre: tuple[float, float]) -> float:
    """Intersection over union with an ideal shape of the same area and centre of mass."""
    radius = float(np.sqrt(area / _AREAS[shape]))
    ideal = coverage(shape, (centre[0], centre[1] - _SINKS[shape] * radius), radius)
    return float(np.minimum(cover, ideal).sum() / np.maximum(cover, ideal).sum())


def _assign(scene: Scene, blobs: Sequence[Blob]) -> list[Blob | None]:
    """The blob that stands for each item: the largest of its colour, else the largest that is left."""
    rest = list(blobs)
    found: list[Blob | None] = []
    for item in scene.items:
        found.append(next((blob for blob in rest if blob.colour == item.colour), None))
        rest = [blob for blob in rest if blob is not found[-1]]
    return [blob if blob is not None or not rest else rest.pop(0) for blob in found]


def _where(scene: Scene, found: Sequence[Blob | None]) -> bool:
    """Whether the place of the item, or the relation between the two, is the one asked for."""
    if any(blob is None for blob in found):
        return False
    blobs = [blob for blob in found if blob is not None]
    if not scene.relation:
        return blobs[0].place == scene.place
    (x, y), (u, v) = blobs[0].middle, blobs[1].middle
    place = ("left" if x < u else "right") if abs(x - u) > abs(y - v) else ("top" if y < v else "bottom")
    return place == RELATIONS[scene.relation]


def _size(scene: Scene, blob: Blob) -> bool:
    return (blob.area > BIG_AREA) == (scene.size == "big")


def _attributes(scene: Scene, seen: Seen, found: Sequence[Blob | None]) -> list[bool]:
    """Background, count, place or relation; then colour, shape and size of each item."""
    answers = [seen.background == scene.background, len(seen.blobs) == len(scene.items), _where(scene, found)]
    for item, blob in zip(scene.items, found, strict=True):
        answers += [False] * 3 if blob is None else [blob.colour == item.colour, blob.shape == item.shape, _size(scene, blob)]
    return answers


def correct(image: Picture, prompt: str) -> bool:
    """Whether every attribute that the prompt names is right. `image`: uint8 `[32, 32, 3]`."""
    scene, seen = parse(prompt), see(image)
    return all(_attributes(scene, seen, _assign(scene, seen.blobs)))


def parts(image: Picture, prompt: str) -> dict[str, float]:
    """Fidelity, composition, sharpness and contrast, each in [0, 1]. `image`: uint8 `[32, 32, 3]`."""
    scene, seen = parse(prompt), see(image)
    found = _assign(scene, seen.blobs)
    right = _attributes(scene, seen, found)
    pairs = [(item, centre, blob) for item, centre, blob in zip(scene.items, scene.centres(), found, strict=True) if blob is not None]
    if not pairs:
        return {"fidelity": 0.8 * sum(right) / len(right), "composition": 0.0, "sharpness": 0.0, "contrast": 0.0}
    share = len(pairs) / len(scene.items)
    form = float(np.mean([np.clip((blob.matches[item.shape] - 0.6) / 0.35, 0, 1) for item, _, blob in pairs]))
    return {
        "fidelity": 0.8 * sum(right) / len(right) + 0.2 * share * form,
        "composition": share * float(np.mean([_placement(centre, blob) for _, centre, blob in pairs])),
        "sharpness": share * float(np.mean([_crispness(blob) for _, _, blob in pairs])) * _flatness(seen),
        "contrast": share * float(np.mean([_contrast(scene, seen, item, blob) for item, _, blob in pairs])),
    }


def _placement(centre: tuple[float, float], blob: Blob) -> float:
    """How near the middle of its box is to where it belongs, less what the picture's edge cuts off."""
    x, y = blob.middle[0] - centre[0], blob.middle[1] - centre[1]
    edge = blob.cover[0].sum() + blob.cover[-1].sum() + blob.cover[:, 0].sum() + blob.cover[:, -1].sum()
    return float(np.exp(-(x * x + y * y) / (2 * (OFFSET / 2.5) ** 2)) * np.exp(-edge / 6))


def _crispness(blob: Blob) -> float:
    """The mean slope at the item's edge, weighted by the slope: 1 where an edge is one pixel wide, less where it is spread."""
    across, down = np.diff(blob.cover, axis=1)[:-1], np.diff(blob.cover, axis=0)[:, :-1]
    squares = across * across + down * down
    slopes = np.sqrt(squares).sum()
    return float(np.clip((squares.sum() / max(slopes, 1e-6) - 0.2) / 0.4, 0, 1))


def _flatness(seen: Seen) -> float:
    """1 on an even background, less on a mottled one."""
    clear = np.ones((SIDE, SIDE), dtype=bool)
    for blob in seen.blobs:
        clear &= blob.cover < 0.02
    return float(np.exp(-seen.picture[clear].std(axis=0).mean() / 12)) if clear.sum() >= MIN_AREA else 0.0


def _contrast(scene: Scene, seen: Seen, item: Item, blob: Blob) -> float:
    """The distance between item and background, as a share of the one that the prompt's colours have."""
    shown = seen.picture[blob.cover > 0.95]
    if not len(shown):
        return 0.0
    wanted = np.linalg.norm(np.subtract(COLOURS[item.colour], BACKGROUNDS[scene.background]))
    return float(np.clip(np.linalg.norm(np.median(shown, axis=0) - seen.ground) / wanted, 0, 1))


def score(image: Picture, prompt: str) -> float:
    """The weighted mean of the parts, in [0, 1]."""
    measured = parts(image, prompt)
    return sum(weight * measured[name] for name, weight in WEIGHTS.items())


class OracleScorer:
    """The oracle as a `Scorer`."""

    name = "world:oracle"
    spec: Mapping[str, object] = {"weights": WEIGHTS}

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises `InputError` for a prompt that is no caption of the world."""
        for prompt in prompts:
            parse(prompt)

    def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """fp32 `[B]` in [0, 1]; `images` are uint8 `[32, 32, 3]`."""
        return torch.tensor([score(image.cpu().numpy(), prompt) for image, prompt in zip(images, prompts, strict=True)])

    def parts(self, images: Sequence[Tensor], prompts: Sequence[str]) -> dict[str, Tensor]:
        """Each part, fp32 `[B]`."""
        rows = [parts(image.cpu().numpy(), prompt) for image, prompt in zip(images, prompts, strict=True)]
        return {name: torch.tensor([row[name] for row in rows]) for name in WEIGHTS}
