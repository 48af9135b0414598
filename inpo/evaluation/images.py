"""A folder of generated pictures: `{prompt_index:05d}_{sample_index}.png` and `images.jsonl`, one line a picture. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from inpo.errors import InputError

INDEX = "images.jsonl"

_TYPES = {"int": int, "str": str}


@dataclass(frozen=True)
class GeneratedImage:
    """One line of `images.jsonl`: which picture, for which prompt and sample, from which seed; `sha256` of the file's bytes."""

    file: str
    prompt_index: int
    sample_index: int
    seed: int
    prompt: str
    sha256: str

    @property
    def key(self) -> tuple[int, int]:
        """(prompt index, sample index): what pairs it with another model's picture."""
        return self.prompt_index, self.sample_index


def read_images(folder: Path) -> tuple[GeneratedImage, ...]:
    """The pictures that `images.jsonl` lists, by (prompt, sample); whether the files are there is not looked at.

    Raises `InputError` where the index is absent, malformed (file, line and field named), or lists a (prompt, sample) twice.
    """
    index = folder / INDEX
    try:
        lines = index.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{index}: cannot be read ({error}); is {folder} a folder of generated pictures?") from None
    images = [_image(index, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not images:
        raise InputError(f"{index}: lists no picture")
    _refuse_repeats(index, images)
    return tuple(sorted(images, key=lambda image: image.key))


def _image(index: Path, number: int, line: str) -> GeneratedImage:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{index}, line {number}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{index}, line {number}: expected an object, found {type(values).__name__}")
    known: dict[str, Any] = {}
    for field in fields(GeneratedImage):
        value = values.get(field.name)
        if type(value) is not _TYPES[str(field.type)]:
            raise InputError(f"{index}, line {number}: {field.name!r} must be {field.type}, found {value!r}")
        if isinstance(value, int) and value < 0:
            raise InputError(f"{index}, line {number}: {field.name!r} must be at least 0, found {value}")
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InputError(f"{index}, line {number}: {field.name!r} holds half a surrogate pair: {value!r}")
        known[field.name] = value
    if PurePosixPath(known["file"]).name != known["file"] or known["file"] in ("", "..") or "\\" in known["file"] or "\0" in known["file"]:
        raise InputError(f"{index}, line {number}: 'file' must be a plain name in this folder, found {known['file']!r}")
    return GeneratedImage(**known)


def _refuse_repeats(index: Path, images: Sequence[GeneratedImage]) -> None:
    seen: set[tuple[int, int]] = set()
    for image in images:
        if image.key in seen:
            raise InputError(f"{index}: prompt {image.prompt_index}, sample {image.sample_index} is listed twice")
        seen.add(image.key)
