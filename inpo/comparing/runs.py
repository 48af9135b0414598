"""An arm's cells as tables, training seeds × prompts, and what they say against the base under the same noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from inpo.comparing.cells import Cell, Key, Point
from inpo.evaluation.compared import Estimate, Moment, Sampled
from inpo.evaluation.crossed import Crossed, crossed_difference, crossed_mean
from inpo.evaluation.scores import PART
from inpo.evaluation.winrate import Array


@dataclass(frozen=True)
class Runs:
    """An arm's cells that are there, and the base's for the same prompts and noise."""

    arm: str
    cells: tuple[Cell, ...]
    base: Cell
    scorer: str
    second: str | None
    main: tuple[int, float]

    @cached_property
    def steps(self) -> list[int]:
        """Training steps that every run has the main point of, ascending."""
        known = [{point.step for point in cell.points if point.key[1:] == self.main} for cell in self.cells]
        return sorted(set.intersection(*known))

    def points(self, key: Key) -> list[Point] | None:
        """One a run; None where a run has it not."""
        found = [point for cell in self.cells if (point := cell.at(key)) is not None]
        return found if len(found) == len(self.cells) else None

    def table(self, key: Key, scorer: str | None = None) -> Array:
        """Scores `[seeds, prompts]` at a point that all runs have."""
        return np.stack([point.by_prompt(scorer or self.scorer) for point in self.points(key) or ()])

    def forwards(self, step: int) -> float:
        """network image-forwards of training up to a step, the mean over the runs."""
        return float(np.mean([point.forwards for point in self.points((step, *self.main)) or ()]))

    def at_forwards(self, forwards: float) -> Array:
        """Scores `[seeds, prompts]` after so many network image-forwards: each run's own points, with straight lines between them."""
        rows = []
        start = self.base_row((0, *self.main))
        for cell in self.cells:
            points = [point for step in self.steps if (point := cell.at((step, *self.main))) is not None]
            x = np.array([0.0, *(point.forwards for point in points)])
            y = np.stack([start, *(point.by_prompt(self.scorer) for point in points)])
            right = min(max(1, int(np.searchsorted(x, forwards))), len(x) - 1)
            share = float(np.clip((forwards - x[right - 1]) / (x[right] - x[right - 1]), 0, 1))
            rows.append((1 - share) * y[right - 1] + share * y[right])
        return np.stack(rows)

    def base_row(self, key: Key, scorer: str | None = None) -> Array:
        """The base's scores `[prompts]` under the way of sampling of that point."""
        by_sampling = {point.key[1:]: point for point in self.base.points}
        return by_sampling[key[1:]].by_prompt(scorer or self.scorer)

    def gain(self, key: Key, scorer: str | None = None) -> Crossed:
        """Against the base: mean difference in score."""
        return crossed_difference(self.table(key, scorer), self.base_row(key, scorer)[None])

    def win_rate(self, key: Key, scorer: str | None = None) -> Estimate:
        """Against the base: how often the score is higher, ties counted half."""
        name = scorer or self.scorer
        base = self.base.at((0, *key[1:]))
        outcomes = [_outcomes(point.scores[name], base.scores[name]) for point in self.points(key) or () if base is not None]
        found = crossed_mean(np.stack(outcomes))
        return Estimate(found.value, max(0.0, found.low), min(1.0, found.high))

    def moment(self, step: int) -> Moment:
        """Everything at one step with the main way of sampling."""
        key = (step, *self.main)
        by_run = np.nanmean(self.table(key) - self.base_row(key), axis=1)
        second = self.second
        return Moment(
            step, self.forwards(step), estimate(self.gain(key)), self.win_rate(key), [float(value) for value in by_run],
            None if second is None else estimate(self.gain(key, second)), None if second is None else self.win_rate(key, second),
        )  # fmt: skip

    def samplings(self) -> Iterator[Sampled]:
        """At the last step, every way of sampling that base and runs have."""
        last = self.steps[-1]
        for key in sorted(point.key for point in self.cells[0].points if point.step == last):
            if self.points(key) is not None and self.base.at((0, *key[1:])) is not None:
                yield Sampled(*key, float(np.nanmean(self.table(key))), estimate(self.gain(key)), self.win_rate(key))

    def parts(self) -> dict[str, Estimate]:
        """Gains of the deciding scorer's parts at the end."""
        key = (self.steps[-1], *self.main)
        names = [name for name in self.cells[0].points[0].scores if name.startswith(self.scorer + PART)]
        kept = [name for name in names if np.isfinite(self.table(key, name)).all(axis=0).any()]
        return {name.partition(PART)[2]: estimate(self.gain(key, name)) for name in kept}


def _outcomes(ours: Sequence[Sequence[float | None]], theirs: Sequence[Sequence[float | None]]) -> Array:
    """1, ½ or 0 for each prompt, averaged over its samples; not a number where a score is missing."""
    a, b = (np.array(rows, dtype=np.float64) for rows in (ours, theirs))
    outcomes = np.where(a > b, 1.0, np.where(a < b, 0.0, 0.5))
    outcomes[~np.isfinite(a) | ~np.isfinite(b)] = np.nan
    means: Array = outcomes.mean(axis=1)
    return means


def estimate(found: Crossed) -> Estimate:
    """As results files have it."""
    return Estimate(found.value, found.low, found.high)
