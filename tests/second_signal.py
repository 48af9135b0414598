"""A run that gets a second signal while it is still busy with the first: `second_signal.py FOLDER`. It must end at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from inpo.training import stop
from inpo.types import PairBatch
from tests.tiny_denoiser import MemoryLoader
from tests.training_runs import train


class Busy(MemoryLoader):
    """Hangs in the fourth step, where two signals arrive."""

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """As it is, until then."""
        if min(positions) == 24:
            os.kill(os.getpid(), signal.SIGTERM)
            # An echo of the first signal: Ctrl-C reaches a process from its terminal and from its launcher.
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.5 * stop.ECHO_SECONDS)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(600)
        return super().fetch(positions)


if __name__ == "__main__":
    train(Path(sys.argv[1]), loader=Busy())
