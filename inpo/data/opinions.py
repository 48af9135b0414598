"""Single pictures in two folders, `liked/` and `disliked/`, each with its caption beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from inpo.data.fields import CAPTION, SINGLE, Fault, Row
from inpo.data.files import printable
from inpo.data.folders import (
    CAPTION_SUFFIX,
    FolderShard,
    caption_at,
    folder_stamp,
    is_caption,
    is_picture,
    picture_at,
    stem_of,
    two_folders,
)
from inpo.data.pairs import FAULTS

LIKED, DISLIKED = "liked", "disliked"
PICTURE = "picture"
"""What messages call the picture, which has no column's name here."""


@dataclass(frozen=True)
class _Opinion:
    """The names, relative to the folder, of a picture and its caption; a caption alone has none of the first."""

    desired: bool
    pictures: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()

    def row(self, folder: Path, stem: str) -> Row:
        (image,), (label,) = SINGLE.images, SINGLE.labels
        if not self.pictures:
            return {FAULTS: (Fault(CAPTION, "a caption without a picture", printable(self.captions[0])),)}
        if len(self.pictures) > 1:
            return {FAULTS: (Fault(PICTURE, "several pictures share this name", printable(", ".join(self.pictures))),)}
        if not self.captions:
            expected = printable(PurePosixPath(stem).name + CAPTION_SUFFIX)
            return {FAULTS: (Fault(CAPTION, "there is no caption file", f"no {expected} beside {printable(self.pictures[0])}"),)}
        return {image: picture_at(folder, self.pictures[0]), label: self.desired, CAPTION: caption_at(folder, self.captions)}


def open_opinions(path: Path, files: Sequence[tuple[str, Path]]) -> FolderShard | None:
    """The pictures among `files` (names relative to `path`); None where neither folder is there. Raises `InputError` for one alone."""
    names = [name for name, _ in files if is_picture(name) or is_caption(name)]
    folders = two_folders(path, names, (LIKED, DISLIKED))
    if not folders:
        return None
    desired = {folder: side == LIKED for side, folder in folders.items()}
    entries: dict[str, _Opinion] = {}
    for name in (name for name in names if name.partition("/")[0] in desired):
        found = entries.get(stem_of(name), _Opinion(desired[name.partition("/")[0]]))
        added = replace(found, pictures=(*found.pictures, name)) if is_picture(name) else replace(found, captions=(*found.captions, name))
        entries[stem_of(name)] = added
    ordered = sorted(entries.items(), key=lambda item: os.fsencode(item[0]))
    return FolderShard(path, printable(path.resolve().name), folder_stamp(path, names), ordered, SINGLE, names={SINGLE.images[0]: PICTURE})
