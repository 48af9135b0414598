"""Where a result goes that leaves its run: a new folder or file with its card, complete or absent, over nothing but an earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inpo.errors import InputError
from inpo.files import replacing
from inpo.models.base import ADAPTER_FILE, BASE_FILE
from inpo.results.card import CARD, is_card
from inpo.results.result import CONFIG

SUFFIX = ".safetensors"
FOLDERS: dict[str, str] = {"pipeline": "model_index.json", "unet": "config.json", "transformer": "config.json"}
"""Formats that are a folder, with the file that each has."""


@dataclass(frozen=True)
class Written:
    """Where this export is being written: the folder, or the file, that takes its place at the end; and its card."""

    target: Path
    card: Path


@dataclass(frozen=True)
class Destination:
    """`out` as a folder or a file. `file`: the file's name in either case, None for a format of many."""

    out: Path
    file: str | None
    marker: str

    @classmethod
    def of(cls, form: str, out: Path) -> Destination:
        """Raises `InputError` for a file's name where the format is a folder."""
        named = out.suffix == SUFFIX
        if form in FOLDERS:
            if named or out.is_file():
                raise InputError(f"--out {out}: a {form} is a folder, not a file; give a folder, or format=single-file")
            return cls(out, None, FOLDERS[form])
        file = out.name if named else (ADAPTER_FILE if form == "lora" else f"{out.resolve().name}{SUFFIX}")
        return cls(out, file, file)

    @property
    def is_file(self) -> bool:
        return self.out.suffix == SUFFIX

    @property
    def name(self) -> str:
        """What its card calls it."""
        return self.out.resolve().name.removesuffix(SUFFIX)

    @property
    def card(self) -> Path:
        """Where the card lies."""
        return self.out.with_suffix(".md") if self.is_file else self.out / CARD

    def here(self, form: str) -> str:
        """The result as it is seen from the folder around it; adapters in a file are found by that folder and the file's name."""
        if form == "single-file":
            return self.out.name if self.is_file else f"{self.name}/{self.file}"
        return "." if self.is_file else self.name

    def require_free(self, *, force: bool) -> None:
        """Raises `InputError` where something is in the way; with `force`, anything but an earlier export."""
        if self.is_file and self.out.is_dir():
            raise InputError(f"--out {self.out} is a folder, and its name is a file's: choose another name")
        if not self.is_file and self.out.is_file():
            raise InputError(f"--out {self.out} is a file: give a folder, or a file's name that ends in {SUFFIX}")
        if not force and (taken := self._taken()):
            raise InputError(f"--out {self.out} {taken}: choose another, or --force to replace an earlier export")
        if force and (foreign := self._foreign()):
            raise InputError(f"--out {self.out} is no earlier export ({foreign}): choose another, nothing was overwritten")

    def _taken(self) -> str | None:
        """What is there already."""
        if not self.is_file:
            return "is not empty" if self.out.exists() and any(self.out.iterdir()) else None
        if self.out.exists():
            return "exists"
        return f"has its card beside it, and {self.card} exists" if self.card.exists() else None

    def _foreign(self) -> str | None:
        """By what it can be seen that somebody else's work would be lost. A file's name was typed, so it may go; its card's was not."""
        from inpo.models.saving import foreign_entry

        if self._taken() is None or (self.is_file and not self.card.exists()):
            return None
        if self.out.name == "model" and (self.out.parent / CONFIG).is_file():
            return "it is a run's own result"
        if not is_card(self.card):
            return f"{self.card} is no card of inpo's" if self.card.exists() else f"it has no {CARD} of inpo's"
        entry = None if self.is_file else BASE_FILE if (self.out / BASE_FILE).exists() else foreign_entry(self.out)
        return f"it holds {entry}" if entry else None

    @contextmanager
    def opened(self) -> Iterator[Written]:
        """What is written inside appears when the block ends well."""
        from inpo.models.saving import replace_folder

        if not self.is_file:
            with replace_folder(self.out, self.marker) as new:
                yield Written(new / self.file if self.file else new, new / CARD)
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.card) as card, replacing(self.out) as target:
            yield Written(target, card)
            # safetensors makes its files readable by their owner alone.
            target.chmod(card.stat().st_mode)
