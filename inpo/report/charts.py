"""Line charts as geometry: what a template needs to draw them as inline SVG, in the colours of the page's own style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WIDTH, HEIGHT = 364, 228
LEFT, RIGHT, TOP, BOTTOM = 50, 350, 10, 192
"""The plotting area inside WIDTH × HEIGHT, in the SVG's own units (about a pixel each)."""

_POINTS = 240
"""No path has more: the page must stay small, and the chart is 300 units wide."""


@dataclass(frozen=True)
class Series:
    """One curve: `label` for its description, `colour` a class of the page's style. Values that are not finite are gaps.

    `band`: (low, high) beside each y, drawn behind the curve.
    """

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Tick:
    """A grid line: where it stands in SVG units, and what is written beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """`path`: what the eye should follow; `faint`: the raw values behind a smoothed one; `dots`: (x, y) where points are few.

    `band`: an area behind it.
    """

    colour: str
    path: str
    faint: str
    dots: tuple[tuple[float, float], ...]
    dashed: bool
    band: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawn chart. `description` says in words what a reader who sees no picture misses."""

    title: str
    note: str
    x_label: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    reference: Tick | None
    description: str


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        clipped = min(max(value, self.low), self.high)
        return round(self.start + (clipped - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self, count: int) -> tuple[Tick, ...]:
        return tuple(Tick(self(value), text) for value, text in nice_ticks(self.low, self.high, count))


Level = tuple[float, str]
"""A horizontal line to compare with, and its name."""


def line_chart(
    title: str, series: Sequence[Series], *, note: str = "", x_label: str = "step", reference: Level | None = None, smooth: bool = True
) -> Chart | None:
    """A chart of all series that have a finite value, or None where none has. A `reference` too far off to be seen is left out.

    Smoothing is a centred mean over a tenth of the points, with the raw values left faintly behind it.
    """
    finite = [kept for kept in map(_finite, series) if kept.y]
    if not finite:
        return None
    drawn = [_smoothed(one.y) if smooth else np.asarray(one.y) for one in finite]
    x_axis = _axis([np.asarray(one.x) for one in finite], LEFT, RIGHT, margin=0.0)
    values = [*drawn, *(_trimmed(one.y) for one in finite), *(np.asarray(end) for one in finite for end in one.band or ())]
    reference = reference if reference and _near(reference[0], values) else None
    levels = [np.array([reference[0]])] if reference else []
    y_axis = _axis([*values, *levels], BOTTOM, TOP, margin=0.06)
    curves = tuple(_curve(one, smoothed, x_axis, y_axis, smooth=smooth) for one, smoothed in zip(finite, drawn, strict=True))
    level = Tick(y_axis(reference[0]), reference[1]) if reference else None
    described = (f"{one.label}: from {line[0]:.3g} to {line[-1]:.3g}" for one, line in zip(finite, drawn, strict=True))
    words = f"{title} by {x_label}. {'; '.join(described)}."
    return Chart(title, note, x_label, curves, x_axis.ticks(4 if smooth else 9), y_axis.ticks(4), level, words)


def nice_ticks(low: float, high: float, count: int) -> list[tuple[float, str]]:
    """About `count` round numbers from `low` to `high`, with as many decimals as tell them apart."""
    rough = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (scale, 2 * scale, 5 * scale, 10 * scale) if step >= rough * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    if decimals > 4 or high >= 1e5:
        return [(value, f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−") if value else "0") for value in values]
    return [(value, f"{value:.{decimals}f}".replace("-", "−") if round(value, decimals) else "0") for value in values]


def _finite(series: Series) -> Series:
    columns = (series.x, series.y, *(series.band or ()))
    kept = [row for row in zip(*columns, strict=True) if all(map(math.isfinite, row[1:]))]
    x, y, *band = ([row[place] for row in kept] for place in range(len(columns)))
    return Series(series.label, series.colour, x, y, series.dashed, (band[0], band[1]) if band else None)


def _smoothed(values: Sequence[float]) -> Array:
    half = len(values) // 20
    sums = np.concatenate([[0.0], np.cumsum(values)])
    centre = np.arange(len(values))
    first, last = np.maximum(centre - half, 0), np.minimum(centre + half + 1, len(values))
    smoothed: Array = (sums[last] - sums[first]) / (last - first)
    return smoothed


def _trimmed(values: Sequence[float]) -> Array:
    """The middle 96 %: a single spike must not flatten everything else."""
    trimmed: Array = np.quantile(values, [0.02, 0.98])
    return trimmed


def _near(level: float, values: Sequence[Array]) -> bool:
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    room = 2 * (high - low) + 1e-9
    return low - room <= level <= high + room


def _axis(values: Sequence[Array], start: float, end: float, *, margin: float) -> _Axis:
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    if high - low < 1e-12 * max(1.0, abs(low)):
        low, high = low - 0.5 * max(abs(low), 1e-6), high + 0.5 * max(abs(high), 1e-6)
    room = margin * (high - low)
    return _Axis(low - room, high + room, start, end)


def _curve(series: Series, smoothed: Array, x_axis: _Axis, y_axis: _Axis, *, smooth: bool) -> Curve:
    points = [(x_axis(x), y_axis(y)) for x, y in zip(series.x, smoothed, strict=True)]
    faint = _path([(x_axis(x), y_axis(y)) for x, y in zip(series.x, series.y, strict=True)]) if smooth and len(points) > 20 else ""
    low, high = series.band or ((), ())
    upper, lower = ([(x_axis(x), y_axis(y)) for x, y in zip(series.x, end, strict=True)] for end in (high, low)) if low else ([], [])
    band = f"{_path(upper)}L{_path(lower[::-1])[1:]}Z" if upper else ""
    return Curve(series.colour, _path(points), faint, tuple(points) if len(points) <= 20 else (), series.dashed, band)


def _path(points: Sequence[tuple[float, float]]) -> str:
    stride = math.ceil(len(points) / _POINTS)
    kept = [*points[::stride], points[-1]]
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in kept)
