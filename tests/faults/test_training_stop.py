"""SIGINT and SIGTERM end a run with its last complete step saved, once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from inpo.training.fit import Callbacks, FitResult
from inpo.training.reading import TOGETHER
from inpo.types import PairBatch
from tests.tiny_denoiser import MemoryLoader, tiny_subject
from tests.training_runs import final_bytes, finish, metrics, settings, start, train


@dataclass
class Interrupting(MemoryLoader):
    """Sends this process a signal while the step that begins at position `at` is being made."""

    at: int = 24
    number: int = signal.SIGTERM

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """As it is."""
        if min(positions) == self.at:
            os.kill(os.getpid(), self.number)
        return super().fetch(positions)


def checkpoints(out: Path) -> list[str]:
    """Names in checkpoints/."""
    return sorted(path.name for path in (out / "checkpoints").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_last_complete_step_and_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """In the fourth step: it is dropped, step 3 is saved though no save was due, and the resumed run ends as the whole one does."""
    before = signal.getsignal(number)
    result = train(tmp_path / "cut", loader=Interrupting(number=number))
    assert (result.step, result.signal) == (3, number)
    assert checkpoints(tmp_path / "cut") == ["step-000002", "step-000003"]
    assert [line["step"] for line in metrics(tmp_path / "cut")] == [1, 2, 3]
    assert signal.getsignal(number) is before
    assert train(tmp_path / "cut", loader=MemoryLoader(), resume="latest").signal is None
    train(tmp_path / "whole", loader=MemoryLoader())
    assert final_bytes(tmp_path / "cut", 6) == final_bytes(tmp_path / "whole", 6)


@dataclass
class Reading(Interrupting):
    """Remembers what was asked of it."""

    asked: list[int] = field(default_factory=list)

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """As it is."""
        self.asked += positions
        return super().fetch(positions)


def test_an_interruption_does_not_wait_for_all_pairs_of_a_step(tmp_path: Path) -> None:
    """Encoding those of a large model takes longer than a launcher waits. Reading them a few at a time changes no number."""
    use, loader = settings(steps=4, pairs_per_step=20), Reading(at=40)
    assert train(tmp_path / "cut", use, loader=loader).step == 2
    assert [position for position in sorted(loader.asked) if position >= 40] == list(range(40, 40 + TOGETHER))
    train(tmp_path / "cut", use, loader=MemoryLoader(), resume="latest")
    train(tmp_path / "whole", use, loader=MemoryLoader())
    assert final_bytes(tmp_path / "cut", 4) == final_bytes(tmp_path / "whole", 4)


def test_interrupted_in_its_first_step_a_run_can_still_be_resumed(tmp_path: Path) -> None:
    """Nothing is complete yet; the untrained start is saved, and checked again before the real first step."""
    assert train(tmp_path, loader=Interrupting(at=0)).step == 0
    assert checkpoints(tmp_path) == ["step-000000"]
    assert train(tmp_path, loader=MemoryLoader(), resume="latest").step == 6


def test_interrupted_in_its_first_step_a_replacement_leaves_the_earlier_run(tmp_path: Path) -> None:
    """Nothing of the new run is worth what it would replace. It may be started again, and replaces it once a step is complete."""
    train(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    use = settings(average_decay=0.5)
    for loader in (Interrupting(at=0), Interrupting(at=0, number=signal.SIGINT)):
        result = train(tmp_path, use, loader=loader, force=True)
        assert (result.step, result.signal, result.earlier_restored) == (0, loader.number, True)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    result = train(tmp_path, use, loader=Interrupting(at=8), force=True)
    assert (result.step, result.earlier_restored) == (1, False)
    assert checkpoints(tmp_path) == ["step-000001"]


def test_a_replacement_that_continues_another_run_needs_a_step_of_its_own(tmp_path: Path) -> None:
    """Its beginning is in the other folder still; what it would replace is nowhere else."""
    train(tmp_path / "other", settings(steps=4), loader=MemoryLoader())
    train(tmp_path / "run", settings(steps=2), loader=MemoryLoader())
    foreign = str(tmp_path / "other" / "checkpoints" / "step-000004")
    result = train(tmp_path / "run", loader=Interrupting(at=32), resume=foreign, force=True)
    assert (result.step, result.earlier_restored) == (4, True)
    assert checkpoints(tmp_path / "run") == ["step-000002"]


def test_before_the_first_step_an_interruption_waits_for_nothing(tmp_path: Path) -> None:
    """The held-out pairs and the base's pictures may take minutes, and nothing is lost with them; the resumed run makes them again."""
    subject, seen = tiny_subject(), []

    def hook(module: object, inputs: object, output: object) -> None:
        seen.append(1)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    subject.policy.register_forward_hook(hook)
    result = train(tmp_path / "cut", loader=MemoryLoader(held_out=12), subject=subject)
    assert (result.step, result.signal, len(seen)) == (0, signal.SIGINT, 2)
    assert train(tmp_path / "cut", loader=MemoryLoader(held_out=12), resume="latest").step == 6
    train(tmp_path / "whole", loader=MemoryLoader(held_out=12))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def interrupted_by(out: Path, where: Callable[[Path], None], **callbacks: Callable[[int], None]) -> FitResult:
    """A run whose policy is saved by `where`, after the real saving."""
    subject = tiny_subject()

    def save(folder: Path) -> None:
        subject.save_policy(folder)
        where(folder)

    return train(out, settings(sample_every_steps=3), subject=replace(subject, save_policy=save), callbacks=Callbacks(**callbacks))


def test_a_signal_inside_a_save_lets_it_finish(tmp_path: Path) -> None:
    """Step 2 is saved once, whole; step 3 is dropped before it begins."""
    saves: list[str] = []

    def tell(folder: Path) -> None:
        saves.append(folder.parent.name)
        os.kill(os.getpid(), signal.SIGTERM)

    result = interrupted_by(tmp_path, tell)
    assert (result.step, result.signal, len(saves)) == (2, signal.SIGTERM, 1)
    assert checkpoints(tmp_path) == ["step-000002"]


def test_a_signal_while_pictures_are_made_saves_the_step_before(tmp_path: Path) -> None:
    """The step was complete, so it counts."""
    result = interrupted_by(tmp_path, lambda folder: None, sample=lambda step: step and os.kill(os.getpid(), signal.SIGINT))
    assert (result.step, result.signal) == (3, signal.SIGINT)
    assert checkpoints(tmp_path) == ["step-000002", "step-000003"]


def test_a_signal_at_the_very_end_is_still_told(tmp_path: Path) -> None:
    """Everything is trained and saved, but whoever sent it wants the program to end."""
    callbacks = Callbacks(sample=lambda step: step and os.kill(os.getpid(), signal.SIGTERM))
    result = train(tmp_path, settings(steps=3, sample_every_steps=3), callbacks=callbacks)
    assert (result.step, result.signal) == (3, signal.SIGTERM)
    assert checkpoints(tmp_path)[-1] == "step-000003"


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Exit code 130 or 143 from the process itself; the last checkpoint is whole and the lock left behind is taken over."""
    [(code, errors)] = finish([start("second_signal.py", tmp_path)])
    assert code == 128 + signal.SIGINT, errors
    assert checkpoints(tmp_path) == ["step-000002"]
    assert (tmp_path / "lock.json").exists()
    assert train(tmp_path, loader=MemoryLoader(), resume="latest").step == 6


def test_outside_the_main_thread_training_works_without_handlers(tmp_path: Path) -> None:
    """A notebook's or a server's thread."""
    results: list[FitResult] = []
    thread = threading.Thread(target=lambda: results.append(train(tmp_path, settings(steps=1))))
    thread.start()
    thread.join()
    assert results[0].step == 1
