"""The folder that annotations speak of: nothing outside of it is ever opened, and nothing but pictures is taken from it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from inpo.data.images import BrokenImage, decode
from inpo.data.pairs import Fault, short
from inpo.errors import InputError

MAX_FILE_BYTES = 256 << 20
_KEPT_BYTES = 64 << 20
_REMEMBERED = 4096


class PictureFolder:
    """Pictures by their paths in annotations. Raises `InputError` where there is no such folder."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"--images {root}: there is no such folder; it must hold the pictures that the annotations name")
        self._root = root.resolve()
        # Rows of one prompt follow one another and name the same pictures again.
        self._known = lru_cache(_REMEMBERED)(self._examine)
        self._kept: dict[str, bytes] = {}

    def fault(self, path: str, field: str) -> Fault | None:
        """What keeps the picture from being trained on, None for nothing. The whole picture is decoded. Safe in threads."""
        found = self._known(path)
        return None if found is None else Fault(field, *found)

    def read(self, path: str) -> bytes:
        """The file's bytes; the latest are kept. Raises `InputError` where the file is no longer there."""
        data = self._kept.pop(path, None)
        if data is None:
            try:
                data = self._place(path).read_bytes()
            except (OSError, _Refused) as error:
                raise InputError(f"{self._root / path}: was there and cannot be read now ({error})") from None
        self._kept[path] = data
        while sum(map(len, self._kept.values())) > _KEPT_BYTES and len(self._kept) > 1:
            del self._kept[next(iter(self._kept))]
        return data

    def _examine(self, path: str) -> tuple[str, str] | None:
        try:
            decode(self._place(path).read_bytes())
        except _Refused as error:
            return str(error), short(path)
        except OSError as error:
            return f"cannot be read: {error.strerror}", short(path)
        except BrokenImage as error:
            return error.reason, f"{short(path)}" + (f", {error.found}" if error.found else "")
        return None

    def _place(self, path: str) -> Path:
        """The file, which lies in the folder whatever links say."""
        if ".." in PurePosixPath(path).parts or path.startswith("/") or PureWindowsPath(path).anchor:
            raise _Refused("leads out of the pictures' folder: '..' and absolute paths are not followed")
        try:
            place = (self._root / path).resolve()
            if not place.is_relative_to(self._root):
                raise _Refused("leads out of the pictures' folder through a link")
            if not place.exists():
                raise _Refused("is not there")
            if not place.is_file():
                raise _Refused("is not a file")
            size = place.stat().st_size
        except (ValueError, OSError, RuntimeError) as error:
            raise _Refused(f"is no path: {error}" if isinstance(error, ValueError) else f"cannot be read: {error}") from None
        if size > MAX_FILE_BYTES:
            raise _Refused(f"is a file of more than {MAX_FILE_BYTES >> 20} MiB")
        return place


class _Refused(Exception):
    """A path that is not followed, with the reason."""
