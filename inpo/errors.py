"""What a user can get wrong, said in one line that names the place, the value found, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input or configuration, found at the entrance. The command line prints the message and exits with 2."""


class RunFault(RuntimeError):
    """A fault while running that stopped the program on purpose (non-finite values, a full disk). Exit code 1."""


class Interrupted(KeyboardInterrupt):
    """A run that SIGINT or SIGTERM (`signal`) ended early; its last completed step is saved, so that it can be continued.

    Not `resumable`: it had no step of its own yet, and the earlier run that it was to replace is there again.
    A `KeyboardInterrupt`, so that a script stops where it stands instead of going on with half a model.
    """

    def __init__(self, signal: int, step: int, *, resumable: bool = True) -> None:
        where = f"after step {step}; the last completed step is saved" if step else "before the first step; the untrained start is saved"
        if not resumable:
            where = "before the first step; nothing is saved, and the earlier run is as it was"
        super().__init__(f"interrupted by signal {signal} {where}")
        self.signal, self.resumable = signal, resumable


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint naming the most similar choice, with a leading space, or an empty string where nothing is similar."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
