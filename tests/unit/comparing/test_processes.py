"""`--jobs`: processes share the cells, and none outlives the first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from inpo.comparing import Choice, compare
from inpo.comparing.cells import read_cell
from inpo.comparing.processes import Share, helped
from inpo.errors import InputError
from tests.unit.comparing.small import TREE, write

CHOICE: dict[str, object] = {"only": None, "seeds": None, "knobs": False, "table": False}
PATIENCE = 120.0
"""Seconds in which a process must have come as far as it is waited for; it takes a few."""


def small(folder: Path, steps: int = 2) -> str:
    """Base, and one method whose run takes so many steps."""
    evaluation: dict[str, object] = {**TREE["evaluation"], "at": [], "also_sampler_steps": []}  # type: ignore[dict-item]
    arms = {"sft": {"method": "sft", "settings": {"train.steps": steps}}}
    return write(folder / "small.yaml", evaluation=evaluation, arms=arms, knobs=None, seeds=1, base_again=0)


def wait_for(what: Callable[[], bool], *, of: subprocess.Popen[str] | None = None) -> None:
    """Until `what` is so. `of`: a process that must not end before."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it took too long"
        assert of is None or of.poll() is None, "the process ended early"
        time.sleep(0.1)


@pytest.mark.parametrize(("jobs", "cores", "threads"), [(2, 2, "1"), (3, 16, "5"), (4, 2, "1")])
def test_cores_are_shared(jobs: int, cores: int, threads: str) -> None:
    """A number of threads that the user has set stays."""
    share = Share(jobs, cores, gpus=0)
    assert [share.environment(number, {})["OMP_NUM_THREADS"] for number in range(jobs)] == [threads] * jobs
    assert share.environment(1, {"OMP_NUM_THREADS": "7", "HOME": "/here"}) == {"OMP_NUM_THREADS": "7", "HOME": "/here"}


@pytest.mark.parametrize(("known", "given"), [({}, ["1", "0", "1"]), ({"CUDA_VISIBLE_DEVICES": "4,6"}, ["6", "4", "6"])])
def test_gpus_are_dealt_out(known: dict[str, str], given: list[str]) -> None:
    """The first process takes the first one; with a single one everybody has it."""
    assert [Share(4, 16, 2).environment(number, known)["CUDA_VISIBLE_DEVICES"] for number in (1, 2, 3)] == given
    assert "CUDA_VISIBLE_DEVICES" not in Share(4, 16, 1).environment(1, {})


def test_the_further_process_makes_cells(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """All of them, while the first one only waits; they are the first one's numbers. Its log goes when it has ended well."""
    file, out = small(tmp_path), tmp_path / "out"
    (out / "work").mkdir(parents=True)
    with helped(2, out / "work", {"source": file, "out": str(out), "choice": CHOICE, "quick": False}):
        assert (out / "work" / "process-2.log").is_file()
        wait_for(lambda: len(list((out / "cells").glob("*.json"))) == 2)
    assert list((out / "work").iterdir()) == []
    compare(file, tmp_path / "alone")
    for path in (tmp_path / "alone" / "cells").iterdir():
        mine, theirs = read_cell(path), read_cell(out / "cells" / path.name)
        assert [point.scores for point in mine.points] == [point.scores for point in theirs.points]
    assert "further processes say what they do in" in capfd.readouterr().err


def test_a_comparison_by_two(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, out = small(tmp_path), tmp_path / "out"
    compare(file, out, Choice(), jobs=2)
    assert len(list((out / "cells").iterdir())) == 2
    assert (out / "report.html").is_file()
    assert list((out / "work").iterdir()) == []
    assert "broke off" not in capfd.readouterr().err


def test_what_breaks_off_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Here: a process that is told of a comparison which does not exist. Its log stays."""
    with helped(2, tmp_path, {"source": "nothing.yaml", "out": str(tmp_path), "choice": CHOICE, "quick": False}):
        log = tmp_path / "process-2.log"
        wait_for(lambda: "nothing.yaml" in log.read_text())
    assert f"a further process broke off with exit code 1: {log}" in capfd.readouterr().err


def has_ended(process: psutil.Process) -> bool:
    """Gone, or waiting for whoever started it to ask how it ended. It may go while it is asked."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_none_outlives_the_first(tmp_path: Path, number: signal.Signals) -> None:
    """However that one ends, the other saves the step it has come to and goes; the lock of its cell goes with it."""
    file, out = small(tmp_path, steps=100_000), tmp_path / "out"
    order = {"source": file, "out": str(out), "choice": CHOICE, "quick": False}
    script = (
        "import time\nfrom pathlib import Path\nfrom inpo.comparing.processes import helped\n"
        f"with helped(2, Path({str(out / 'work')!r}), {order!r}):\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script]
    # A shell starts what is put in the background with SIGINT ignored, and whoever runs these tests may have been started so.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as first:
        wait_for(lambda: any((out / "work").rglob("step-000002")), of=first)
        other = psutil.Process(first.pid).children()[0]
        first.send_signal(number)
        wait_for(lambda: has_ended(other))
    run = next((out / "work").glob("sft.seed-0.*"))
    assert not (run / "lock.json").exists()
    assert list(run.rglob("step-*"))


def test_no_process_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--jobs=0 must be a whole number of at least 1"):
        compare(small(tmp_path), tmp_path / "out", jobs=0)
