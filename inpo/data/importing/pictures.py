"""The folder that annotations speak of: nothing outside of it is ever opened, and nothing but pictures is taken from it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from inpo.data.fields import Fault, short
from inpo.data.files import PICTURE_BYTES, Unread, read_regular
from inpo.data.images import BrokenImage, decode
from inpo.errors import InputError

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
                data = self._bytes(path)
            except Unread as error:
                raise InputError(f"{self._root / path}: was there and cannot be read now ({error})") from None
        self._kept[path] = data
        while sum(map(len, self._kept.values())) > _KEPT_BYTES and len(self._kept) > 1:
            del self._kept[next(iter(self._kept))]
        return data

    def _examine(self, path: str) -> tuple[str, str] | None:
        try:
            decode(self._bytes(path))
        except Unread as error:
            return error.reason, error.found
        except BrokenImage as error:
            return error.reason, short(path) + (f", {error.found}" if error.found else "")
        return None

    def _bytes(self, path: str) -> bytes:
        """The bytes of a file that lies in the folder whatever links say. Raises `Unread`."""
        if ".." in PurePosixPath(path).parts or path.startswith("/") or PureWindowsPath(path).anchor:
            raise Unread("leads out of the pictures' folder: '..' and absolute paths are not followed", short(path))
        return read_regular(inside(self._root, path), short(path), PICTURE_BYTES)


def inside(root: Path, path: str) -> Path:
    """The resolved place of `path` in `root`, itself resolved. Raises `Unread` where links lead out of it, or nowhere."""
    try:
        place = (root / path).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # A zero byte, a name too long, links in a circle.
        raise Unread("cannot be read", f"{short(path)}: {error}") from None
    if not place.is_relative_to(root):
        raise Unread("leads out of the folder through a link", short(path))
    return place
