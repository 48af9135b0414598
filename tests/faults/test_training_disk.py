"""A full disk: said with path and numbers, and nothing that was there is lost."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from inpo.errors import RunFault
from inpo.training import checkpoint
from inpo.training.metrics import MetricsFile
from inpo.training.subject import Subject
from tests.tiny_denoiser import tiny_subject
from tests.training_runs import final_bytes, train


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The system refuses to let any file grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def filling_up(out: Path) -> Subject:
    """A subject whose second save meets the limit."""
    subject = tiny_subject()

    def save(folder: Path) -> None:
        if (out / "checkpoints" / "step-000002").exists():
            with file_size_limit(1000):
                subject.save_policy(folder)
        subject.save_policy(folder)

    return replace(subject, save_policy=save)


def test_a_save_that_does_not_fit_keeps_the_one_before(tmp_path: Path) -> None:
    """The real refusal of a real write; the run continues once there is room, and ends as if nothing had happened."""
    with pytest.raises(RunFault, match=r"step-000004: the disk is full .*: [\d,]+ bytes were written, [\d,]+ are free; older"):
        train(tmp_path / "a", subject=filling_up(tmp_path / "a"))
    assert [path.name for path in (tmp_path / "a" / "checkpoints").iterdir()] == ["step-000002"]
    assert checkpoint.verify(tmp_path / "a" / "checkpoints" / "step-000002").step == 2
    assert not (tmp_path / "a" / "lock.json").exists()
    train(tmp_path / "a", resume="latest")
    train(tmp_path / "b")
    assert final_bytes(tmp_path / "a", 6) == final_bytes(tmp_path / "b", 6)


def test_a_disk_that_fills_up_only_at_the_end_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing may succeed into memory; it is the wait for the disk that fails."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFault, match="the disk is full"):
        checkpoint.save(tmp_path, 1, write=lambda folder: (folder / "a").touch(), config_sha256="", data_sha256="")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [5, 15])
def test_a_line_that_does_not_fit_is_a_fault_with_its_path(room: int, tmp_path: Path) -> None:
    """And not a traceback: also where three bytes of it do fit, and the system takes them without complaint."""
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write({"step": 1})
    with file_size_limit(room), pytest.raises(RunFault, match=r"metrics\.jsonl: step 2 could not be written"):
        file.write({"step": 2})
    file.close()
