"""Training curves from metrics.jsonl: by step, and by the number of inversion steps k."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inpo.report.charts import Chart, Level, Series, line_chart
from inpo.report.files import RunFolder, Training
from inpo.report.results import method_colours
from inpo.report.wording import display_name

Line = Mapping[str, object]
Points = tuple[Sequence[float], Sequence[float]]

LAST_SHARE = 0.25
"""The part of the run, at its end, over which values by bucket are averaged: a single step has few pairs in each."""

BEGINS_WITHIN = 0.01
"""How far from a reference line a run may begin that begins there."""

_AS_REFERENCE = "as the reference"
LN2, HALF, ZERO = (math.log(2), f"ln 2: {_AS_REFERENCE}"), (0.5, "½: a coin"), (0.0, f"0: {_AS_REFERENCE}")


@dataclass(frozen=True)
class Panel:
    """A chart to be drawn: keys of metrics.jsonl (also "a − b" and "a.b"), the first solid and the second dashed.

    `band`: keys of the ends of the first one's interval. `begins`: the reference line is where runs of most methods begin, and is left
    out of a run that begins elsewhere, as that of another loss, or of a method without a reference.
    """

    title: str
    keys: tuple[str, ...]
    note: str = ""
    reference: Level | None = None
    band: tuple[str, str] | None = None
    begins: bool = False


BY_STEP = (
    Panel("Loss", ("loss",), reference=LN2, begins=True),
    Panel(
        "Implicit accuracy",
        ("implicit_accuracy", "validation.implicit_accuracy"),
        "share of pairs that the implicit reward orders as labelled; dashed: held-out pairs",
        HALF,
    ),
    Panel("Implicit-reward margin", ("margin",), "mean u, equation (M8); MaPO’s own, without a reference", ZERO, begins=True),
    Panel(
        "Error against the reference",
        ("win_error − ref_win_error", "lose_error − ref_lose_error"),
        "winners solid, losers dashed; below 0 is denoised better than by the reference",
        ZERO,
    ),
    Panel("Winner’s and loser’s error", ("win_error", "lose_error"), "winners solid, losers dashed"),
    Panel("Spread of the noise", ("tau_rms_win", "tau_rms_lose"), "rms of τ, 1 for forward noise; winners solid, losers dashed"),
    Panel("Gradient norm", ("grad_norm",), "before clipping"),
    Panel("Learning rate", ("lr",)),
    Panel("Pairs per second", ("pairs_per_second",)),
)
"""The first six are shown, the rest behind a click."""

HELD_OUT = (
    Panel(
        "Implicit accuracy",
        ("validation.implicit_accuracy",),
        "with its 95 % interval (Wilson)",
        HALF,
        ("validation.implicit_accuracy_low", "validation.implicit_accuracy_high"),
    ),
    Panel("Implicit-reward margin", ("validation.margin",), reference=ZERO, begins=True),
    Panel("Loss", ("validation.loss",), reference=LN2, begins=True),
    Panel(
        "Drift from the reference",
        ("validation.win_drift", "validation.lose_drift"),
        "the policy’s error minus the reference’s; winners solid, losers dashed",
        ZERO,
    ),
)
"""The same pairs, times and noise at every look, from step 0 on: what moves is the policy."""

HELD_OUT_BY_BUCKET = (
    Panel("Implicit accuracy", ("implicit_accuracy",), reference=HALF),
    Panel("Drift from the reference", ("win_drift", "lose_drift"), "winners solid, losers dashed", ZERO),
)

BY_BUCKET = (
    Panel("Implicit accuracy", ("implicit_accuracy",), reference=HALF),
    Panel("Implicit-reward margin", ("margin",), reference=ZERO),
    Panel("Loss", ("loss",), reference=LN2),
    Panel("Error", ("win_error", "lose_error"), "winners solid, losers dashed"),
    Panel("Spread of the noise", ("tau_rms_win", "tau_rms_lose"), "rms of τ; winners solid, losers dashed"),
)


def step_charts(run: RunFolder) -> tuple[Chart, ...]:
    """What changed from step to step."""
    return _step_charts(run, BY_STEP)


def held_out_charts(run: RunFolder) -> tuple[Chart, ...]:
    """What the held-out pairs said: by step, and at the last look by k."""
    return (*_step_charts(run, HELD_OUT), *_bucket_charts(run, HELD_OUT_BY_BUCKET, _held_out_buckets))


def _step_charts(run: RunFolder, panels: Sequence[Panel]) -> tuple[Chart, ...]:
    drawn = ((panel, _series(run, panel, _steps)) for panel in panels)
    charts = (line_chart(panel.title, series, note=panel.note, reference=_level(panel, series)) for panel, series in drawn)
    return tuple(chart for chart in charts if chart is not None)


def _level(panel: Panel, series: Sequence[Series]) -> Level | None:
    """The panel's reference line, if it says something of these runs."""
    if panel.reference is None or not panel.begins:
        return panel.reference
    return panel.reference if any(len(one.y) and abs(one.y[0] - panel.reference[0]) < BEGINS_WITHIN for one in series) else None


def bucket_charts(run: RunFolder) -> tuple[Chart, ...]:
    """The same by k, the tenth of the path from data to noise; with ten inversion steps it is their number for the pair."""
    return _bucket_charts(run, BY_BUCKET, _buckets)


def _bucket_charts(run: RunFolder, panels: Sequence[Panel], points: Callable[[Training, str], Points]) -> tuple[Chart, ...]:
    axis = "tenth of the path, k"
    charts = (
        line_chart(panel.title, _series(run, panel, points), note=panel.note, x_label=axis, reference=panel.reference, smooth=False)
        for panel in panels
    )
    return tuple(chart for chart in charts if chart is not None)


def _series(run: RunFolder, panel: Panel, points: Callable[[Training, str], Points]) -> list[Series]:
    colours, series = method_colours(run), []
    for training in run.trainings:
        for place, key in enumerate(panel.keys):
            name = display_name(training.name)
            x, y = points(training, key)
            label = f"{name}, {key}" if len(panel.keys) > 1 else name
            ends = [points(training, end)[1] for end in panel.band or ()]
            series.append(Series(label, colours[training.name], x, y, place > 0, (ends[0], ends[1]) if ends else None))
    return series


def _steps(training: Training, key: str) -> Points:
    return [_number(line["step"]) for line in training.metrics], [_value(line, key) for line in training.metrics]


def _buckets(training: Training, key: str) -> Points:
    """Mean by bucket over the end of the run."""
    last = training.metrics[-math.ceil(LAST_SHARE * len(training.metrics)) :] if training.metrics else ()
    return _means(last, key)


def _held_out_buckets(training: Training, key: str) -> Points:
    """At the last look."""
    looks = [line["validation"] for line in training.metrics if isinstance(line.get("validation"), Mapping)]
    return _means([look for look in looks[-1:] if isinstance(look, Mapping)], key)


def _means(lines: Sequence[Line], key: str) -> Points:
    found: dict[int, list[float]] = {}
    for line in lines:
        buckets = line.get("by_bucket")
        for name, values in buckets.items() if isinstance(buckets, Mapping) else ():
            value = _value(values, key) if isinstance(values, Mapping) else math.nan
            if str(name).isdecimal() and math.isfinite(value):
                found.setdefault(int(name), []).append(value)
    ordered = sorted(found)
    return [float(bucket) for bucket in ordered], [float(np.mean(found[bucket])) for bucket in ordered]


def _value(line: Line, key: str) -> float:
    """The value of "a", of "a − b", or of "a.b" inside a mapping; not a number where there is none."""
    first, minus, second = key.partition(" − ")
    if minus:
        return _value(line, first) - _value(line, second)
    outer, dot, inner = key.partition(".")
    value = line.get(outer)
    if dot:
        return _value(value, inner) if isinstance(value, Mapping) else math.nan
    return _number(value)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
