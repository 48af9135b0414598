"""What the held-out pairs say about a run as it goes: which step was the best so far, and whether it still gets better."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from inpo.errors import InputError
from inpo.objectives import Objective
from inpo.training.settings import METRICS, TrainConfig

NEEDS_MARGIN = ("validation.implicit_accuracy", "validation.margin")
NEEDS_REFERENCE = ("validation.win_drift",)
NEEDS_WINNERS = ("validation.win_error", "validation.win_drift")
"""Of single pictures the `win_*` numbers are over liked and disliked ones alike, so neither way is better."""


def watched(config: TrainConfig) -> dict[str, str]:
    """The held-out metrics that a run depends on, by the key that asks for them."""
    stop = config.early_stop.metric if config.early_stop else None
    asked = {"train.keep_best": config.keep_best, "train.early_stop.metric": stop}
    return {key: metric for key, metric in asked.items() if metric is not None}


def check_watched(config: TrainConfig, objective: Objective, *, held_out: bool, singles: bool = False) -> None:
    """Raises `InputError` for a metric that this objective does not have, here of `singles`, or that no held-out pair can give."""
    missing = {
        *(NEEDS_MARGIN if singles or not objective.needs.lose else ()),
        *(NEEDS_REFERENCE if not objective.needs.reference else ()),
        *(NEEDS_WINNERS if singles else ()),
    }
    choices = ", ".join(metric for metric in METRICS if metric not in missing)
    for key, metric in watched(config).items():
        if metric in missing:
            raise InputError(f"{key}={metric!r} is nothing that this method measures; it has {choices}")
        if not held_out:
            raise InputError(
                f"{key}={metric!r} needs held-out pairs, and data.validation_fraction holds none out: raise it (it then has {choices}), "
                f"or set {key.removesuffix('.metric')}=null"
            )


@dataclass
class Tracked:
    """One metric over a run: its best value, the step of it, and how many looks in a row were not better (by `min_delta`)."""

    metric: str
    min_delta: float = 0.0
    value: float | None = None
    step: int | None = None
    stale: int = 0

    def update(self, step: int, validation: Mapping[str, object]) -> bool:
        """Takes a look's numbers in; whether they are the best so far. What is no number is never the best."""
        found = validation.get(self.metric.removeprefix("validation."))
        value = float(found) if isinstance(found, int | float) else math.nan
        sign = 1 if METRICS[self.metric] == "higher" else -1
        if math.isnan(value) or (self.value is not None and sign * (value - self.value) <= self.min_delta):
            self.stale += 1
            return False
        self.value, self.step, self.stale = value, step, 0
        return True

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"metric": self.metric, "value": self.value, "step": self.step, "stale": self.stale}

    def restore(self, state: object) -> None:
        """Continues a record of the same metric; one of another metric says nothing."""
        if isinstance(state, Mapping) and state.get("metric") == self.metric:
            self.value, self.step, self.stale = state["value"], state["step"], state["stale"]


class Watch:
    """The best step so far (`train.keep_best`) and the end of patience (`train.early_stop`); either may be absent.

    The untrained model's own numbers, at step 0, do not compete: a run's result is a step of it.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._best = Tracked(config.keep_best) if config.keep_best else None
        self._stop = Tracked(config.early_stop.metric, config.early_stop.min_delta) if config.early_stop else None
        self._patience = config.early_stop.patience if config.early_stop else 0
        self.owes_look = False
        """Whether a look at the held-out pairs was begun and not finished. The run that goes on from there repeats it."""

    def update(self, step: int, validation: Mapping[str, object]) -> bool:
        """Takes the numbers of a step in; whether it is the best so far."""
        if self._stop:
            self._stop.update(step, validation)
        return self._best is not None and self._best.update(step, validation)

    @property
    def best_step(self) -> int | None:
        """Of `train.keep_best`; None before the first look, or where nobody asked."""
        return self._best.step if self._best else None

    @property
    def reason_to_stop(self) -> str | None:
        """Why the run ends here, in words; None while patience lasts."""
        if self._stop is None or self._stop.stale < self._patience:
            return None
        best = "" if self._stop.value is None else f"; the best was {self._stop.value:.6g} at step {self._stop.step}"
        return f"{self._stop.metric} did not get better in {self._stop.stale} looks at the held-out pairs{best}"

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        tracked = {name: each.state() for name, each in (("best", self._best), ("stop", self._stop)) if each}
        return tracked | ({"owes_look": True} if self.owes_look else {})

    def restore(self, state: object, saved: Collection[int]) -> None:
        """Continues from a checkpoint's record. A best step that is not among the `saved` ones is warned about and forgotten."""
        record = state if isinstance(state, Mapping) else {}
        self.owes_look = bool(record.get("owes_look"))
        if self._stop:
            self._stop.restore(record.get("stop"))
        if self._best:
            self._best.restore(record.get("best"))
            if self._best.step is not None and self._best.step not in saved:
                warnings.warn(f"step {self._best.step}, the best so far, is not among the checkpoints any more: from here on", stacklevel=2)
                self._best = Tracked(self._best.metric)
