"""Memory that does not suffice ends a run in one line that says what to lower, and costs the step it happened in alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from inpo.config import load_experiment
from inpo.errors import RunFault
from inpo.training.fit import Callbacks
from inpo.training.memory import is_out_of_memory
from inpo.training.subject import Subject
from inpo.types import Condition
from inpo.verbs import alignment
from tests.tiny_denoiser import TinyDenoiser, plain_subject, tiny_subject
from tests.training_runs import final_bytes, settings, train, trainer

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.64 GiB of which …")


class Exhausting(TinyDenoiser):
    """Raises `error` at a call with or without gradient, once it has been asked `calls` times so."""

    def __init__(self, error: Exception, *, with_gradient: bool, calls: int = 0) -> None:
        super().__init__()
        self.error, self.with_gradient, self.calls = error, with_gradient, calls

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """As it is, before."""
        if torch.is_grad_enabled() is self.with_gradient:
            self.calls -= 1
            if self.calls < 0:
                raise self.error
        return super().forward(x_t, t, condition)


def exhausting(error: Exception, *, with_gradient: bool, calls: int = 0) -> Subject:
    """A subject that runs out of memory."""
    return plain_subject(Exhausting(error, with_gradient=with_gradient, calls=calls), tiny_subject().reference)


@pytest.mark.parametrize(
    ("with_gradient", "words"),
    [
        (True, r"in the gradient \(CUDA out of memory\. Tried to allocate 20\.00 MiB\): lower train\.micro_batch_pairs \(now 3\) or set "),
        (False, r"in the inversion \(CUDA out of memory\. .*\): lower train\.inversion_batch_pairs \(now 4\) and"),
    ],
)
def test_the_message_names_the_setting_of_the_phase(with_gradient: bool, words: str) -> None:
    """One line: what was allocated where, and what to lower."""
    with pytest.raises(RunFault, match=f"^step 1: out of memory {words}[^\n]*--resume latest; a new run with a lora[^\n]*$"):
        trainer(subject=exhausting(CUDA, with_gradient=with_gradient)).step_once(0)


@pytest.mark.parametrize(
    "error",
    [
        CUDA,
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
    ids=["cuda", "python", "mps", "cpu"],
)
def test_every_device_says_it_in_its_own_way(error: Exception) -> None:
    """All of them are the same fault."""
    assert is_out_of_memory(error)
    with pytest.raises(RunFault, match="out of memory in the gradient"):
        trainer(subject=exhausting(error, with_gradient=True)).step_once(0)


def test_pictures_that_do_not_fit_are_told_and_the_step_is_saved(tmp_path: Path) -> None:
    """The third step's pictures: one line with what to lower, after the checkpoint of the third step."""

    def sample(step: int) -> None:
        if step == 3:
            raise CUDA

    use = settings(sample_every_steps=3, save_every_steps=None)
    with pytest.raises(RunFault, match=r"^out of memory in the sampling \(CUDA .*\): lower .* or set train\.sample_every_steps=null, "):
        train(tmp_path, use, callbacks=Callbacks(sample))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000003"]


def test_other_errors_stay_what_they_are() -> None:
    """A mistake in a network is told with its traceback."""
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        trainer(subject=exhausting(RuntimeError("shapes differ"), with_gradient=True)).step_once(0)


def test_complete_steps_are_saved_and_smaller_batches_continue(tmp_path: Path) -> None:
    """Three steps of three micro-batches are complete; the run goes on with what the message says, to rounding the same run."""
    with pytest.raises(RunFault, match="step 4: out of memory"):
        train(tmp_path, settings(save_every_steps=None), subject=exhausting(CUDA, with_gradient=True, calls=10))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000003"]
    assert train(tmp_path, settings(micro_batch_pairs=1), resume="latest").step == 6


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [(CUDA, RunFault, "step 4: out of memory in the optimiser"), (RuntimeError("shapes differ"), RuntimeError, "^shapes differ$")],
    ids=["memory", "mistake"],
)
def test_a_step_torn_in_the_optimiser_is_not_saved(
    error: Exception, kind: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some weights have moved and others not: what is on the disk is the last checkpoint that was due, unchanged."""
    steps = []

    def step(self: torch.optim.AdamW, closure: object = None) -> None:
        steps.append(None)
        if len(steps) == 4:
            raise error
        return original(self, closure)

    original = torch.optim.AdamW.step
    train(tmp_path / "whole", settings(steps=2))
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(kind, match=words):
        train(tmp_path / "torn")
    assert [path.name for path in (tmp_path / "torn" / "checkpoints").iterdir()] == ["step-000002"]
    assert final_bytes(tmp_path / "torn", 2) == final_bytes(tmp_path / "whole", 2)


def test_a_model_that_does_not_fit_is_told_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the weights themselves are too many: one line, and nothing in the run's folder that looks trained."""

    def fail(*_: object, **__: object) -> None:
        raise CUDA

    monkeypatch.setattr(alignment, "load", fail)
    experiment = load_experiment("world-inpo", ["train.steps=2", "optimizer.warmup_steps=0"])
    with pytest.raises(RunFault, match=r"out of memory in the loading \(CUDA out of memory.*\): model\.dtype=bf16 keeps what is frozen"):
        alignment.train(experiment, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
