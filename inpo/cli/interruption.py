"""What a command says when it is interrupted: what is kept, and how to go on."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer


def interrupted(what: str, number: int, advice: str) -> typer.Exit:
    """Says what was interrupted and how to go on; the exit that a shell expects of a signal."""
    print(f"{what}; {advice}", file=sys.stderr)
    return typer.Exit(128 + number)


@contextmanager
def interruptible(advice: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C before or after training, which answers for itself: one line and exit code 130 instead of silence."""
    try:
        yield
    except KeyboardInterrupt:
        raise interrupted("interrupted", signal.SIGINT, advice()) from None


def outside_training(command: list[str], out: Path, *, force: bool) -> str:
    """For a run that loads its model, or saves its result: nothing of a step is under way then."""
    if any((out / "checkpoints").glob("step-*")) and not force:
        return f"the checkpoints in {out} are whole; continue with: {shlex.join([*command, '--resume', 'latest'])}"
    forced = ["--force"] if force else []
    return f"no step was trained, so there is nothing to save; start again with: {shlex.join([*command, *forced])}"


def pictures_kept(out: Path) -> str:
    """For a command that makes pictures, as it was typed: they are made one by one and kept."""
    again = shlex.join(["inpo", *(word for word in sys.argv[1:] if word != "--force")])
    return f"{len(list(out.rglob('*.png')))} pictures are kept in {out}; go on with: {again}"
