"""What there is of a comparison: its plan, the cells that are there, and the knobs that they choose."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from inpo.comparing.cells import Cell
from inpo.comparing.plan import Choice as Knobs
from inpo.comparing.plan import Plan, Planned
from inpo.evaluation.winrate import Array


@dataclass(frozen=True)
class State:
    """A comparison and the cells that are in its folder, those of other settings among them."""

    plan: Plan
    cells: Sequence[Cell]

    def find(self, planned: Planned) -> Cell | None:
        """The cell, if it is there and whole."""
        return next((cell for cell in self.cells if cell.digest == planned.digest and planned.accepts(cell)), None)

    def choice(self, name: str) -> Knobs | None:
        """An arm's knobs: those of its best trial, or another arm's; {} where nothing is chosen, None while trials are missing."""
        trials = self.plan.trials(self.plan.comparison.chooser(name))
        if not trials:
            return {}
        scores = [score for score in self.trial_scores(trials) if score is not None]
        # Not a number is the worst there is: pictures that no scorer could judge.
        ranks = [-math.inf if math.isnan(score) else score for score in scores]
        return None if len(scores) < len(trials) else trials[ranks.index(max(ranks))].knobs

    def trial_scores(self, trials: Sequence[Planned]) -> list[float | None]:
        """Each trial's mean score over prompts and over the seeds of its knobs; None where a cell of them is missing."""
        found: dict[int | None, list[float | None]] = {}
        for trial in trials:
            cell = self.find(trial)
            point = cell.at(trial.keys[-1]) if cell else None
            score = _mean(point.by_prompt(trial.judge.labels[0])) if point else None
            found.setdefault(trial.trial, []).append(score)
        means = {key: None if None in scores else float(np.mean([s for s in scores if s is not None])) for key, scores in found.items()}
        return [means[trial.trial] for trial in trials]

    def planned(self) -> Iterator[Planned]:
        """Every cell whose knobs are known, in the order in which they should be made: seed by seed, so that a part of it is fair."""
        yield from self.plan.base()
        arms = list(self.plan.comparison.arms)
        for name in arms:
            yield from self.plan.trials(name)
        tables = [self.plan.table(name, choice) for name in arms if (choice := self.choice(name)) is not None]
        for i in range(max(map(len, tables), default=0)):
            yield from (table[i] for table in tables if i < len(table))

    def waiting(self) -> list[str]:
        """Arms whose knobs are not chosen yet."""
        return [name for name in self.plan.comparison.arms if self.choice(name) is None]


def _mean(scores: Array) -> float:
    """Of those that are numbers; not a number where none is."""
    found = scores[np.isfinite(scores)]
    return float(found.mean()) if len(found) else math.nan
