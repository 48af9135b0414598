"""What a disk refuses outside training, which tells it itself: one line with the place, and no traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from inpo.errors import RunFault

OUT: ContextVar[Path | None] = ContextVar("OUT", default=None)
"""The `--out` of the command that is running."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE}
"""Never a fault of the program."""


@contextmanager
def disk_told() -> Iterator[None]:
    """Inside, what the system refuses becomes a `RunFault` of one line. Any other `OSError` is the program's own and stays."""
    try:
        yield
    except OSError as error:
        fault = refusal(error, OUT.get())
        if fault is None:
            raise
        raise fault from error


def refusal(error: OSError, out: Path | None) -> RunFault | None:
    """What to say of it; None where it is not the disk's, or the user's choice of a place."""
    names = [Path(name) for name in (error.filename, error.filename2) if isinstance(name, str)]
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        place = names[0] if names else out
        return RunFault(f"{place or 'a file'}: the disk is full ({reason}): make room and type the same command again")
    on_way = [name for name in names if out is not None and _leads_to(name, out)]
    if on_way:
        return RunFault(f"{on_way[-1]} cannot be written ({reason}): choose another --out than {out}")
    return RunFault(f"{names[0]}: the system refuses it ({reason})") if names and error.errno in _REFUSED else None


def _leads_to(place: Path, out: Path) -> bool:
    """Whether `place` is `out`, above it, or something beside or in it that has no folder to be in."""
    place, out = place.absolute(), out.absolute()
    if place == out or place in out.parents:
        return True
    return out.parent in place.parents and not place.parent.is_dir()
