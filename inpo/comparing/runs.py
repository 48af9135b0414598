"""An arm's cells as tables, training seeds × prompts × samples, and what they say against the base under the same noise.

Differences are taken picture by picture, and only then averaged over a prompt's samples: a picture that one side lacks leaves the other's
out too, or the two would be means over other noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from inpo.comparing.cells import Cell, Key, Point, Sampling, over_samples
from inpo.evaluation.compared import Estimate, Moment, Sampled
from inpo.evaluation.crossed import Crossed, crossed_mean
from inpo.evaluation.scores import PART
from inpo.evaluation.winrate import Array
from inpo.evaluation.worst import worst
from inpo.intervals import of_share


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

    def scores(self, key: Key, scorer: str | None = None) -> Array:
        """`[seeds, prompts, samples]` at a point that all runs have."""
        return np.stack([point.grid(scorer or self.scorer) for point in self.points(key) or ()])

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
        """Scores `[seeds, prompts, samples]` after so many network image-forwards: each run's points, with straight lines between them."""
        rows = []
        for cell in self.cells:
            points = [point for step in self.steps if (point := cell.at((step, *self.main))) is not None]
            x, y = np.array([point.forwards for point in points]), np.stack([point.grid(self.scorer) for point in points])
            right = min(int(np.searchsorted(x, forwards)), len(x) - 1)
            left = max(0, right - 1)
            share = float(np.clip((forwards - x[left]) / (x[right] - x[left]), 0, 1)) if right > left else 1.0
            # At a point itself the one before it does not count, not even where that has no score.
            rows.append(y[right] if share == 1 else (1 - share) * y[left] + share * y[right])
        return np.stack(rows)

    def measured_by(self, forwards: float) -> bool:
        """Whether a point of training had been measured by then. From the base to the first one the curve is anybody's guess."""
        return self.forwards(self.steps[0]) <= forwards

    def gains(self, key: Key, scorer: str | None = None) -> Array:
        """Against the base that is sampled in the same way: `[seeds, prompts, samples]`."""
        by_sampling = {point.key[1:]: point for point in self.base.points}
        return self.scores(key, scorer) - by_sampling[key[1:]].grid(scorer or self.scorer)

    def gain(self, key: Key, scorer: str | None = None) -> Crossed:
        """Against the base: mean difference in score. Raises `InputError` where no prompt was `judged`."""
        return crossed_mean(over_samples(self.gains(key, scorer)))

    def judged(self, key: Key, scorer: str | None = None) -> bool:
        """Whether some prompt has a gain in every run. Pictures may be such that no scorer knows what to say of them."""
        return comparable(self.gains(key, scorer))

    def win_rate(self, key: Key, scorer: str | None = None) -> Estimate:
        """Against the base: how often the score is higher, ties counted half."""
        name = scorer or self.scorer
        base = self.base.at((0, *key[1:]))
        return share([outcomes(point, base, name) for point in self.points(key) or () if base is not None])

    def moment(self, step: int) -> Moment:
        """Everything at one step, at which it was `judged`, with the main way of sampling."""
        key = (step, *self.main)
        gains, gain = self.gains(key), self.gain(key)
        by_run = np.nanmean(over_samples(gains), axis=1)
        second = self.second if self.second is not None and self.judged(key, self.second) else None
        return Moment(
            step, self.forwards(step), estimate(gain), self.win_rate(key), [float(value) for value in by_run], worst(gains),
            None if second is None else estimate(self.gain(key, second)), None if second is None else self.win_rate(key, second),
            gains.shape[1] - gain.prompts,
        )  # fmt: skip

    def samplings(self) -> Iterator[Sampled]:
        """At the last step, every way of sampling that base and runs have."""
        for key in [(self.steps[-1], *way) for way in sorted(self.ways)]:
            if self.base.at((0, *key[1:])) is not None and self.judged(key):
                yield Sampled(*key, float(np.nanmean(self.scores(key))), estimate(self.gain(key)), self.win_rate(key))

    def parts(self) -> dict[str, Estimate]:
        """Gains of the deciding scorer's parts at the end."""
        key = (self.steps[-1], *self.main)
        names = [name for name in self.cells[0].points[0].scores if name.startswith(self.scorer + PART)]
        kept = [name for name in names if self.judged(key, name)]
        return {name.partition(PART)[2]: estimate(self.gain(key, name)) for name in kept}


def comparable(*sides: Array) -> bool:
    """Whether some prompt has, in every run of `[seeds, prompts, samples]`, a number."""
    return bool(np.all([np.isfinite(side).any(axis=2).all(axis=0) for side in sides], axis=0).any())


def outcomes(ours: Point, theirs: Point, scorer: str) -> Array:
    """1, ½ or 0 for each picture, averaged over a prompt's samples that both have; not a number where there is none."""
    a, b = ours.grid(scorer), theirs.grid(scorer)
    won = np.where(a > b, 1.0, np.where(a < b, 0.0, 0.5))
    won[~np.isfinite(a) | ~np.isfinite(b)] = np.nan
    return over_samples(won)


def share(runs: Sequence[Array]) -> Estimate:
    """How often it was won: `outcomes` of each run."""
    found = crossed_mean(np.stack(runs))
    low, high = of_share(found.value, found.prompts, found.low, found.high)
    return Estimate(found.value, low, high, found.prompts, len(runs) == 1)


def estimate(found: Crossed) -> Estimate:
    """As results files have it."""
    return Estimate(found.value, found.low, found.high, found.prompts, min(found.seeds) == 1)
