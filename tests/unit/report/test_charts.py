"""Charts as geometry: what is drawn where, and how much of it."""

from __future__ import annotations

import math

import pytest

from inpo.report.charts import BOTTOM, LEFT, RIGHT, TOP, Series, line_chart, nice_ticks
from inpo.report.curves import BY_STEP, _level


def chart(y: list[float], x: list[float] | None = None, **options: object):
    drawn = line_chart("Loss", [Series("A", "c0", x or list(range(len(y))), y)], **options)  # type: ignore[arg-type]
    assert drawn is not None
    return drawn


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(" ") for pair in path.removeprefix("M").split("L"))]


def test_a_straight_line_goes_from_corner_to_corner():
    """0 → 1 without smoothing: left to right, bottom to top (with a margin), and its middle in the middle."""
    drawn = points(chart([0.0, 0.5, 1.0], smooth=False).curves[0].path)
    assert [x for x, _ in drawn][:3] == [LEFT, (LEFT + RIGHT) / 2, RIGHT]
    heights = [y for _, y in drawn]
    assert BOTTOM > heights[0] > heights[1] > heights[2] > TOP
    assert heights[1] == pytest.approx((TOP + BOTTOM) / 2)


def test_smoothing_keeps_constants_and_shows_raw_values_behind():
    """A constant stays; a jagged line keeps its faint self."""
    assert len({y for _, y in points(chart([2.0] * 50).curves[0].path)}) == 1
    jagged = chart([float(i % 2) for i in range(200)]).curves[0]
    smooth, raw = ({y for _, y in points(path)} for path in (jagged.path, jagged.faint))
    assert max(smooth) - min(smooth) < 0.2 * (max(raw) - min(raw))


def test_a_spike_is_clipped_and_flattens_nothing():
    """One value of 10⁶ among hundreds around 1 leaves the rest legible, inside the plotting area."""
    values = [1 + 0.01 * (i % 7) for i in range(500)]
    values[250] = 1e6
    drawn = chart(values, smooth=True)
    assert all(TOP <= y <= BOTTOM for _, y in points(drawn.curves[0].faint))


@pytest.mark.parametrize("values", [[0.7], [0.0, 0.0], [1e-9, 2e-9], [-5.0, -5.0, -5.0], [1e12, 1e12]])
def test_degenerate_values_draw(values: list[float]):
    """A single step, constants, tiny and huge numbers."""
    drawn = chart(values)
    assert all(math.isfinite(coordinate) for point in points(drawn.curves[0].path) for coordinate in point)
    assert drawn.y_ticks


def test_what_is_not_finite_is_left_out():
    """Gaps do not move the axes; nothing finite, no chart."""
    assert len(points(chart([1.0, math.nan, math.inf, 2.0], smooth=False).curves[0].path)) == 3
    assert line_chart("Loss", [Series("A", "c0", [1, 2], [math.nan, math.nan]), Series("B", "c1", [], [])]) is None


def test_paths_are_bounded():
    """100,000 steps give a path of a few hundred points that ends where the run ends."""
    path = points(chart([math.sin(i / 5000) for i in range(100_000)]).curves[0].path)
    assert len(path) < 300
    assert path[-1][0] == RIGHT


def test_reference_is_drawn_only_where_it_can_be_seen():
    """ln 2 near the losses is drawn; far off it would flatten them."""
    assert chart([0.7, 0.65], reference=(math.log(2), "ln 2")).reference is not None
    assert chart([0.010, 0.011], reference=(math.log(2), "ln 2")).reference is None


def test_description_says_it_in_words():
    """For readers who do not see the chart."""
    assert chart([0.7, 0.6], smooth=False).description == "Loss by step. A: from 0.7 to 0.6."


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 400, ["0", "100", "200", "300", "400"]),
        (0.6, 0.71, ["0.60", "0.65", "0.70"]),
        (-0.011, 0.012, ["−0.01", "0", "0.01"]),
        (0, 2.1e-5, ["0", "1.0e−5", "2.0e−5"]),
        (0, 120_000, ["0", "5.0e4", "1.0e5"]),
    ],
)
def test_ticks_are_round_and_short(low: float, high: float, texts: list[str]):
    """Steps of 1, 2 or 5; no more decimals than tell them apart; exponents where they save room."""
    assert [text for _, text in nice_ticks(low, high, 4)] == texts


def test_few_points_have_dots():
    """Buckets are points, a run is a line."""
    assert len(chart([1.0, 2.0, 3.0], smooth=False).curves[0].dots) == 3
    assert chart([1.0] * 50).curves[0].dots == ()


def test_a_band_lies_around_its_curve_and_inside_the_axes() -> None:
    """Upper edge, then lower edge back; a point without both ends is a gap; ends beyond the curve widen the axis."""
    low, high = [0.4, math.nan, 0.5], [0.6, 0.7, 0.9]
    drawn = line_chart("Accuracy", [Series("A", "c0", [0, 1, 2], [0.5, 0.6, 0.7], band=(low, high))], smooth=False)
    assert drawn is not None
    [curve] = drawn.curves
    assert curve.band.endswith("Z")
    around = points(curve.band.removesuffix("Z"))
    assert len(points(curve.path)) == 3
    assert min(y for _, y in around) >= TOP
    assert max(y for _, y in around) <= BOTTOM
    assert around[0][1] < points(curve.path)[0][1] < around[-1][1]
    assert chart([1.0, 2.0]).curves[0].band == ""


def test_where_runs_begin_is_drawn_for_runs_that_begin_there() -> None:
    """ln 2 is a mark on DPO's loss, and says nothing of MaPO's, KTO's or a run of another loss."""
    loss = next(panel for panel in BY_STEP if panel.title == "Loss")
    begun = {start: _level(loss, [Series("run", "c1", (1, 2), (start, 0.6))]) for start in (math.log(2), 0.5, 1.61)}
    assert [level is not None for level in begun.values()] == [True, False, False]
    accuracy = next(panel for panel in BY_STEP if panel.title == "Implicit accuracy")
    assert _level(accuracy, [Series("run", "c1", (1, 2), (0.9, 0.95))]) == accuracy.reference
