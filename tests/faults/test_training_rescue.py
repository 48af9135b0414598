"""A fault in the middle of training costs the step it happened in, and no other; and it is told, whatever else fails after it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from inpo.errors import InputError, RunFault
from inpo.training.fit import Callbacks
from inpo.training.subject import Subject
from inpo.types import PairBatch
from tests.faults.test_training_disk import file_size_limit
from tests.tiny_denoiser import MemoryLoader, tiny_subject
from tests.training_runs import final_bytes, metrics, settings, train

RARELY = settings(save_every_steps=None)


def raising(error: Exception) -> Callable[[PairBatch], None]:
    """Does not come back."""

    def act(pairs: PairBatch) -> None:
        raise error

    return act


def poison(pairs: PairBatch) -> None:
    """One latent is no number."""
    pairs.win[0, 0, 0, 0] = float("nan")


@dataclass
class Failing(MemoryLoader):
    """Meets `act` in the fifth step."""

    act: Callable[[PairBatch], None] = poison
    at: int = 32

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """As it is, before."""
        pairs = super().fetch(positions)
        if min(positions) == self.at:
            self.act(pairs)
        return pairs


class Sink:
    """Says what it is told to say."""

    def __init__(self, *, write: Exception | None = None, close: Exception | None = None) -> None:
        self.on_write, self.on_close = write, close

    def write(self, line: Mapping[str, object]) -> None:
        """Fails in the third step."""
        if self.on_write and line["step"] == 3:
            raise self.on_write

    def close(self) -> None:
        """Fails."""
        if self.on_close:
            raise self.on_close


def full() -> OSError:
    """What a full disk says without naming a file."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def saved(out: Path) -> list[str]:
    """Names in checkpoints/."""
    return sorted(path.name for path in (out / "checkpoints").glob("*"))


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (raising(InputError("row 3 is damaged")), InputError, "row 3 is damaged"),
        (raising(OSError(errno.EIO, "Input/output error", "pairs.parquet")), RunFault, r"step 5: .*'pairs\.parquet'"),
        (raising(KeyError("caption")), KeyError, "caption"),
        (raising(RuntimeError("CUDA error: an illegal memory access was encountered")), RuntimeError, "CUDA error"),
        (poison, RunFault, "step 5: the clean latent is not finite"),
    ],
)
def test_a_step_that_fails_costs_itself_alone(tmp_path: Path, act: Callable[[PairBatch], None], kind: type[Exception], words: str) -> None:
    """No save was due; the four steps before are saved, and the resumed run ends as the one that never failed."""
    with pytest.raises(kind, match=words):
        train(tmp_path / "a", RARELY, loader=Failing(act=act))
    assert saved(tmp_path / "a") == ["step-000004"]
    train(tmp_path / "a", RARELY, loader=MemoryLoader(), resume="latest")
    train(tmp_path / "b", RARELY, loader=MemoryLoader())
    assert final_bytes(tmp_path / "a", 6) == final_bytes(tmp_path / "b", 6)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


def test_before_the_first_complete_step_there_is_nothing_to_save(tmp_path: Path) -> None:
    """Neither at the start nor right after a resume."""
    with pytest.raises(RunFault):
        train(tmp_path, RARELY, loader=Failing(at=0))
    assert saved(tmp_path) == []
    train(tmp_path, settings(steps=4), loader=MemoryLoader(), force=True)
    before = final_bytes(tmp_path, 4)
    with pytest.raises(RunFault):
        train(tmp_path, loader=Failing(), resume="latest")
    assert (saved(tmp_path), final_bytes(tmp_path, 4)) == (["step-000002", "step-000004"], before)


def test_a_save_that_fails_too_does_not_hide_the_fault(tmp_path: Path) -> None:
    """It is a warning beside it."""

    def save(folder: Path) -> None:
        raise full()

    subject = replace(tiny_subject(), save_policy=save)
    with pytest.warns(UserWarning, match="step 4 could not be saved"), pytest.raises(InputError, match="row 3"):
        train(tmp_path, RARELY, loader=Failing(act=raising(InputError("row 3"))), subject=subject)
    assert saved(tmp_path) == []


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    """Neither by the rescue nor when a save is due: the last good checkpoint stays the latest."""
    subject = tiny_subject()

    def spoil(pairs: PairBatch) -> None:
        with torch.no_grad():
            subject.policy.out.bias[0] = float("nan")

    warning = "step 5 could not be saved .* the weights or the optimiser's state are not finite"
    with pytest.warns(UserWarning, match=warning), pytest.raises(RunFault, match="step 6: the"):
        train(tmp_path, loader=Failing(act=spoil, at=40), subject=subject)
    assert saved(tmp_path) == ["step-000002", "step-000004"]
    last = tiny_subject()
    spoiling = Sink()
    spoiling.write = lambda line: line["step"] and last.policy.out.bias.data.fill_(float("inf"))
    with pytest.raises(RunFault, match="step 1: the weights or"):
        train(tmp_path / "due", settings(steps=1), subject=last, callbacks=Callbacks(sinks=[spoiling]))
    assert saved(tmp_path / "due") == []


def fill(step: int) -> None:
    """Raises what the system says of a disk without room, once there is a step to lose."""
    if step:
        raise full()


def damage(step: int) -> None:
    """As safetensors says it."""
    if step:
        raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("sample", [fill, damage])
def test_pictures_that_do_not_fit_lose_no_step(tmp_path: Path, sample: Callable[[int], None]) -> None:
    """A fault with path and room, not a traceback; the step was saved before where it was due, and is saved now where it was not."""
    for every in (3, None):
        out = tmp_path / str(every)
        with pytest.raises(RunFault, match=r"samples: the disk is full \(.*; [\d,]+ bytes are free"):
            train(out, settings(save_every_steps=every, sample_every_steps=3), callbacks=Callbacks(sample=sample))
        assert saved(out) == ["step-000003"]


def test_pictures_that_do_not_fit_before_the_first_step_stop_the_run_there(tmp_path: Path) -> None:
    """The first set is made of the untrained model: a disk or a GPU that is too small for it is found before anything is trained."""

    def sample(step: int) -> None:
        raise full()

    with pytest.raises(RunFault, match="samples: the disk is full"):
        train(tmp_path, settings(sample_every_steps=3), callbacks=Callbacks(sample=sample))
    assert saved(tmp_path) == []


def test_any_other_failure_of_pictures_saves_the_step(tmp_path: Path) -> None:
    """A mistake in a sampler, for one: the weights are those of a complete step."""

    def mistaken(step: int) -> None:
        if step:
            raise IndexError("no such picture")

    with pytest.raises(IndexError):
        train(tmp_path, settings(save_every_steps=None, sample_every_steps=3), callbacks=Callbacks(sample=mistaken))
    assert saved(tmp_path) == ["step-000003"]


def test_a_real_refusal_names_its_file(tmp_path: Path) -> None:
    """Where the system says which one."""

    def sample(step: int) -> None:
        with file_size_limit(10 if step else 1000):
            (tmp_path / "samples").mkdir(exist_ok=True)
            (tmp_path / "samples" / "a.png").write_bytes(bytes(100))

    with pytest.raises(RunFault, match=r"the disk is full .*File too large"):
        train(tmp_path, settings(sample_every_steps=1), callbacks=Callbacks(sample=sample))
    assert saved(tmp_path) == ["step-000001"]


def test_a_sink_that_fails_is_a_fault(tmp_path: Path) -> None:
    """While it is written to, or when what it held back meets the disk at the end; everything is saved by then."""
    with pytest.raises(RunFault, match="a: the disk is full"):
        train(tmp_path / "a", RARELY, callbacks=Callbacks(sinks=[Sink(write=full())]))
    assert saved(tmp_path / "a") == ["step-000003"]
    with pytest.raises(RunFault, match="b: the disk is full"):
        train(tmp_path / "b", callbacks=Callbacks(sinks=[Sink(close=full()), Sink()]))
    assert saved(tmp_path / "b")[-1] == "step-000006"


def test_closing_does_not_hide_the_fault(tmp_path: Path) -> None:
    """A disk that is full for the pictures is full for TensorBoard."""
    with pytest.raises(InputError, match="row 3"):
        train(tmp_path, loader=Failing(act=raising(InputError("row 3"))), callbacks=Callbacks(sinks=[Sink(close=full())]))


def replaced(out: Path, subject: Subject | None = None, loader: MemoryLoader | None = None) -> None:
    """Trains into `out` with force, another average than before."""
    train(out, settings(average_decay=0.5), subject=subject, loader=loader, force=True)


def test_force_keeps_the_earlier_run_until_the_new_one_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first step that fails, and a disk too small, leave it as it was, to the byte; a success replaces it and leaves nothing hidden."""
    train(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunFault):
        replaced(tmp_path, loader=Failing(at=0))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
        patch.setattr("inpo.training.replacement.Replacement.bytes", 1000)
        with pytest.raises(InputError, match="bytes are free, but 3"):
            replaced(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    replaced(tmp_path)
    assert saved(tmp_path) == ["step-000004", "step-000006"]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert (tmp_path / "config.yaml").is_file()


def test_room_that_the_earlier_run_takes_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is deleted before the first save: a disk with nothing left can still replace a run by one of its size."""
    train(tmp_path, settings(keep=6, save_every_steps=1))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    replaced(tmp_path)
    assert saved(tmp_path) == ["step-000004", "step-000006"]
