"""Signals that reach one of two gloo processes, or both at different moments: `two_ranks_signals.py FOLDER`, run once per rank.

Writes TASK-RANK.json there. Started by torch's launcher as `two_ranks_signals.py FOLDER launched`, it makes one run whose third step is
long, and says so by a file `long-RANK`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from inpo.errors import InputError, RunFault
from inpo.training.fit import Callbacks, FitResult
from inpo.training.subject import Subject
from tests.tiny_denoiser import MemoryLoader, tiny_subject
from tests.training_runs import final_bytes, settings, train
from tests.two_ranks_faults import FailingLoader

RANK = int(os.environ["RANK"])
RUNS = 12
LONG_STEP = 90.0


def send(number: int = signal.SIGTERM) -> None:
    """To this process."""
    os.kill(os.getpid(), number)


def at_call(moment: int | None, act: Callable[[], None] = send) -> tuple[Subject, list[int]]:
    """A subject whose policy acts when it is asked for the `moment`-th time, and the sizes of the batches that it answered."""
    subject, answered = tiny_subject(), []

    def before(*_: object) -> None:
        if len(answered) == moment:
            act()

    # First in the queue, so that the trainer's own check finds the signal in the same call.
    subject.policy.register_forward_pre_hook(before)
    subject.policy.register_forward_hook(lambda module, inputs, output: answered.append(len(output)))
    return subject, answered


def ended(result: FitResult) -> tuple[int, int | None]:
    """At which step, by which signal."""
    return result.step, result.signal


def anywhere(folder: Path) -> object:
    """Runs that are signalled at random calls of the policy, on one rank or on both. How each ended, and whether its continuation is the
    run that was not cut."""
    moments, ends = random.Random(7), []
    use = settings(save_every_steps=None)
    whole, calls = at_call(None)
    train(folder / "whole", use, subject=whole)
    for run in range(RUNS):
        both = [moments.randrange(len(calls)) if run % 3 != other else None for other in range(2)]
        result = train(folder / f"{run}", use, subject=at_call(both[RANK])[0])
        if result.step < 6:
            train(folder / f"{run}", use, resume="latest")
        same = RANK != 0 or final_bytes(folder / f"{run}", 6) == final_bytes(folder / "whole", 6)
        ends.append([*ended(result), same])
    return ends


def share(folder: Path) -> object:
    """Rank 1 is signalled at its first call in the third step: how many pictures each rank's network still answered."""
    subject, counted = at_call(None)
    train(folder / "two", settings(steps=2), loader=MemoryLoader(), subject=subject)
    subject, answered = at_call(len(counted) if RANK == 1 else None)
    result = train(folder / "share", loader=MemoryLoader(), subject=subject)
    return {"end": ended(result), "more": sum(answered) - sum(counted)}


def agreed(folder: Path) -> object:
    """The signal comes when rank 1 has given its numbers of the third step: that step is complete, the fourth is not begun."""
    original, calls = torch.distributed.all_gather, []

    def gathering(*arguments: object) -> object:
        calls.append(1)
        if RANK == 1 and len(calls) == 3:
            send()
        return original(*arguments)

    torch.distributed.all_gather = gathering
    try:
        return ended(train(folder / "agreed", loader=MemoryLoader()))
    finally:
        torch.distributed.all_gather = original


def entrance(folder: Path) -> object:
    """Before the first step: while rank 1 evaluates the held-out pairs, and while rank 0 draws pictures."""
    subject, _ = at_call(1 if RANK == 1 else None)
    held_out = train(folder / "held-out", loader=MemoryLoader(held_out=12), subject=subject)
    drawing = tiny_subject()

    def draw(step: int) -> None:
        send()
        pairs = MemoryLoader().fetch([0])
        drawing.policy(pairs.win, torch.tensor([5]), pairs.condition)

    pictures = train(folder / "pictures", settings(sample_every_steps=2), subject=drawing, callbacks=Callbacks(sample=draw))
    return [ended(held_out), ended(pictures)]


def rescued(folder: Path) -> object:
    """Rank 1 meets a fault, and the main process takes its time to save: by fault, what is there when each rank leaves."""
    return {failure: _rescued(folder / failure, failure) for failure in ("picture", "mistake")}


def _rescued(out: Path, failure: str) -> list[str]:
    subject = tiny_subject()

    def save(target: Path) -> None:
        time.sleep(1.5)
        subject.save_policy(target)

    use, loader = settings(save_every_steps=None), FailingLoader(held_out=7, failure=failure)
    try:
        train(out, use, loader=loader, subject=replace(subject, save_policy=save))
    except (InputError, RunFault, KeyError):
        return [path.parent.name for path in out.glob("checkpoints/step-*/manifest.json")]
    return []


def launched(folder: Path) -> object:
    """A run with a third step of `LONG_STEP` seconds on each rank, in many short calls."""
    counted = at_call(None)
    train(folder / "two", settings(steps=2), loader=MemoryLoader(), subject=counted[0])
    subject, answered = at_call(None)

    def slow(*_: object) -> None:
        if len(answered) >= len(counted[1]):
            (folder / f"long-{RANK}").touch()
            time.sleep(LONG_STEP * 2 / len(counted[1]))

    subject.policy.register_forward_pre_hook(slow)
    return ended(train(folder / "launched", settings(save_every_steps=None), loader=MemoryLoader(), subject=subject))


if __name__ == "__main__":
    where = Path(sys.argv[1])
    for task in (launched,) if sys.argv[2:] else (anywhere, share, agreed, entrance, rescued):
        (where / f"{task.__name__}-{RANK}.json").write_text(json.dumps(task(where)))
    torch.distributed.destroy_process_group()
