"""Signals to one of two gloo processes inside a look or pictures: `two_ranks_looks.py FOLDER`, run once per rank, writes ends-RANK.json."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from inpo.training.fit import Callbacks
from inpo.training.validation import Validation
from tests.tiny_denoiser import MemoryLoader, tiny_subject
from tests.training_runs import final_bytes, metrics, settings, train

RANK = int(os.environ["RANK"])
LOOKS = settings(validate_every_steps=2, save_every_steps=None)
PICTURES = settings(sample_every_steps=3, save_every_steps=None)


def loader() -> MemoryLoader:
    """Two batches are held out for each rank."""
    return MemoryLoader(held_out=20)


def send() -> None:
    """SIGTERM to this process."""
    os.kill(os.getpid(), signal.SIGTERM)


def look(out: Path, who: int) -> list[object]:
    """Rank `who` gets a signal in the look at step 4: where both end, and whether what follows is the run that was not cut."""
    original, looks = Validation._own_sums, []

    def sums(self: Validation, *arguments: torch.Tensor) -> torch.Tensor:
        looks.append(1)
        if who == RANK and len(looks) == 3:
            send()
        return original(self, *arguments)

    Validation._own_sums = sums
    try:
        result = train(out / "cut", LOOKS, loader=loader())
    finally:
        Validation._own_sums = original
    train(out / "cut", LOOKS, loader=loader(), resume="latest")
    train(out / "whole", LOOKS, loader=loader())
    torch.distributed.barrier()
    same = final_bytes(out / "cut", 6) == final_bytes(out / "whole", 6) and metrics(out / "cut") == metrics(out / "whole")
    return [result.step, result.signal, same]


def pictures(out: Path) -> list[object]:
    """The main process gets a signal in the pictures of step 3. Where both end, and whether pictures are drawn again."""
    subject, drawn = tiny_subject(), []

    def draw(step: int) -> None:
        if step == 3 and not out.with_suffix(".again").exists():
            send()
        pairs = MemoryLoader().fetch([0])
        subject.policy(pairs.win, torch.tensor([5]), pairs.condition)
        drawn.append(step)

    result = train(out, PICTURES, loader=loader(), subject=subject, callbacks=Callbacks(draw))
    out.with_suffix(".again").touch()
    train(out, PICTURES, loader=loader(), subject=subject, callbacks=Callbacks(draw), resume="latest")
    return [result.step, result.signal, drawn == ([0, 3, 6] if RANK == 0 else [])]


if __name__ == "__main__":
    where = Path(sys.argv[1])
    ends = {f"look of {who}": look(where / f"{who}", who) for who in range(2)} | {"pictures": pictures(where / "pictures")}
    (where / f"ends-{RANK}.json").write_text(json.dumps(ends))
    # Neither leaves while the other may still be asking it for something.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
