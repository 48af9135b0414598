"""A run that is killed ten times and resumed, in processes that are really killed: `killed_runs.py FOLDER`.

This process loads torch once and forks a child for every attempt. A child tells through a pipe what it is doing: a byte a
step, and one inside a save, where it then waits to be killed. It is killed as soon as the byte is read, so at any moment of
what it does next, and does not get further than a step ahead, however fast it is. Prints a JSON list of how each attempt ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from inpo.errors import InputError
from inpo.training import checkpoint
from inpo.training.fit import Callbacks
from inpo.training.snapshot import Snapshot
from tests.tiny_denoiser import MemoryLoader
from tests.training_runs import OPTIMIZER, settings, train

# 4 pairs a step in epochs of 14: an epoch ends in every fourth step.
USE = settings(replace(OPTIMIZER, schedule="cosine"), steps=40, pairs_per_step=4, save_every_steps=3, average_decay=0.9)
LOADER = MemoryLoader(14, held_out=3)
STEP, SAVING = b".", b"s"
PLACES = ("while files are written", "before the manifest", "after the rename, before the rotation")
PLAN: tuple[int | str, ...] = (2, PLACES[1], 5, 1, PLACES[0], 4, 3, PLACES[2], 2, 1)
"""Where each attempt is killed: after so many steps of its own, or inside its next save. Together they save 21 of the 40 at most."""


class Teller:
    """A sink that says through the pipe that a step is complete, and waits for ever after `most` of them."""

    def __init__(self, pipe: int, most: int | None) -> None:
        self.pipe, self.most, self.told = pipe, most, 0

    def write(self, line: Mapping[str, object]) -> None:
        """One byte."""
        os.write(self.pipe, STEP)
        self.told += 1
        if self.told == self.most:
            time.sleep(600)

    def close(self) -> None:
        """The pipe ends with the process."""


def wait_inside_a_save(place: str, pipe: int) -> None:
    """Makes the next save stop at `place` for ever."""

    def wait(*ignored: object, **options: object) -> None:
        os.write(pipe, SAVING)
        time.sleep(600)

    if place == PLACES[0]:
        write = Snapshot.write

        def half(self: Snapshot, folder: Path, step: int, config: Mapping[str, object], watch: Mapping[str, object]) -> None:
            write(self, folder, step, config, watch)
            os.truncate(folder / "optimizer.safetensors", 1000)
            wait()

        Snapshot.write = half
    elif place == PLACES[1]:
        checkpoint._seal = wait
    else:
        checkpoint.rotate = wait


def attempt(out: Path, pipe: int, until: int | str | None) -> None:
    """The child: resumes, or starts where nothing has been saved yet."""
    if isinstance(until, str):
        wait_inside_a_save(until, pipe)
    callbacks = Callbacks(sinks=[Teller(pipe, until + 1 if isinstance(until, int) else None)])
    try:
        train(out, USE, loader=LOADER, callbacks=callbacks, resume="latest" if out.is_dir() else None)
    except InputError as error:
        if "no complete checkpoint" not in str(error):
            raise
        train(out, USE, loader=LOADER, callbacks=callbacks, force=True)


def run_child(out: Path, until: int | str | None) -> str:
    """Forks an attempt and kills it after so many steps, or inside a save, or lets it end; returns how it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            attempt(out, writer, until)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    os.close(writer)
    steps = 0
    while until is not None and steps != until:
        told = os.read(reader, 1)
        steps += told == STEP
        if not told or told == SAVING:
            break
    if until is not None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    ended = "killed" if os.WIFSIGNALED(status) else str(os.waitstatus_to_exitcode(status))
    return f"{ended} {until}" if isinstance(until, str) else ended


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    # Also loads, once for all children, what torch and accelerate load at their first use.
    train(folder / "whole", USE, loader=LOADER)
    print(json.dumps([run_child(folder / "killed", until) for until in (*PLAN, None)]))
