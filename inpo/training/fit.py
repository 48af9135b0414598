"""A run from its first or last saved step to its end, an interruption or a fault; and everything it leaves in its folder."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from inpo.errors import InputError, RunFault
from inpo.methods import Method
from inpo.training import checkpoint
from inpo.training.checkpoint import steps_in
from inpo.training.disk import reporting
from inpo.training.distributed import is_main, on_main, tell_others, wait_for_main
from inpo.training.memory import TornStep, told_as_fault
from inpo.training.metrics import MetricsFile, Sink, cut_metrics
from inpo.training.run import RunFolder
from inpo.training.settings import Settings
from inpo.training.snapshot import read_state
from inpo.training.stop import StepDropped, Stop
from inpo.training.subject import Subject
from inpo.training.trainer import Outcome, Trainer
from inpo.training.watch import Watch, check_watched
from inpo.types import PairLoader

RESCUE_SECONDS = 1800.0
"""The longest that other processes wait for the main one's save of a faulty run. A launcher kills it 30 s after the first of them leaves;
a checkpoint of SDXL is 10 to 30 GB."""


@dataclass(frozen=True)
class Callbacks:
    """What else happens while training, on the main process. `sample(step)`: pictures at fixed seeds, every `sample_every_steps`, at
    step 0 and at the end, with the weights that would be the result if the run ended there. `sinks`: get every line of metrics.jsonl."""

    sample: Callable[[int], None] | None = None
    sinks: Sequence[Sink] = ()


@dataclass(frozen=True)
class FitResult:
    """`step`: how many optimiser steps are complete and saved. `signal`: what interrupted the run, None if it finished.

    `result_step`: whose weights the policy holds now. `stopped`: why the run ended before its last step, if it did.
    `replaces_nothing`: it was interrupted before a step of its own, and the earlier run that it was to replace comes back.
    """

    step: int
    signal: int | None
    seconds: float
    result_step: int
    stopped: str | None = None
    replaces_nothing: bool = False


def fit(subject: Subject, loader: PairLoader, *, method: Method, settings: Settings, run: RunFolder, callbacks: Callbacks) -> FitResult:
    """Trains to `settings.train.steps`, from `run.resume_from` if it is set, or until patience ends (`train.early_stop`).

    At the end the policy holds the result's weights: the last step's or the best one's (`train.result`), or their average.

    A resumed run equals the uninterrupted one bit for bit on the CPU, with the same software, machine and number of processes. On
    a GPU it draws the same pairs, times and noise, but nothing here forces kernels to add in a fixed order.

    A run that this one replaces (`open_run(force=True)`) is deleted when the first checkpoint is about to be written. SIGINT and
    SIGTERM save the last complete step and return; where there is none yet, that earlier run stays. Raises `InputError` for what a
    user can mend (no space, a checkpoint of other data or of another base model, a damaged picture) and `RunFault` for non-finite
    values, a full disk, or a policy that is not its reference when it starts. Steps that were complete by then are saved, if they
    can be; older checkpoints are intact.
    """
    began = time.monotonic()
    run.check_same_data()
    stop = Stop()
    with stop.listening():
        trainer = Trainer(subject, loader, method=method, settings=settings, stop=stop)
        with _Loop(trainer, run, callbacks) as loop:
            step, signal = loop.run()
            result_step = step if signal else loop.settle(step)
    return FitResult(step, signal or None, time.monotonic() - began, result_step, loop.watch.reason_to_stop, loop.replaces_nothing)


class _Loop:
    def __init__(self, trainer: Trainer, run: RunFolder, callbacks: Callbacks) -> None:
        self.trainer, self.folder, self.callbacks = trainer, run, callbacks
        self.config = trainer.settings.train
        self.watch = Watch(self.config)
        held = trainer.validation
        check_watched(self.config, trainer.method.objective, held_out=held.count > 0, singles=held.singles)
        self.is_main = is_main()
        self.start = 0
        self.saved: int | None = None
        self.replaces_nothing = False
        self.metrics: MetricsFile | None = None

    def run(self) -> tuple[int, int]:
        self.start = self._restore()
        step, signal = self.start, self._begin() if self.start == 0 else 0
        if step > 0:
            # A process that was killed while it made a step's pictures had saved the step: they are made (again) from it.
            self._show_safely(step)
        while not self._ended(step) and not signal:
            outcome = self._attempt(step)
            if isinstance(outcome, StepDropped):
                signal = outcome.signal
                break
            step, signal = step + 1, outcome.signal
            self._complete(step, outcome)
        if signal and step == self.start:
            # Saving the beginning would delete the earlier run that `force` has moved aside, for nothing.
            self.replaces_nothing = on_main(lambda: self.folder.replacement.pending)
        if self.saved != step and not self.replaces_nothing:
            self._save(step)
        # One that came after the last step's collective: several processes could not agree on it any more.
        late = self.trainer.stop.signal if self.trainer.parallel.num_processes == 1 else 0
        return step, signal or late

    def _ended(self, step: int) -> bool:
        return step >= self.config.steps or self.watch.reason_to_stop is not None

    def settle(self, step: int) -> int:
        """Puts the result's weights into the policy, for good. Returns the step that they are of."""
        best = self.watch.best_step if self.config.result == "best" else None
        if self.config.result == "best" and best is None and self.is_main:
            warnings.warn(
                f"train.result=best, but {self.config.keep_best} never was a number: the result is step {step}, the last", stacklevel=2
            )
        if best is not None and best != step:
            folder = self.folder.checkpoints / checkpoint.folder_name(best)
            on_main(lambda: checkpoint.verify(folder))
            self.trainer.snapshot.read_weights(folder)
        if self.trainer.average:
            self.trainer.average.copy_to_weights()
        return step if best is None else best

    def _begin(self) -> int:
        """What there is to compare with: held-out numbers and pictures of the model before its first step. 0, or a signal."""
        try:
            # There is nothing to lose yet, so an interruption need not wait for either.
            with self.trainer.stop.droppable():
                held_out = self.trainer.validation()
                if held_out is not None:
                    self._tell({"step": 0, "validation": held_out})
        except StepDropped as dropped:
            return dropped.signal
        # The main process alone draws. The others hear of its signal in the first step, which begins with it.
        with suppress(StepDropped), self.trainer.stop.droppable(), reporting(self.folder.path / "samples"):
            self._show(0)
        return 0

    def _attempt(self, step: int) -> Outcome | StepDropped:
        """An interruption drops it on all processes. What fails with these has not touched the weights, but for a `TornStep`."""
        with self._rescuing(step, InputError, RunFault):
            try:
                return self.trainer.step_once(step)
            except StepDropped as dropped:
                return dropped

    def _complete(self, step: int, outcome: Outcome) -> None:
        with self._rescuing(step, Exception):
            self._report(step, outcome)
        if _due(step, self.config.save_every_steps) or self.watch.best_step == step:
            self._save(step)
        # After the save: pictures are the most that a disk, or a GPU's memory, is asked for.
        self._show_safely(step)

    def _show_safely(self, step: int) -> None:
        with self._rescuing(step, Exception), reporting(self.folder.path / "samples"):
            self._show(step)

    @contextmanager
    def _rescuing(self, step: int, *faults: type[Exception]) -> Iterator[None]:
        """Saves `step`, which is complete, before one of `faults` ends the run. Its own failure never hides the fault."""
        try:
            yield
        except TornStep:
            raise
        except faults:
            if step not in (self.start, self.saved):
                self._rescue(step, f"inpo/{self.folder.path}/{step}")
            raise

    def _rescue(self, step: int, word: str) -> None:
        """The main process saves, the others wait for it: the first to leave ends all, by the hand of their launcher."""
        if not self.is_main:
            wait_for_main(word, seconds=RESCUE_SECONDS, until=lambda: self.trainer.stop.signal)
            return
        try:
            self._write(step)
            print(f"saved step {step} before stopping", file=sys.stderr)
        except Exception as error:  # the fault that ends the run is the one to tell
            warnings.warn(f"step {step} could not be saved before stopping: {error}", stacklevel=3)
        tell_others(word)

    def _restore(self) -> int:
        step = 0
        if self.folder.resume_from:
            folder, manifest = self.folder.resume_from
            self.trainer.snapshot.read(folder)
            step = manifest.step
            # A checkpoint of another folder is a beginning here, and is copied by the next save.
            self.saved = step if folder.resolve().parent == self.folder.checkpoints.resolve() else None
            self.watch.restore(read_state(folder).get("watch"), steps_in(self.folder.checkpoints))
        with reporting(self.folder.path):
            on_main(lambda: self._go_back_to(step))
            self.metrics = MetricsFile(self.folder.metrics) if self.is_main else None
        return step

    def _go_back_to(self, step: int) -> None:
        checkpoint.discard_after(self.folder.checkpoints, step)
        cut_metrics(self.folder.metrics, step)
        every, best = self.config.save_every_steps or self.config.steps, self.config.keep_best is not None
        saves, keep = -(-(self.config.steps - step) // every) + best, self.config.keep + best
        # One more than is kept: the oldest goes only after the new one is complete.
        count = min(saves, max(1, keep + 1 - len(checkpoint.steps_in(self.folder.checkpoints))))
        size, reclaimed = self.trainer.snapshot.expected_bytes(), self.folder.replacement.bytes
        checkpoint.check_space(self.folder.checkpoints, size=size, count=count, reclaimed=reclaimed)

    def _report(self, step: int, outcome: Outcome) -> None:
        line = outcome.line
        if self._looks(step):
            with self.trainer.as_result():
                held_out = self.trainer.validation()
            if held_out is not None:
                line = line | {"validation": held_out}
                self.watch.update(step, held_out)
        reason = self.watch.reason_to_stop
        self._tell(line if reason is None else line | {"stopped": reason})

    def _looks(self, step: int) -> bool:
        every = self.config.validate_every_steps
        rhythm = (every,) if every else (self.config.save_every_steps, self.config.sample_every_steps)
        return step == self.config.steps or any(_due(step, each) for each in rhythm)

    def _tell(self, line: Mapping[str, object]) -> None:
        if self.metrics:
            with reporting(self.folder.path):
                for sink in (self.metrics, *self.callbacks.sinks):
                    sink.write(line)

    def _show(self, step: int) -> None:
        every = self.config.sample_every_steps
        if every and (_due(step, every) or self._ended(step)) and self.callbacks.sample and self.is_main:
            with self.trainer.as_result(), told_as_fault("sampling", self.config):
                self.callbacks.sample(step)

    def _save(self, step: int) -> None:
        on_main(lambda: self._write(step))
        self.saved = step

    def _write(self, step: int) -> None:
        if not self.trainer.snapshot.is_finite():
            raise RunFault(f"step {step}: the weights or the optimiser's state are not finite; they are not saved over good checkpoints")
        with reporting(self.folder.path):
            self.folder.replacement.settle()
            if self.metrics:
                self.metrics.sync()

        def write(folder: Path) -> None:
            self.trainer.snapshot.write(folder, step, self.folder.config, self.watch.state())

        run = self.folder
        checkpoint.save(run.checkpoints, step, write=write, config_sha256=run.config_sha256, data_sha256=run.data_sha256)
        checkpoint.rotate(run.checkpoints, self.config.keep, self.watch.best_step)

    def __enter__(self) -> _Loop:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.trainer.close()
        try:
            with reporting(self.folder.path), ExitStack() as closing:
                for sink in (*((self.metrics,) if self.metrics else ()), *(self.callbacks.sinks if self.is_main else ())):
                    closing.callback(sink.close)
        except RunFault:
            # What is written when a file closes may fail for the reason that ended the run.
            if error is None:
                raise


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
