"""What two gloo processes do that one cannot show: `two_ranks.py FOLDER` is run once per rank and writes TASK-RANK.json there."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.distributed_c10d import _get_default_group

from inpo.data import index
from inpo.data.config import DataConfig
from inpo.data.sources import ParquetPairs
from inpo.errors import InputError, RunFault
from inpo.methods import method
from inpo.noising import Inversion
from inpo.training import distributed
from inpo.training.distributed import on_main
from inpo.types import PairBatch
from tests.tiny_denoiser import MemoryLoader, tiny_subject
from tests.training_runs import SETTINGS, final_bytes, first_steps, gradient, settings, train, trainer
from tests.unit.data.making import row, write

RANK = int(os.environ["RANK"])
COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "barrier", "broadcast", "broadcast_object_list", "gather",
)  # fmt: skip


@dataclass
class BrokenLoader(MemoryLoader):
    """Gives rank 1 a pair with a NaN from the third step on, or from another position."""

    broken_from: int = 16

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """As the loader it is, but for one number."""
        pairs = super().fetch(positions)
        if RANK == 1 and min(positions) >= self.broken_from:
            pairs.win[1, 0, 0, 0] = float("nan")
        return pairs


def gradients(folder: Path) -> object:
    """The gradient of one step in both precisions, cut in two ways, and added up in several buckets."""
    whole, distributed.BUCKET_NUMBERS = distributed.BUCKET_NUMBERS, 300
    for name, dtype in (("fp64", torch.float64), ("fp32", torch.float32)):
        save_file(gradient("inpo", dtype, micro_batch_pairs=5, inversion_batch_pairs=3), folder / f"{name}-{RANK}.safetensors")
    distributed.BUCKET_NUMBERS = whole
    # 7 pairs on two processes: one has a pair more.
    made = trainer(use=settings(pairs_per_step=7, micro_batch_pairs=2))
    shared = replace(method("inpo"), noising=Inversion(times_per_trajectory=4))
    return {
        "uneven": made.step_once(0).line["grad_norm"], "n": len(made.gradient.points(1).pairs),
        "kto": first_steps("diffusion-kto"), "shared walks": first_steps(shared),
    }  # fmt: skip


def collectives(folder: Path) -> object:
    """How often each collective is called in three steps."""
    calls: dict[str, int] = {}

    def counting(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            calls[name] = calls.get(name, 0) + 1
            return original(*arguments, **named)

        return call

    made = trainer()
    for name in COLLECTIVES:
        setattr(torch.distributed, name, counting(name, getattr(torch.distributed, name)))
    for step in range(3):
        made.step_once(step)
    return calls


def fault(folder: Path) -> object:
    """A NaN on one rank stops both before the optimiser moves."""
    subject = tiny_subject()
    try:
        train(folder / "fault", loader=BrokenLoader(held_out=7), subject=subject)
    except RunFault as error:
        return {"message": str(error), "checkpoints": sorted(path.name for path in (folder / "fault" / "checkpoints").iterdir())}
    return None


def stopped(folder: Path) -> object:
    """SIGTERM on rank 1 alone makes both drop the step; resuming finishes as if nothing had happened."""

    result = train(folder / "stopped", loader=SignallingLoader(held_out=7))
    train(folder / "stopped", resume="latest")
    train(folder / "whole")
    same = RANK != 0 or final_bytes(folder / "stopped", 6) == final_bytes(folder / "whole", 6)
    return {"step": result.step, "signal": result.signal, "same": same}


class SignallingLoader(MemoryLoader):
    """Sends its own process SIGTERM during the third step, on rank 1."""

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """As the loader it is."""
        if RANK == 1 and 16 <= min(positions) < 24:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().fetch(positions)


def replacing(folder: Path) -> object:
    """A replacement that fails in its first step leaves the earlier run on both ranks; one that does not, replaces it."""

    def seen() -> list[str]:
        torch.distributed.barrier()
        names = sorted(path.name for place in ("", "checkpoints") for path in (folder / "replacing" / place).iterdir())
        torch.distributed.barrier()
        return names

    train(folder / "replacing", settings(steps=3))
    before = seen()
    try:
        train(folder / "replacing", loader=BrokenLoader(broken_from=0), force=True)
    except RunFault:
        after = seen()
    train(folder / "replacing", settings(steps=4), force=True)
    return {"kept": before == after, "replaced": seen()}


def opening(folder: Path) -> object:
    """The main process examines the rows; the others read the list that it kept."""
    examined, scan = [], index.scan
    index.scan = lambda *arguments, **named: examined.append(len(arguments)) or scan(*arguments, **named)
    config = DataConfig(str(folder / "pairs.parquet"), max_rejected_fraction=0.5)
    if RANK == 0:
        write(Path(config.path), [row(i, **({"caption": ""} if i == 5 else {})) for i in range(6)])

    def build() -> None:
        ParquetPairs.open(config, folder=folder / "opened")

    on_main(build)
    found = ParquetPairs.open(config, folder=folder / "opened")
    patience = _get_default_group()._get_backend(torch.device("cpu")).options._timeout
    return {"scans": len(examined), "size": found.size, "fingerprint": found.fingerprint, "hours": patience.total_seconds() / 3600}


def refusals(folder: Path) -> object:
    """What only the main process finds out is raised on every process."""

    def refuse() -> None:
        raise InputError("only rank 0 saw this")

    found = []
    for attempt in (lambda: on_main(refuse), lambda: trainer(use=replace(SETTINGS, train=replace(SETTINGS.train, pairs_per_step=1)))):
        try:
            attempt()
        except InputError as error:
            found.append(str(error))
    return found


if __name__ == "__main__":
    where = Path(sys.argv[1])
    for task in (gradients, collectives, fault, stopped, replacing, opening, refusals):
        (where / f"{task.__name__}-{RANK}.json").write_text(json.dumps(task(where)))
    torch.distributed.destroy_process_group()
