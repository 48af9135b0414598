"""An arm's cells as tables, training seeds × prompts, and what they say against the base under the same noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from inpo.comparing.cells import Cell, Key, Point, Sampling
from inpo.evaluation.compared import Estimate, Moment, Sampled
from inpo.evaluation.crossed import Crossed, crossed_mean
from inpo.evaluation.scores import PART
from inpo.evaluation.winrate import Array
from inpo.intervals import wilson

WORST = 0.05
"""The part of an arm's pictures whose mean gain says what harm it does."""


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

    @property
    def seeds(self) -> list[int]:
        """Of training."""
        return [cell.seed for cell in self.cells]

    @property
    def ways(self) -> set[Sampling]:
        """Of sampling, under which all its runs were judged at their ends."""
        last = self.steps[-1]
        return {point.key[1:] for point in self.cells[0].points if point.step == last and self.points(point.key) is not None}

    def of(self, seeds: Container[int]) -> Runs:
        """Those of these seeds alone."""
        return dataclasses.replace(self, cells=tuple(cell for cell in self.cells if cell.seed in seeds))

    def forwards(self, step: int) -> float:
        """Network image-forwards of training up to a step, the mean over the runs."""
        return float(np.mean([point.forwards for point in self.points((step, *self.main)) or ()]))

    def at_forwards(self, forwards: float) -> Array:
        """Scores `[seeds, prompts]` after so many network image-forwards: each run's own points, with straight lines between them."""
        rows = []
        for cell in self.cells:
            points = [point for step in self.steps if (point := cell.at((step, *self.main))) is not None]
            x, y = np.array([point.forwards for point in points]), np.stack([point.by_prompt(self.scorer) for point in points])
            right = min(int(np.searchsorted(x, forwards)), len(x) - 1)
            left = max(0, right - 1)
            share = float(np.clip((forwards - x[left]) / (x[right] - x[left]), 0, 1)) if right > left else 1.0
            rows.append((1 - share) * y[left] + share * y[right])
        return np.stack(rows)

    def measured_by(self, forwards: float) -> bool:
        """Whether a point of training had been measured by then. From the base to the first one the curve is anybody's guess."""
        return self.forwards(self.steps[0]) <= forwards

    def base_row(self, key: Key, scorer: str | None = None) -> Array:
        """The base's scores `[prompts]` under the way of sampling of that point."""
        by_sampling = {point.key[1:]: point for point in self.base.points}
        return by_sampling[key[1:]].by_prompt(scorer or self.scorer)

    def gain(self, key: Key, scorer: str | None = None) -> Crossed:
        """Against the base: mean difference in score."""
        return crossed_mean(self.table(key, scorer) - self.base_row(key, scorer))

    def win_rate(self, key: Key, scorer: str | None = None) -> Estimate:
        """Against the base: how often the score is higher, ties counted half."""
        name = scorer or self.scorer
        base = self.base.at((0, *key[1:]))
        return share([outcomes(point, base, name) for point in self.points(key) or () if base is not None])

    def moment(self, step: int) -> Moment:
        """Everything at one step with the main way of sampling."""
        key = (step, *self.main)
        gains = self.table(key) - self.base_row(key)
        by_run = np.nanmean(gains, axis=1)
        second = self.second
        return Moment(
            step, self.forwards(step), estimate(self.gain(key)), self.win_rate(key), [float(value) for value in by_run], worst(gains),
            None if second is None else estimate(self.gain(key, second)), None if second is None else self.win_rate(key, second),
        )  # fmt: skip

    def samplings(self) -> Iterator[Sampled]:
        """At the last step, every way of sampling that base and runs have."""
        for key in [(self.steps[-1], *way) for way in sorted(self.ways)]:
            if self.base.at((0, *key[1:])) is not None:
                yield Sampled(*key, float(np.nanmean(self.table(key))), estimate(self.gain(key)), self.win_rate(key))

    def parts(self) -> dict[str, Estimate]:
        """Gains of the deciding scorer's parts at the end."""
        key = (self.steps[-1], *self.main)
        names = [name for name in self.cells[0].points[0].scores if name.startswith(self.scorer + PART)]
        kept = [name for name in names if np.isfinite(self.table(key, name)).all(axis=0).any()]
        return {name.partition(PART)[2]: estimate(self.gain(key, name)) for name in kept}


def worst(gains: Array) -> float:
    """The mean of the smallest twentieth, of at least one number."""
    known = np.sort(gains[np.isfinite(gains)])
    return float(known[: max(1, round(WORST * len(known)))].mean())


def outcomes(ours: Point, theirs: Point, scorer: str) -> Array:
    """1, ½ or 0 for each prompt, averaged over its samples; not a number where a score is missing."""
    a, b = (np.array(point.scores[scorer], dtype=np.float64) for point in (ours, theirs))
    won = np.where(a > b, 1.0, np.where(a < b, 0.0, 0.5))
    won[~np.isfinite(a) | ~np.isfinite(b)] = np.nan
    means: Array = won.mean(axis=1)
    return means


def share(runs: Sequence[Array]) -> Estimate:
    """How often it was won: `outcomes` of each run. Where all of them were won, or none, no spread says how sure that is: Wilson's."""
    found = crossed_mean(np.stack(runs))
    low, high = wilson(found.value, found.prompts) if found.value in (0.0, 1.0) else (max(0.0, found.low), min(1.0, found.high))
    return Estimate(found.value, low, high, found.prompts, len(runs) == 1)


def estimate(found: Crossed) -> Estimate:
    """As results files have it."""
    return Estimate(found.value, found.low, found.high, found.prompts, min(found.seeds) == 1)
