"""Where a run's lines go: metrics.jsonl, and whatever else was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from inpo.errors import RunFault
from inpo.training.disk import reporting
from inpo.training.metrics import Line, MetricsFile, Sink


class Ledger:
    """The sinks of a run in `folder`, metrics.jsonl first. Before `open`, and on processes that never open it, nothing is written.

    What the system refuses is a `RunFault`.
    """

    def __init__(self, folder: Path, sinks: Sequence[Sink]) -> None:
        self._folder, self._sinks = folder, sinks
        self._file: MetricsFile | None = None

    def open(self, metrics: Path) -> None:
        """From here on lines are appended to this file."""
        self._file = MetricsFile(metrics)

    def tell(self, line: Line) -> None:
        """Gives a line to all."""
        if self._file:
            with reporting(self._folder):
                for sink in (self._file, *self._sinks):
                    sink.write(line)

    def amend(self, step: int, more: Mapping[str, object]) -> None:
        """Adds entries to the last line, and tells it to the other sinks again. Does nothing where that line is not of this step."""
        if not self._file:
            return
        with reporting(self._folder):
            line = self._file.amend(step, more)
            if line is None:
                return
            for sink in self._sinks:
                sink.write(line)

    def sync(self) -> None:
        """Waits until every line of metrics.jsonl is on the disk."""
        if self._file:
            self._file.sync()

    def close(self, *, quietly: bool) -> None:
        """Closes all. `quietly`: another fault ends the run; what is written when a file closes may fail for the same reason."""
        try:
            with reporting(self._folder), ExitStack() as closing:
                for sink in (*((self._file,) if self._file else ()), *self._sinks):
                    closing.callback(sink.close)
        except RunFault:
            if not quietly:
                raise
