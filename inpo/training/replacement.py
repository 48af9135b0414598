"""`--force`: an earlier run is moved aside, and deleted only when the new one has trained and is about to save.

Wherever a process dies, the next one that takes the folder finds the earlier run again: moving it aside counts only after a last
rename (`ASIDE`), before which it is merely moved back, and deleting it begins with another one (`DOOMED`), after which it is gone.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MOVING, ASIDE, DOOMED = ".replacing", ".replaced", ".discarded"
REJECTED, REFUSED = "rejected.jsonl", "rejected-refused.jsonl"
"""The rows for which a run was refused are still wanted after the earlier run, with its own list, is back."""


@dataclass(frozen=True)
class Replacement:
    """The entries of `folder` that belong to a run, in the order in which they may be moved away."""

    folder: Path
    contents: Sequence[str]

    @property
    def pending(self) -> bool:
        """Whether an earlier run lies aside, undecided."""
        return (self.folder / ASIDE).is_dir()

    @property
    def bytes(self) -> int:
        """What deleting the earlier run will free."""
        return sum(path.stat().st_size for path in (self.folder / ASIDE).rglob("*") if path.is_file() and not path.is_symlink())

    def set_aside(self) -> None:
        """Makes room for a new run, revocably. Does nothing where there is no earlier one."""
        present = self._present(self.folder)
        if not present:
            return
        moving = self.folder / MOVING
        moving.mkdir()
        for name in present:
            (self.folder / name).rename(moving / name)
        moving.rename(self.folder / ASIDE)

    def restore(self) -> None:
        """Puts an earlier run back, whatever was written in its place, and finishes what dying processes left half done."""
        self._delete_doomed()
        if self.pending:
            self._clear()
            (self.folder / ASIDE).rename(self.folder / MOVING)
            print(f"{self.folder}: the earlier run is left as it was", file=sys.stderr)
        moving = self.folder / MOVING
        if moving.is_dir():
            for name in self._present(moving):
                (moving / name).rename(self.folder / name)
            moving.rmdir()

    def settle(self) -> None:
        """Deletes the earlier run, or warns that it cannot. Raises `OSError` if the decision itself cannot be written down."""
        if self.pending:
            (self.folder / ASIDE).rename(self.folder / DOOMED)
            self._delete_doomed()

    def _delete_doomed(self) -> None:
        try:
            _delete(self.folder / DOOMED)
        except OSError as error:
            warnings.warn(f"{self.folder / DOOMED} could not be deleted ({error}); delete it by hand", stacklevel=3)

    def _clear(self) -> None:
        listed, before = self.folder / REJECTED, self.folder / ASIDE / REJECTED
        if listed.is_file() and listed.read_bytes() not in (b"", before.read_bytes() if before.is_file() else b""):
            kept = listed.replace(self.folder / ASIDE / REFUSED)
            print(f"the rows that were rejected this time are listed in {self.folder / kept.name}", file=sys.stderr)
        for name in self._present(self.folder):
            _delete(self.folder / name)

    def _present(self, folder: Path) -> list[str]:
        return [name for name in self.contents if (folder / name).exists() or (folder / name).is_symlink()]


def _delete(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
