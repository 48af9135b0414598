"""One process at a time in a run folder: lock.json says who. A lock whose process is gone is taken over.

Two containers that share their host's name do not share its process ids: there the kernel is asked, by the advisory lock that the owner
holds on the file for as long as it lives.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import psutil

from inpo.errors import InputError

SAME_START_SECONDS = 2.0
"""Process start times are compared within this: hosts round them differently after a clock correction."""


@dataclass(frozen=True)
class Owner:
    """Who holds a run folder. `start`: when the process began (seconds since 1970), so that a reused process id is not mistaken for it.

    `space`: where its process id means something, from `_pid_space`; empty if unknown.
    """

    pid: int
    host: str
    start: float
    space: str = ""

    @staticmethod
    def here() -> Owner:
        """This process."""
        return Owner(os.getpid(), socket.gethostname(), psutil.Process().create_time(), _pid_space())

    def is_gone(self) -> bool:
        """Whether it certainly no longer runs. Nothing is known about processes on other hosts."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            # In a container without an init, what was killed may stay a zombie for as long as the container runs.
            return bool(process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - self.start) > SAME_START_SECONDS)
        except psutil.NoSuchProcess:
            return True


def _pid_space() -> str:
    """What names this machine's processes: the pid namespace. Containers with the host's network have its name and pids of their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _alone(file: TextIO) -> bool:
    """Takes the kernel's lock on a file, until the file is closed or the process ends; whether nobody else had it.

    False where there are no such locks: then nothing is known.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


class Lock:
    """Held from creation until `release`. Raises `InputError` naming process and host if another one holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = json.dumps(asdict(Owner.here()))
        if not self._create():
            self._take_over()
        self._file = path.open()
        _alone(self._file)

    def _create(self) -> bool:
        # Linked into place with its content: a reader never sees a lock that does not say whose it is.
        draft = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        draft.write_text(self._text)
        try:
            os.link(draft, self._path)
        except FileExistsError:
            return False
        except OSError:
            return self._create_without_links()
        finally:
            draft.unlink()
        return True

    def _create_without_links(self) -> bool:
        try:
            with self._path.open("x") as file:
                file.write(self._text)
        except FileExistsError:
            return False
        return True

    def _take_over(self) -> None:
        try:
            owner = read_owner(self._path)
        except FileNotFoundError:
            owner = None
        if owner is not None and not self._is_gone(owner):
            raise InputError(
                f"{self._path.parent} is in use by process {owner.pid} on {owner.host}; wait for it, choose another folder, "
                f"or, if it is certainly dead, delete {self._path}"
            )
        if self._remove_stale() != owner or not self._create():
            raise InputError(f"{self._path.parent}: another process has just taken this folder; choose another one")

    def _is_gone(self, owner: Owner) -> bool:
        if owner.host != socket.gethostname() or owner.space in ("", _pid_space()):
            return owner.is_gone()
        try:
            with self._path.open() as file:
                return _alone(file)
        except FileNotFoundError:
            return True

    def _remove_stale(self) -> Owner | None:
        # Of several processes that find the same stale lock, one gets to rename it.
        stale = self._path.with_name(f".{self._path.name}-stale-{os.getpid()}")
        try:
            self._path.rename(stale)
        except FileNotFoundError:
            return None
        owner = read_owner(stale)
        stale.unlink()
        return owner

    def release(self) -> None:
        """Gives the folder free, if the lock is still this process's."""
        self._file.close()
        try:
            if self._path.read_text() == self._text:
                self._path.unlink()
        except FileNotFoundError:
            return


def read_owner(path: Path) -> Owner:
    """Who holds a lock. Raises `InputError` if the file does not say, `FileNotFoundError` if there is none."""
    try:
        owner = Owner(**json.loads(path.read_text()))
        return Owner(int(owner.pid), str(owner.host), float(owner.start), str(owner.space))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} does not say who holds it ({error}); if nobody does, delete it") from error
