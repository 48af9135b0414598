"""SIGINT and SIGTERM: drop the step that is under way, save the last complete one, and leave. A second signal leaves at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ECHO_SECONDS = 1.0
"""Signals this close together are one wish: on Ctrl-C both the terminal and the launcher tell every process."""


class StepDropped(Exception):
    """Raised inside a step that an interruption ends early. Weights are those of the last complete step. `signal`: what ended it."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


class Stop:
    """Remembers the first signal that this process got. `signal`: its number, or 0. Other processes may not have got it."""

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._droppable = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles both signals inside and restores the handlers after. Does nothing outside the main thread, where Python has no say."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        if not self.signal:
            self.signal, self._since = number, now
        elif now - self._since > ECHO_SECONDS:
            os._exit(128 + number)

    @contextmanager
    def droppable(self) -> Iterator[None]:
        """Inside, `check` may end the step: nothing has been changed yet that a checkpoint would hold."""
        self._droppable = True
        try:
            yield
        finally:
            self._droppable = False

    def check(self) -> None:
        """Raises `StepDropped` once a signal has come, where dropping is safe."""
        if self.signal and self._droppable:
            raise StepDropped(self.signal)
