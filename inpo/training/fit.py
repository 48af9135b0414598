"""A run from its first or last saved step to its end, an interruption or a fault; and everything it leaves in its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inpo.methods import Method
from inpo.training import checkpoint
from inpo.training.distributed import on_main
from inpo.training.metrics import MetricsFile, Sink, cut_metrics
from inpo.training.run import RunFolder
from inpo.training.settings import Settings
from inpo.training.stop import StepDropped, Stop
from inpo.training.subject import Subject
from inpo.training.trainer import Outcome, Trainer
from inpo.types import PairLoader


@dataclass(frozen=True)
class Callbacks:
    """What else happens while training, on the main process. `sample(step)`: pictures at fixed seeds, every `sample_every_steps`,
    with the weights that would be the result if the run ended there. `sinks`: get every line of metrics.jsonl."""

    sample: Callable[[int], None] | None = None
    sinks: Sequence[Sink] = ()


@dataclass(frozen=True)
class FitResult:
    """`step`: how many optimiser steps are complete and saved. `signal`: what interrupted the run, None if it finished."""

    step: int
    signal: int | None
    seconds: float


def fit(subject: Subject, loader: PairLoader, *, method: Method, settings: Settings, run: RunFolder, callbacks: Callbacks) -> FitResult:
    """Trains to `settings.train.steps`, from `run.resume_from` if it is set. At the end the policy holds the result's weights.

    SIGINT and SIGTERM save the last complete step and return. Raises `InputError` before the first step for what a user can
    mend (no space, a checkpoint of other data) and `RunFault` for non-finite values, a full disk, or a policy that is not its
    reference when it starts; the last checkpoint is intact then.
    """
    began = time.monotonic()
    run.check_same_data()
    stop = Stop()
    with stop.listening():
        trainer = Trainer(subject, loader, method=method, settings=settings, stop=stop)
        loop = _Loop(trainer, run, callbacks)
        try:
            step, signal = loop.run()
        finally:
            loop.close()
    return FitResult(step, signal or None, time.monotonic() - began)


class _Loop:
    def __init__(self, trainer: Trainer, run: RunFolder, callbacks: Callbacks) -> None:
        self.trainer, self.folder, self.callbacks = trainer, run, callbacks
        self.config = trainer.settings.train
        self.is_main = trainer.accelerator.is_main_process
        self.saved: int | None = None
        self.metrics: MetricsFile | None = None

    def run(self) -> tuple[int, int]:
        step, signal = self._restore(), 0
        while step < self.config.steps and not signal:
            try:
                outcome = self.trainer.step_once(step)
            except StepDropped:
                signal = self.trainer.stop.signal
                break
            step, signal = step + 1, outcome.signal
            self._after(step, outcome)
            if _due(step, self.config.save_every_steps):
                self._save(step)
        if self.saved != step:
            self._save(step)
        if step == self.config.steps and self.trainer.average:
            self.trainer.average.copy_to_weights()
        # One that came after the last step's collective: several processes could not agree on it any more.
        late = self.trainer.stop.signal if self.trainer.accelerator.num_processes == 1 else 0
        return step, signal or late

    def _restore(self) -> int:
        step = 0
        if self.folder.resume_from:
            folder, manifest = self.folder.resume_from
            self.trainer.snapshot.read(folder)
            step = manifest.step
            # A checkpoint of another folder is a beginning here, and is copied by the next save.
            self.saved = step if folder.resolve().parent == self.folder.checkpoints.resolve() else None
        on_main(lambda: self._go_back_to(step))
        self.metrics = MetricsFile(self.folder.metrics) if self.is_main else None
        return step

    def _go_back_to(self, step: int) -> None:
        checkpoint.discard_after(self.folder.checkpoints, step)
        cut_metrics(self.folder.metrics, step)
        every, keep = self.config.save_every_steps or self.config.steps, self.config.keep
        saves = -(-(self.config.steps - step) // every)
        # One more than is kept: the oldest goes only after the new one is complete.
        count = min(saves, max(1, keep + 1 - len(checkpoint.steps_in(self.folder.checkpoints))))
        checkpoint.check_space(self.folder.checkpoints, size=self.trainer.snapshot.expected_bytes(), count=count)

    def _after(self, step: int, outcome: Outcome) -> None:
        samples = _due(step, self.config.sample_every_steps)
        line = outcome.line
        if samples or _due(step, self.config.save_every_steps) or step == self.config.steps:
            with self.trainer.as_result():
                held_out = self.trainer.validation()
            line = line if held_out is None else line | {"validation": held_out}
        if self.metrics:
            for sink in (self.metrics, *self.callbacks.sinks):
                sink.write(line)
        if samples and self.callbacks.sample and self.is_main:
            with self.trainer.as_result():
                self.callbacks.sample(step)

    def _save(self, step: int) -> None:
        on_main(lambda: self._write(step))
        self.saved = step

    def _write(self, step: int) -> None:
        if self.metrics:
            self.metrics.sync()

        def write(folder: Path) -> None:
            self.trainer.snapshot.write(folder, step, self.folder.config)

        run = self.folder
        checkpoint.save(run.checkpoints, step, write=write, config_sha256=run.config_sha256, data_sha256=run.data_sha256)
        checkpoint.rotate(run.checkpoints, self.config.keep)

    def close(self) -> None:
        self.trainer.close()
        for sink in (*((self.metrics,) if self.metrics else ()), *(self.callbacks.sinks if self.is_main else ())):
            sink.close()


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
