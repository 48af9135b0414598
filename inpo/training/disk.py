"""What a disk refuses, said with the place and the numbers."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from inpo.errors import RunFault

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def reporting(place: Path) -> Iterator[None]:
    """Inside, what the system refuses becomes a `RunFault` that names the file, or `place` where the system names none."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        named = error.filename if isinstance(error, OSError) else None
        where = Path(named) if isinstance(named, str) else place
        what = f"the disk is full ({error}); {free(place):,} bytes are free" if is_full(error) else str(error)
        raise RunFault(f"{where}: {what}; checkpoints are untouched: mend it and continue with --resume latest") from error


def is_full(error: Exception) -> bool:
    """Whether there is no room left: on the disk, in a quota, or below a file's largest size."""
    return _error_number(error) in _FULL


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors says in words what the system told it.
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def free(place: Path) -> int:
    """Bytes free where `place` is, or will be."""
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
