"""Captioned scenes of one or two coloured shapes: their grammar, their disjoint prompt sets, and their pictures.

A scene is what a caption says, no more and no less: `caption` and `parse` are each other's inverse. A picture is a scene
drawn with an `Imperfection`. Pictures are uint8 `[32, 32, 3]`; lengths are in pixels; all chance comes from the caller's generator.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from inpo.errors import InputError

SIDE = 32
SHAPES = ("circle", "square", "triangle")
COLOURS = {"red": (225, 40, 40), "yellow": (240, 205, 30), "green": (35, 165, 60), "blue": (40, 80, 225), "purple": (165, 45, 205)}
BACKGROUNDS = {"white": (245, 245, 245), "gray": (128, 128, 128), "black": (12, 12, 12)}
RADII = {"big": 10.5, "small": 5.5, "": 5.5}
OFFSET = 8.0
PLACES = {"centre": (0.0, 0.0), "left": (-OFFSET, 0.0), "right": (OFFSET, 0.0), "top": (0.0, -OFFSET), "bottom": (0.0, OFFSET)}
# Their opposites would be other words for the same pictures, and a text encoder this small does not learn the exchange that they ask for.
RELATIONS = {"left of": "left", "above": "top"}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top", "centre": "centre"}

Picture = NDArray[np.uint8]
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Item:
    """One coloured shape."""

    colour: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """What a caption says. One item has a `size` and a `place`; two items have a `relation` (of the first to the second)."""

    items: tuple[Item, ...]
    background: str
    size: str = ""
    place: str = "centre"
    relation: str = ""

    @property
    def caption(self) -> str:
        """The only caption of this scene."""
        first = self.items[0]
        if self.relation:
            second = self.items[1]
            what = f"a {first.colour} {first.shape} {self.relation} a {second.colour} {second.shape} on"
        else:
            where = "on" if self.place == "centre" else f"at the {self.place} of"
            what = f"a {self.size} {first.colour} {first.shape} {where}"
        return f"{what} a {self.background} background"

    def centres(self) -> tuple[tuple[float, float], ...]:
        """Where each item belongs, (x, y) in pixels."""
        place = RELATIONS[self.relation] if self.relation else self.place
        places = (place, OPPOSITE[place])[: len(self.items)]
        return tuple((SIDE / 2 + PLACES[p][0], SIDE / 2 + PLACES[p][1]) for p in places)

    @property
    def radius(self) -> float:
        """The radius of its circles; squares and triangles are made about as large."""
        return RADII[self.size]


@dataclass(frozen=True)
class Imperfection:
    """What can be wrong with a picture: the scene shown instead, a shift and a scale of the items, blur (σ in pixels), fading (0–1), noise.

    Noise is mottling, its σ in grey levels.
    """

    shown: Scene | None = None
    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    blur: float = 0.0
    fade: float = 0.0
    noise: float = 0.0


CLEAN = Imperfection()

_LOOK = rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_GROUND = rf"a ({'|'.join(BACKGROUNDS)}) background"
_ONE = re.compile(rf"a (big|small) {_LOOK} (?:on|at the (left|right|top|bottom) of) {_GROUND}")
_TWO = re.compile(rf"a {_LOOK} ({'|'.join(RELATIONS)}) a {_LOOK} on {_GROUND}")

GRAMMAR = (
    f"'a big|small COLOUR SHAPE on|at the left|right|top|bottom of a GROUND background' or "
    f"'a COLOUR SHAPE {'|'.join(RELATIONS)} a COLOUR SHAPE on a GROUND background', where COLOUR is {'|'.join(COLOURS)}, "
    f"SHAPE {'|'.join(SHAPES)}, GROUND {'|'.join(BACKGROUNDS)}"
)
"""What `parse` reads, in words for whoever wrote something else."""


@cache
def parse(prompt: str) -> Scene:
    """The scene whose caption this is. Raises `InputError` for any other text."""
    if found := _ONE.fullmatch(prompt):
        size, colour, shape, place, background = found.groups()
        return Scene((Item(colour, shape),), background, size, place or "centre")
    if found := _TWO.fullmatch(prompt):
        colour, shape, relation, other, of, background = found.groups()
        return Scene((Item(colour, shape), Item(other, of)), background, relation=relation)
    raise InputError(f"{prompt!r} is not a caption of the world: {GRAMMAR} (docs/world.md); as in {prompts('train')[0]!r}")


def _singles() -> list[list[Scene]]:
    """All scenes of one item, grouped by composition: colour, shape, background. Big items fill the picture, so they are always central."""
    groups = product(COLOURS, SHAPES, BACKGROUNDS)
    looks = [("big", "centre"), *(("small", place) for place in PLACES)]
    return [[Scene((Item(c, s),), b, size, place) for size, place in looks] for c, s, b in groups]


def _doubles() -> list[list[Scene]]:
    """All scenes of two items of different colours, grouped by composition: the two items, whatever their order and relation."""
    items = [Item(c, s) for c, s in product(COLOURS, SHAPES)]
    duos = [(a, b) for i, a in enumerate(items) for b in items[i + 1 :] if a.colour != b.colour]
    rest = list(product(RELATIONS, BACKGROUNDS))
    return [[Scene(duo, b, relation=r) for duo in ((a, c), (c, a)) for r, b in rest] for a, c in duos]


@cache
def everything() -> tuple[Scene, ...]:
    """Every scene of the world."""
    return tuple(scene for group in (*_singles(), *_doubles()) for scene in group)


# Of 45 compositions of one item and 90 of two: shares that leave at least 200 held-out prompts, half of either kind.
_SHARES = {"train": (0.0, 0.5), "validation": (0.5, 0.6), "heldout": (0.6, 1.0)}


def _shuffled(groups: list[list[Scene]], share: tuple[float, float], seed: int) -> list[str]:
    order = np.random.default_rng(seed).permutation(len(groups))
    low, high = (round(edge * len(groups)) for edge in share)
    captions = [scene.caption for i in order[low:high] for scene in groups[i]]
    return [captions[i] for i in np.random.default_rng(seed + 1).permutation(len(captions))]


@cache
def prompts(name: str) -> tuple[str, ...]:
    """The prompts of "train", "validation" or "heldout": disjoint in compositions, one item and two in turn, so that any prefix is mixed.

    Raises `InputError` for another name.
    """
    if name not in _SHARES:
        raise InputError(f"world:{name}: no such prompt set; there are world:train, world:validation and world:heldout")
    one, two = _shuffled(_singles(), _SHARES[name], 1), _shuffled(_doubles(), _SHARES[name], 2)
    return tuple(prompt for both in zip(one, two, strict=False) for prompt in both)


_AXIS = np.arange(SIDE, dtype=np.float32) + 0.5


def coverage(shape: str, centre: tuple[float, float], radius: float) -> Plane:
    """How much of each pixel a shape covers, `[32, 32]` in [0, 1]; linear in the distance to its edge, which is anti-aliasing."""
    x, y = _AXIS[None, :] - centre[0], _AXIS[:, None] - centre[1]
    if shape == "circle":
        distance = np.sqrt(x * x + y * y) - radius
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - 0.886 * radius
    else:
        # Base and height both 2.3 radii; its slanted sides have slope 2, so their normal is (2, -1) / sqrt(5).
        half = 1.15 * radius
        distance = np.maximum(y - half, (2 * np.abs(x) - y - half) / np.sqrt(5.0))
    covered: Plane = np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)
    return covered


@cache
def _blurring(sigma: float) -> Plane:
    """The matrix that blurs 32 pixels in a line; its rows sum to 1, so edges of the picture do not darken."""
    weight = np.exp(-0.5 * ((_AXIS[:, None] - _AXIS[None, :]) / sigma) ** 2)
    kernel: Plane = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    return kernel


@cache
def _upsampling() -> Plane:
    """The matrix that stretches 8 values to 32 pixels, linearly."""
    grid = (np.arange(8, dtype=np.float32) + 0.5) * 4
    kernel: Plane = np.clip(1 - np.abs(_AXIS[:, None] - grid[None, :]) / 4, 0, 1).astype(np.float32)
    return kernel


def render(scene: Scene, rng: np.random.Generator, imperfection: Imperfection = CLEAN) -> Picture:
    """A picture of a scene, uint8 `[32, 32, 3]`. Only mottling draws from `rng`."""
    shown = imperfection.shown or scene
    picture = np.empty((SIDE, SIDE, 3), dtype=np.float32)
    picture[:] = BACKGROUNDS[shown.background]
    for item, (x, y) in zip(shown.items, shown.centres(), strict=True):
        alpha = coverage(item.shape, (x + imperfection.shift[0], y + imperfection.shift[1]), shown.radius * imperfection.scale)[..., None]
        picture += alpha * (np.asarray(COLOURS[item.colour], dtype=np.float32) - picture)
    if imperfection.blur:
        kernel = _blurring(imperfection.blur)
        picture = np.einsum("ij,jkc,lk->ilc", kernel, picture, kernel, optimize=True)
    picture += imperfection.fade * (128.0 - picture)
    if imperfection.noise:
        # Mottling, four pixels wide: noise of single pixels would not survive the VAE's four-fold downsampling.
        patches = rng.normal(0, imperfection.noise, (8, 8)).astype(np.float32)
        picture += (_upsampling() @ patches @ _upsampling().T)[..., None]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def slip(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene that differs in one attribute of the caption."""
    kind = rng.choice(["colour", "shape", "background", "where"])
    if kind == "background":
        return replace(scene, background=_other(BACKGROUNDS, scene.background, rng))
    if kind == "where":
        if scene.relation and rng.random() < 0.5:
            return replace(scene, items=scene.items[::-1])
        if scene.relation:
            return replace(scene, relation=_other(RELATIONS, scene.relation, rng))
        return replace(scene, size="small", place=_other(PLACES, scene.place, rng))
    items = list(scene.items)
    which = int(rng.integers(len(items)))
    taken = [item.colour for item in items]
    free = [c for c in COLOURS if c not in taken]
    item = items[which]
    items[which] = replace(item, shape=_other(SHAPES, item.shape, rng)) if kind == "shape" else replace(item, colour=str(rng.choice(free)))
    return replace(scene, items=tuple(items))


def _other(choices: Iterable[str], but: str, rng: np.random.Generator) -> str:
    return str(rng.choice([choice for choice in choices if choice != but]))


def imperfect(scene: Scene, rng: np.random.Generator) -> Imperfection:
    """A draw from the law of the world's pictures: as mixed as the web, in caption, framing, focus, exposure and cleanness."""
    shift = np.clip(rng.normal(0, 1.3, 2), -3.5, 3.5)
    return Imperfection(
        shown=slip(scene, rng) if rng.random() < 0.06 else None,
        shift=(float(shift[0]), float(shift[1])),
        scale=float(rng.uniform(0.9, 1.1)),
        # Few distinct values, because each has its own cached matrix.
        blur=round(float(rng.uniform(0.4, 1.3)), 1) if rng.random() < 0.4 else 0.0,
        fade=float(rng.uniform(0.1, 0.45)) if rng.random() < 0.5 else 0.0,
        noise=float(rng.uniform(3, 12)) if rng.random() < 0.35 else 0.0,
    )
