"""How often scorers prefer what people preferred, as the page shows it: a row for each scorer, and by t where a scorer has rewards by t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from inpo.evaluation.accuracy import Accuracy, Agreement, ScorerAccuracy
from inpo.report.charts import Chart, Series, line_chart
from inpo.report.results import COLOURS, Interval


@dataclass(frozen=True)
class JudgeRow:
    """One scorer of the table."""

    name: str
    colour: str
    found: ScorerAccuracy
    bar: Interval


@dataclass(frozen=True)
class AccuracyView:
    """One accuracy.json. `place`: the folder below the run's that it lies in, if any. `legend`: of the charts, which may be none."""

    place: str
    accuracy: Accuracy
    rows: tuple[JudgeRow, ...]
    legend: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]


def accuracy_view(place: str, accuracy: Accuracy) -> AccuracyView:
    """Everything that the template prints."""
    rows = tuple(
        JudgeRow(name, f"c{number % COLOURS}", found, _bar(found.overall))
        for number, (name, found) in enumerate(accuracy.scorers.items())
    )
    timed = [row for row in rows if row.found.by_t]
    return AccuracyView(place, accuracy, rows, tuple((row.name, row.colour) for row in timed), tuple(_charts(timed)))


def _bar(agreement: Agreement) -> Interval:
    value, low, high = agreement.accuracy, agreement.low, agreement.high
    return Interval(value, low, high, 100 * value, 100 * low, 100 * high)


def _charts(timed: Sequence[JudgeRow]) -> list[Chart]:
    """Accuracy and mean gap by part of the path."""
    parts = max((len(row.found.by_t) for row in timed), default=0)
    axis = "tenth of the path, k" if parts == 10 else f"part of the path, k of {parts}"
    # Unnamed: a name would stand on the right end of the curves, which comes near the level there.
    panels = (
        ("Accuracy by t", "with 95 % intervals (Wilson); dotted: a coin", (0.5, ""), ("accuracy", "low", "high")),
        ("Mean gap by t", "preferred less other, with 95 % intervals; dotted: no gap", (0.0, ""), ("gap", "gap_low", "gap_high")),
    )
    drawn = (
        line_chart(title, [_series(row, keys) for row in timed], note=note, x_label=axis, reference=level, smooth=False)
        for title, note, level, keys in panels
    )
    return [chart for chart in drawn if chart is not None]


def _series(row: JudgeRow, keys: tuple[str, str, str]) -> Series:
    """A single pair has a gap without ends: the curve then stands without a band."""
    y, low, high = ([_number(getattr(part.agreement, key)) for part in row.found.by_t] for key in keys)
    x = [float(part.k) for part in row.found.by_t]
    return Series(row.name, row.colour, x, y, band=(low, high) if all(map(math.isfinite, low)) else None)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
