"""What one of two gloo processes meets alone: `two_ranks_faults.py FOLDER` is run once per rank and writes TASK-RANK.json there."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from inpo.errors import InputError
from inpo.types import PairBatch
from tests.tiny_denoiser import MemoryLoader
from tests.training_runs import settings, train

RANK = int(os.environ["RANK"])
FAILURES = {
    "picture": InputError("pairs.parquet, row 3: cannot decode the winning image"),
    "disk": OSError(5, "Input/output error", "pairs.parquet"),
    "memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. And so on."),
    "mistake": KeyError("caption"),
}


@dataclass
class FailingLoader(MemoryLoader):
    """Lets rank 1 alone meet `failure` in the third step; "death" is the end of the process, "signal" a SIGTERM before the step."""

    failure: str = ""

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """As it is, elsewhere."""
        if RANK == 1 and 16 <= min(positions) < 24:
            if self.failure == "death":
                os._exit(9)
            if self.failure in FAILURES:
                raise FAILURES[self.failure]
        return super().fetch(positions)


class SignalledSink:
    """Sends its process SIGTERM between the third step and the fourth."""

    def write(self, line: dict[str, object]) -> None:
        """After the step's collective, so that the other process cannot know."""
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        """Nothing to do."""


def attempt(folder: Path, failure: str) -> dict[str, object]:
    """A run in which rank 1 fails, and how it ended here."""
    out = folder / failure
    try:
        train(out, settings(save_every_steps=None), loader=FailingLoader(held_out=7, failure=failure))
    except Exception as error:  # all kinds are compared
        return {"kind": type(error).__name__, "message": str(error), "saved": sorted(path.name for path in out.glob("checkpoints/*"))}
    return {}


def held_out(folder: Path) -> dict[str, object]:
    """Rank 1 fails while the held-out pairs are evaluated."""
    from inpo.training.validation import Validation

    def fails(*_: object) -> torch.Tensor:
        raise FAILURES["memory"]

    original = Validation._own_sums
    if RANK == 1:
        Validation._own_sums = fails
    try:
        return attempt(folder, "held out")
    finally:
        Validation._own_sums = original


def between(folder: Path) -> dict[str, object]:
    """A signal between two steps, on the main process alone."""
    from inpo.training.fit import Callbacks

    result = train(folder / "between", callbacks=Callbacks(sinks=[SignalledSink()]))
    return {"step": result.step, "signal": result.signal}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    said = {failure: attempt(where, failure) for failure in FAILURES}
    said["held out"] = held_out(where)
    said["between"] = between(where)
    # Last: nobody is left to talk to.
    said["death"] = attempt(where, "death")
    (where / f"said-{RANK}.json").write_text(json.dumps(said))
    os._exit(0)
