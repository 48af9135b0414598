"""A result that is already on disk, a finished run or a folder with a model, and what is known of how it was made and judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inpo.compose import resolve_model
from inpo.config import Experiment, read_tree
from inpo.models.config import NETWORKS, ModelConfig
from inpo.models.folders import INDEX, unfinished

if TYPE_CHECKING:
    from inpo.evaluation.summary import MethodSummary, Summary

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Judgement:
    """What an evaluation inside the run's folder measured: the model `name` against `baseline`."""

    name: str
    baseline: str
    numbers: MethodSummary


@dataclass(frozen=True)
class Result:
    """`experiment` is None for a folder that is no run. `model`: how it is loaded."""

    path: Path
    model: ModelConfig
    experiment: Experiment | None = None

    @property
    def name(self) -> str:
        """What a reader may call it: no folder above it is named."""
        return self.path.resolve().name

    @property
    def base(self) -> ModelConfig | None:
        """What the run was trained from."""
        return resolve_model(self.experiment.model) if self.experiment else None

    def pairs(self) -> int | None:
        """How many pairs the run's data had, where that is known."""
        from inpo.evaluation.summary import SUMMARY

        found = [entry.pairs for summary in self._summaries(self.path / SUMMARY) for entry in summary.methods.values()]
        return next((pairs for pairs in found if pairs is not None), None)

    def judgements(self) -> tuple[Judgement, ...]:
        """The evaluations in the run's folder and in the folders right below it."""
        from inpo.evaluation.summary import SUMMARY

        places = (self.path / SUMMARY, *sorted(self.path.glob(f"*/{SUMMARY}"))) if self.experiment else ()
        return tuple(
            Judgement(name, summary.baseline, numbers)
            for summary in self._summaries(*places)
            for name, numbers in summary.methods.items()
            if numbers.win_rate is not None
        )

    @staticmethod
    def _summaries(*places: Path) -> Iterator[Summary]:
        from inpo.evaluation.summary import read_summary

        yield from (read_summary(place) for place in places if place.is_file())


def find_result(name: str) -> Result:
    """A run's folder, a pipeline folder, a hub id, or `world`. Raises `InputError` for a run that did not finish."""
    path = Path(name).expanduser()
    if not (path / CONFIG).is_file():
        return Result(path, resolve_model(ModelConfig(name)))
    experiment = Experiment.from_tree(read_tree(str(path / CONFIG)))
    alone = next((part for part in NETWORKS if (path / "model" / part / "config.json").is_file()), None)
    if alone and not (path / "model" / INDEX).is_file():
        replaced: dict[str, Any] = {alone: str(path / "model" / alone), "dtype": "fp32", "gradient_checkpointing": False}
        return Result(path, dataclasses.replace(resolve_model(experiment.model), **replaced), experiment)
    if not (path / "model").is_dir():
        raise unfinished(name, path)
    return Result(path, ModelConfig(name), experiment)
