"""Where a step's numbers go: metrics.jsonl and a progress bar (`trackers` has others). And how the work that made them is counted."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, TextIO

import torch
from torch import Tensor, nn

from inpo.errors import RunFault
from inpo.files import replacing

Line = Mapping[str, object]
QUIET_SECONDS = 30.0
"""Seconds between progress lines where nobody watches a terminal."""


class Sink(Protocol):
    """Gets each line of metrics.jsonl, on the main process only."""

    def write(self, line: Line) -> None: ...

    def close(self) -> None: ...


class MetricsFile:
    """metrics.jsonl: one JSON object a line, appended, there at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def write(self, line: Line) -> None:
        """Appends one line. Raises `RunFault` if the disk refuses."""
        left = memoryview((json.dumps(line, allow_nan=False) + "\n").encode())
        try:
            # Without a buffer, a disk that has room for a part of the line takes that part and says so; the next write is the error.
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise RunFault(f"{self._path}: step {line['step']} could not be written: {error}") from error

    def amend(self, step: int, more: Line) -> Line | None:
        """Adds entries to the last line, in one move, if it is of this step. Returns that line as it is now."""
        lines = self._path.read_text(encoding="utf-8").splitlines()
        last = json.loads(lines[-1]) if lines else {}
        if last.get("step") != step:
            return None
        line = {**last, **more}
        self._file.close()
        try:
            _rewrite(self._path, [*lines[:-1], json.dumps(line, allow_nan=False)])
        finally:
            self._file = self._path.open("ab", buffering=0)
        return line

    def sync(self) -> None:
        """Waits until every line is on the disk: a checkpoint must not outlive the lines before it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def cut_metrics(path: Path, step: int) -> None:
    """Drops the lines after `step`, and a last line that a killed process left half written. At step 0 all go: a run begins there."""
    if not path.is_file():
        return
    kept = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if _is_up_to(line, step)]
    _rewrite(path, kept)


def _rewrite(path: Path, lines: Sequence[str]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def _is_up_to(line: str, step: int) -> bool:
    try:
        return step > 0 and int(json.loads(line)["step"]) <= step
    except (ValueError, TypeError, KeyError):
        return False


class Progress:
    """A bar with the time left on a terminal; elsewhere a line every half minute, and one at the end.

    The first step of a process also pays for what is set up once, so it says nothing about how long the others will take.
    """

    def __init__(self, steps: int, *, start: int = 0, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._start, self._clock = steps, start, clock
        self._stream = stream or sys.stderr
        self._last = clock()
        self._timed: tuple[int, float] | None = None
        self._terminal = self._stream.isatty()
        self._bar: Callable[[int, str], None] | None = None

    def _start_bar(self) -> Callable[[int, str], None]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        bar = Bar(TextColumn("training"), *columns, console=Console(file=self._stream))
        task = bar.add_task("", total=self._steps, completed=self._start)
        bar.start()
        self._stop = bar.stop

        def update(step: int, text: str) -> None:
            bar.update(task, completed=step, description=text)

        return update

    def write(self, line: Line) -> None:
        """Shows one step."""
        step, text = int(str(line["step"])), _summary(line)
        if self._terminal:
            # Not before there is something to show: a bar hides the cursor, and only `close` gives it back.
            self._bar = self._bar or self._start_bar()
            self._bar(step, text)
            return
        now = self._clock()
        if now - self._last >= QUIET_SECONDS or step == self._steps or "stopped" in line:
            print(f"step {step}/{self._steps}  {text}{self._left(step, now)}", file=self._stream, flush=True)
            self._last = now
        if self._timed is None and step > self._start:
            self._timed = step, now

    def _left(self, step: int, now: float) -> str:
        if self._timed is None:
            return ""
        first, since = self._timed
        return f"  about {(now - since) / (step - first) * (self._steps - step) / 60:.1f} min left"

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar:
            self._stop()


def _summary(line: Line) -> str:
    shown = (("loss", "loss"), ("implicit_accuracy", "accuracy"), ("pairs_per_second", "pairs/s"))
    return "  ".join(f"{label} {float(str(line[key])):.3g}" for key, label in shown if line.get(key) is not None)


class ForwardCounter:
    """Counts images that went forward through modules: `counter.images` grows by the batch size at every call of one of them."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.images = 0
        self._hooks = ExitStack()
        for module in dict.fromkeys(modules):
            self._hooks.callback(module.register_forward_hook(self._count).remove)

    def _count(self, module: nn.Module, arguments: tuple[object, ...], output: Tensor) -> None:
        del module, arguments
        self.images += len(output)

    def close(self) -> None:
        """Takes the hooks off again."""
        self._hooks.close()


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has held so far: on a GPU what torch allocated there, else resident memory (0 where unknown)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
