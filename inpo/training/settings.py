"""What `train.*` and `optimizer.*` may say. Out-of-range values are refused here, by the name that the user typed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from inpo.checking import number, one_of, whole
from inpo.errors import InputError

OptimizerName = Literal["adamw", "adamw8bit", "adafactor"]
OPTIMIZERS: tuple[OptimizerName, ...] = ("adamw", "adamw8bit", "adafactor")
LR_SCHEDULES = ("constant", "cosine")
METRICS = {
    "validation.loss": "lower", "validation.implicit_accuracy": "higher", "validation.margin": "higher", "validation.win_error": "lower",
    "validation.win_drift": "lower",
}  # fmt: skip
"""What `train.keep_best` and `train.early_stop.metric` may name, and which way is better."""
RESULTS = ("last", "best")


@dataclass(frozen=True)
class EarlyStop:
    """Ends a run after `patience` looks at the held-out pairs in a row at which `metric` was not better than its best by more than
    `min_delta`. Raises `InputError` naming `train.early_stop.<key>`."""

    metric: str
    patience: int = 3
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        one_of("train.early_stop.metric", self.metric, METRICS)
        whole("train.early_stop.patience", self.patience, low=1)
        number("train.early_stop.min_delta", self.min_delta, low=0)


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, and what is kept. Raises `InputError` naming `train.<key>`.

    `pairs_per_step` is what one optimiser step sees whatever the hardware; `micro_batch_pairs` (with gradient) and
    `inversion_batch_pairs` (without) bound how many of them share one forward pass on a device and change no result.
    """

    steps: int = 400
    pairs_per_step: int = 32
    micro_batch_pairs: int = 4
    inversion_batch_pairs: int = 16
    seed: int = 0
    save_every_steps: int | None = 100
    """Optimiser steps between checkpoints; None keeps only the last state."""
    keep: int = 2
    """How many complete checkpoints stay; the oldest go first."""
    sample_every_steps: int | None = None
    """Optimiser steps between pictures at fixed seeds, with a first set before the first step and one after the last; None makes none."""
    validate_every_steps: int | None = None
    """Optimiser steps between looks at the held-out pairs; None looks whenever a checkpoint or pictures are due. Always after the last."""
    keep_best: str | None = None
    """A metric of `METRICS`: every look that is better than all before is saved, and that checkpoint stays beside the newest `keep`."""
    early_stop: EarlyStop | None = None
    result: Literal["last", "best"] = "last"
    """Whose weights (or their average, where one is kept) are the run's result: the last step's, or those of `keep_best`."""
    average_decay: float | None = None
    """Decay of the exponential moving average of the weights; None trains without one."""

    def __post_init__(self) -> None:
        for name in ("steps", "pairs_per_step", "micro_batch_pairs", "inversion_batch_pairs", "keep"):
            whole(f"train.{name}", getattr(self, name), low=1)
        for name in ("save_every_steps", "sample_every_steps", "validate_every_steps"):
            whole(f"train.{name}", getattr(self, name), low=1, optional=True)
        whole("train.seed", self.seed, low=0)
        if self.keep_best is not None:
            one_of("train.keep_best", self.keep_best, METRICS)
        one_of("train.result", self.result, RESULTS)
        if self.result == "best" and self.keep_best is None:
            raise InputError(f"train.result='best' needs train.keep_best, the metric that says which is best: one of {', '.join(METRICS)}")
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise InputError(f"train.average_decay={self.average_decay!r} must be between 0 and 1, or null for no averaging")


@dataclass(frozen=True)
class OptimizerConfig:
    """`lr` is the effective learning rate: nothing multiplies it by batch or devices. Raises `InputError` naming `optimizer.<key>`.

    `name`: "adamw8bit" keeps AdamW's moments in 8 bits each and needs bitsandbytes; "adafactor" keeps the second one's sums alone.
    `warmup_steps`: linear, and the first step already moves. `schedule`: after the warm-up. `clip`: global gradient norm; None is off.
    """

    name: OptimizerName = "adamw"
    lr: float = 1.024e-5
    warmup_steps: int = 200
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 1e-2
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        one_of("optimizer.name", self.name, OPTIMIZERS)
        if self.name == "adamw8bit" and find_spec("bitsandbytes") is None:
            raise InputError("optimizer.name='adamw8bit' needs bitsandbytes: pip install 'inpo[bnb]', or choose adamw or adafactor")
        one_of("optimizer.schedule", self.schedule, LR_SCHEDULES)
        number("optimizer.lr", self.lr, low=0, above=True)
        number("optimizer.weight_decay", self.weight_decay, low=0)
        whole("optimizer.warmup_steps", self.warmup_steps, low=0)
        if self.clip is not None:
            number("optimizer.clip", self.clip, low=0, above=True)


@dataclass(frozen=True)
class Settings:
    """Everything about training that is not the model, the data or the method."""

    train: TrainConfig
    optimizer: OptimizerConfig
