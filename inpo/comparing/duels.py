"""Arms against one another: where their runs end, sampled so and otherwise, at equal steps, after equally many network image-forwards."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Sequence
from typing import Literal

import numpy as np

from inpo.comparing.cells import Key, over_samples
from inpo.comparing.runs import Runs, comparable, estimate, outcomes, share
from inpo.evaluation.compared import Duel, Estimate, by_guidance
from inpo.evaluation.crossed import crossed_difference, crossed_mean
from inpo.evaluation.winrate import Array


def duels(rivals: Sequence[Runs], elsewhere: Container[str]) -> Iterator[Duel]:
    """Every arm against every other; the first one at other steps and ways of sampling too. `elsewhere`: arms from another base."""
    for a, b in itertools.combinations(rivals, 2):
        yield from _measured("last", a, b, (a.steps[-1], *a.main), (b.steps[-1], *b.main))
        if a.arm not in elsewhere and b.arm not in elsewhere:
            yield from _equal_forwards(a, b)
    for a, b in [(rivals[0], other) for other in rivals[1:]]:
        for step in sorted(set(a.steps) & set(b.steps)):
            yield from _measured("steps", a, b, (step, *a.main), (step, *b.main))
        for way in sorted((a.ways & b.ways) - {a.main}, key=by_guidance):
            yield from _measured("samplings", a, b, (a.steps[-1], *way), (b.steps[-1], *way))


def _measured(kind: Literal["last", "samplings", "steps"], a: Runs, b: Runs, of_a: Key, of_b: Key) -> Iterator[Duel]:
    """Nothing where no prompt was scored in every run of both."""
    a, b = _paired(a, b)
    left, right = _shared(a, b, a.scores(of_a), b.scores(of_b))
    if comparable(left, right):
        seeds, median = (len(left), len(right)), _median(left, right)
        yield Duel(kind, a.arm, b.arm, (of_a[0], of_b[0]), of_a[1:], _less(a, b, left, right), seeds, _won(a, b, of_a, of_b), median)


def _paired(a: Runs, b: Runs) -> tuple[Runs, Runs]:
    """The runs of the seeds that both have, where those are at least two, or all that one of them has; else the two as they are.

    Runs of one seed see the same pairs and draw the same times: what luck they share drops out of their difference.
    """
    common = set(a.seeds) & set(b.seeds)
    return (a.of(common), b.of(common)) if len(common) >= min(2, len(a.seeds), len(b.seeds)) else (a, b)


def _shared(a: Runs, b: Runs, left: Array, right: Array) -> tuple[Array, Array]:
    """Without the scores `[seeds, prompts, samples]` of pictures that the other side lacks: run by run, or in any of its runs."""
    found = np.isfinite(left), np.isfinite(right)
    known = found[0] & found[1] if a.seeds == b.seeds else np.concatenate(found).all(axis=0)
    return np.where(known, left, np.nan), np.where(known, right, np.nan)


def _equal_forwards(a: Runs, b: Runs) -> Iterator[Duel]:
    """After as many as the cheaper one took in all; nothing where that is before the first point of the other.

    Not where an arm starts elsewhere: what brought it there was paid in forwards too, which nobody has counted.
    """
    spent = min(runs.forwards(runs.steps[-1]) for runs in (a, b))
    if all(runs.measured_by(spent) for runs in (a, b)):
        a, b = _paired(a, b)
        left, right = _shared(a, b, a.at_forwards(spent), b.at_forwards(spent))
        if comparable(left, right):
            yield Duel("forwards", a.arm, b.arm, (spent, spent), a.main, _less(a, b, left, right), (len(a.cells), len(b.cells)))


def _median(left: Array, right: Array) -> float:
    """Over prompts, of the mean differences."""
    return float(np.nanmedian(over_samples(left).mean(axis=0) - over_samples(right).mean(axis=0)))


def _less(a: Runs, b: Runs, left: Array, right: Array) -> Estimate:
    """Mean of `[seeds, prompts, samples]` less another: run by run where the seeds are the same, else the runs count as independent."""
    left, right = over_samples(left), over_samples(right)
    return estimate(crossed_mean(left - right) if a.seeds == b.seeds else crossed_difference(left, right))


def _won(a: Runs, b: Runs, of_a: Key, of_b: Key) -> Estimate | None:
    """How often the first one's picture has the higher score, seed by seed; None where the runs are not of the same seeds."""
    if a.seeds != b.seeds:
        return None
    pairs = zip(a.points(of_a) or (), b.points(of_b) or (), strict=True)
    return share([outcomes(ours, theirs, a.scorer) for ours, theirs in pairs])
