"""A run from its first or last saved step to its end, an interruption or a fault; and everything it leaves in its folder."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from inpo.errors import RunFault
from inpo.methods import Method
from inpo.training import checkpoint
from inpo.training.checkpoint import steps_in
from inpo.training.disk import reporting
from inpo.training.distributed import is_main, is_told, on_main, tell_others, wait_for_main
from inpo.training.ledger import Ledger
from inpo.training.memory import told_as_fault
from inpo.training.metrics import Sink, cut_metrics
from inpo.training.run import RunFolder
from inpo.training.settings import Settings
from inpo.training.snapshot import read_state
from inpo.training.stop import StepDropped, Stop
from inpo.training.subject import Subject
from inpo.training.trainer import Outcome, Trainer
from inpo.training.watch import Watch, check_watched
from inpo.types import PairLoader


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
    `earlier_restored`: it was interrupted before a step of its own, and the earlier run that it was to replace comes back.
    """

    step: int
    signal: int | None
    seconds: float
    result_step: int
    stopped: str | None = None
    earlier_restored: bool = False


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
    return FitResult(step, signal or None, time.monotonic() - began, result_step, loop.watch.reason_to_stop, loop.earlier_restored)


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
        self.earlier_restored = False
        self.ledger = Ledger(run.path, callbacks.sinks if self.is_main else ())

    def run(self) -> tuple[int, int]:
        self.start = self._restore()
        step, signal = self.start, self._catch_up(self.start) if self.start else self._begin()
        while not self._ended(step) and not signal:
            outcome = self._attempt(step)
            if isinstance(outcome, StepDropped):
                signal = outcome.signal
                break
            step += 1
            signal = self._complete(step, outcome)
        if signal and step == self.start:
            # Saving the beginning would delete the earlier run that `force` has moved aside, for nothing.
            self.earlier_restored = on_main(lambda: self.folder.replacement.pending)
        if self.saved != step and not self.earlier_restored:
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
                    self.ledger.tell({"step": 0, "validation": held_out})
        except StepDropped as dropped:
            return dropped.signal
        # The main process alone draws. The others hear of its signal in the first step, which begins with it.
        with suppress(StepDropped), self.trainer.stop.droppable(), reporting(self.folder.path / "samples"):
            self._show(0)
        return 0

    def _attempt(self, step: int) -> Outcome | StepDropped:
        """An interruption drops it on all processes. Whatever fails before the optimiser moves has not touched the weights."""
        with self._rescuing(step):
            try:
                return self.trainer.step_once(step)
            except StepDropped as dropped:
                return dropped

    def _complete(self, step: int, outcome: Outcome) -> int:
        """What follows a step: its look, its save and its pictures. The signal that any process got meanwhile, or 0."""
        with self._rescuing(step):
            signal = self._report(step, outcome.line) or outcome.signal
        if _due(step, self.config.save_every_steps) or self.watch.best_step == step or self._ended(step):
            self._save(step)
        # After the save: pictures are the most that a disk, or a GPU's memory, is asked for.
        if not signal:
            self._show_safely(step)
        return signal

    def _catch_up(self, step: int) -> int:
        """After a step that an earlier process saved: the look and the pictures that it may not have finished. A signal, or 0."""
        if self.watch.owes_look:
            try:
                self.ledger.amend(step, self._look(step))
            except StepDropped as dropped:
                return dropped.signal
            if self.watch.best_step == step != self.saved:
                self._save(step)
        self._show_safely(step)
        return 0

    def _show_safely(self, step: int) -> None:
        # A signal drops them, and the run that goes on makes them. Of one after its last step other processes would not hear.
        alone = self.trainer.parallel.num_processes == 1
        droppable = self.trainer.stop.droppable() if alone or not self._ended(step) else nullcontext()
        with self._rescuing(step), suppress(StepDropped), droppable, reporting(self.folder.path / "samples"):
            self._show(step)

    @contextmanager
    def _rescuing(self, step: int) -> Iterator[None]:
        """Saves `step`, which is complete, before a fault ends the run. Its own failure never hides the fault."""
        try:
            yield
        except Exception as fault:  # also a mistake in somebody's network or sampler: the steps before it are whole
            if step not in (self.start, self.saved) and not self.trainer.torn:
                self._rescue(step, fault)
            raise

    def _rescue(self, step: int, fault: Exception) -> None:
        """The main process saves, the others wait for it: the first to leave ends all, by the hand of their launcher."""
        word = f"inpo/{self.folder.path}/{step}"
        if not self.is_main:
            # Of a fault that it does not know, the main process hears only when this one is gone.
            if is_told(fault):
                wait_for_main(word, until=lambda: self.trainer.stop.signal)
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
            if self.is_main:
                self.ledger.open(self.folder.metrics)
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

    def _report(self, step: int, line: Mapping[str, object]) -> int:
        """Writes the step's line, without what a look adds where that fails. The signal that dropped the look, or 0."""
        try:
            looked = self._look(step) if self._looks(step) else {}
        except StepDropped as dropped:
            self.ledger.tell(line)
            return dropped.signal
        except Exception:
            with suppress(Exception):  # the fault of the look is the one to tell
                self.ledger.tell(line)
            raise
        self.ledger.tell({**line, **looked})
        return 0

    def _look(self, step: int) -> dict[str, object]:
        """What the held-out pairs say of a step, for its line. A signal on any process drops it on all."""
        self.watch.owes_look = True
        with self.trainer.stop.droppable(), self.trainer.as_result():
            held_out = self.trainer.validation()
        self.watch.owes_look = False
        if held_out is None:
            return {}
        self.watch.update(step, held_out)
        reason = self.watch.reason_to_stop
        return {"validation": held_out} | ({} if reason is None else {"stopped": reason})

    def _looks(self, step: int) -> bool:
        every = self.config.validate_every_steps
        rhythm = (every,) if every else (self.config.save_every_steps, self.config.sample_every_steps)
        return step == self.config.steps or any(_due(step, each) for each in rhythm)

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
            self.ledger.sync()

        def write(folder: Path) -> None:
            self.trainer.snapshot.write(folder, step, self.folder.config, self.watch.state())

        run = self.folder
        checkpoint.save(run.checkpoints, step, write=write, config_sha256=run.config_sha256, data_sha256=run.data_sha256)
        checkpoint.rotate(run.checkpoints, self.config.keep, self.watch.best_step)

    def __enter__(self) -> _Loop:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.trainer.close()
        self.ledger.close(quietly=error is not None)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
