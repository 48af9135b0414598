"""`--jobs`: further processes on this machine that make cells of the same comparison, and stop when the first one has ended.

Each is told what to do on its standard input, which the first process holds open: that it closes is the sign to stop, however the first
process came to its end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inpo.console import say

PATIENCE = 15.0
"""Seconds that a further process has to find that all is made."""

THREADS, GPUS = "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Share:
    """Of what the machine has, what one of `jobs` processes may use: an equal part of `cores`, and one of `gpus` in turn."""

    jobs: int
    cores: int
    gpus: int

    @property
    def threads(self) -> int:
        """For each process."""
        return max(1, self.cores // self.jobs)

    def environment(self, number: int, known: Mapping[str, str]) -> dict[str, str]:
        """For process `number`, 0 the first. A number of threads that the user has set stays."""
        found = {THREADS: str(self.threads), **known}
        if self.gpus > 1:
            visible = [name for name in known.get(GPUS, "").split(",") if name] or [str(i) for i in range(self.gpus)]
            found[GPUS] = visible[number % self.gpus]
        return found


@contextmanager
def helped(jobs: int, work: Path, order: Mapping[str, object]) -> Iterator[None]:
    """While the body runs, `jobs` − 1 further processes make cells as `order` says; what they say goes to files in `work`.

    A process that breaks off costs time and nothing else: the others take up its cell where it was saved.
    """
    if jobs == 1:
        yield
        return
    share, threads = Share(jobs, _cores(), torch.cuda.device_count()), torch.get_num_threads()
    work.mkdir(parents=True, exist_ok=True)
    helpers = [_Helper(work / f"process-{number + 1}.log", share.environment(number, os.environ)) for number in range(1, jobs)]
    say("\n".join(["further processes say what they do in", *(str(helper.log) for helper in helpers)]))
    if THREADS not in os.environ:
        torch.set_num_threads(share.threads)
    try:
        for helper in helpers:
            helper.begin(order)
        yield
        # They find that nothing is left, and tidy up.
        for helper in helpers:
            helper.wait(PATIENCE)
    finally:
        torch.set_num_threads(threads)
        # All are told before one is waited for: each finishes a step and saves it.
        for helper in helpers:
            helper.tell()
        for helper in helpers:
            helper.wait()
            helper.conclude()


class _Helper:
    """A process that makes cells until it is told to stop. In a group of its own: Ctrl-C reaches it through the first process alone."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("w", encoding="utf-8") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import main; main()"], env=dict(environment), stdin=subprocess.PIPE, stdout=said,
                stderr=subprocess.STDOUT, text=True, process_group=0 if os.name == "posix" else None,
            )  # fmt: skip

    def begin(self, order: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            print(json.dumps(order), file=self._process.stdin, flush=True)

    def tell(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self, seconds: float | None = None) -> None:
        """Until it has ended, or so long."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def conclude(self) -> None:
        """Its log goes, unless it broke off."""
        if (code := self._process.returncode) == 0:
            self.log.unlink(missing_ok=True)
        else:
            say(f"a further process broke off with exit code {code}: {self.log}")


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _follow(first: int) -> None:
    """Waits for the end of the input, a file descriptor, and then interrupts this process as Ctrl-C would."""
    # Not through sys.stdin, whose lock a thread that waits would hold when the interpreter ends.
    while os.read(first, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """What a further process does: cells, until none is left or the first process has ended."""
    from inpo.comparing.job import Choice, make_cells
    from inpo.comparing.spec import load_comparison

    order: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_follow, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        make_cells(load_comparison(order["source"], quick=order["quick"]), Path(order["out"]), Choice(**order["choice"]))
    except KeyboardInterrupt as stop:
        say(f"stopped; {stop}")
