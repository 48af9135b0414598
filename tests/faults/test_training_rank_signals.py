"""A signal to one of several processes, or to all at different moments: they drop one step together, save, and leave."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training_runs import ROOT, both, ran_on_ranks

TERM = int(signal.SIGTERM)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind; see tests/two_ranks_signals.py."""
    return ran_on_ranks(tmp_path_factory.mktemp("signals"), "two_ranks_signals.py")


def test_wherever_a_signal_comes_both_end_together(two_ranks: Path) -> None:
    """Twelve runs, on one rank or on both, in inversion and in training: the same end on both, and nobody waits for ever. Continued,
    each is the run that was not cut, bit for bit."""
    first, second = both(two_ranks, "anywhere")
    assert [end[:2] for end in first] == [end[:2] for end in second]
    assert all(number == TERM and step < 6 for step, number, _ in first)
    assert len({step for step, _, _ in first}) > 2
    assert all(same for _, _, same in first)


def test_a_signalled_process_leaves_its_share(two_ranks: Path) -> None:
    """Rank 1 asks its network no more; rank 0, which nobody told, finds out when its own share is done."""
    first, second = both(two_ranks, "share")
    assert first["end"] == second["end"] == [2, TERM]
    assert first["more"] > 0
    assert second["more"] == 0


def test_a_step_that_was_agreed_on_is_completed(two_ranks: Path) -> None:
    """The signal was not in what rank 1 had said; everybody adds up gradients."""
    assert both(two_ranks, "agreed") == [[3, TERM]] * 2


def test_before_the_first_step_both_end_too(two_ranks: Path) -> None:
    """Held-out pairs are a collective; pictures are the main process's alone, and the first step tells the other."""
    assert both(two_ranks, "entrance") == [[[0, TERM], [0, TERM]]] * 2


def test_nobody_leaves_before_the_rescue_is_written(two_ranks: Path) -> None:
    """A launcher kills the main process 30 s after another one has left with a fault, of whatever kind."""
    assert both(two_ranks, "rescued") == [{"picture": ["step-000002"], "mistake": ["step-000002"]}] * 2


def wait_for(found: list[Path], launcher: subprocess.Popen[str]) -> None:
    """Until all of these files exist."""
    end = time.monotonic() + 200
    while not all(path.exists() for path in found):
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.1)


def test_sigterm_to_the_launcher_saves_the_last_complete_step(tmp_path: Path) -> None:
    """It passes the signal on and kills after its patience, here 20 s, a fraction of the step that is under way."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "20",
    }  # fmt: skip
    script = [str(ROOT / "tests" / "two_ranks_signals.py"), str(tmp_path), "launched"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", *script]
    launcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        wait_for([tmp_path / "long-0", tmp_path / "long-1"], launcher)
        launcher.terminate()
        _, errors = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
    assert [path.name for path in (tmp_path / "launched" / "checkpoints").iterdir()] == ["step-000002"], errors
    assert both(tmp_path, "launched") == [[2, TERM]] * 2
