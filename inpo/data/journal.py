"""Scores kept while they are made, so that a call that was interrupted goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from inpo.files import replacing

Scores = list[tuple[float, float]]
"""Of a batch of pairs: of the first and of the second picture."""


class Journal:
    """Scores of the sound pairs in their order, a batch a line, after a line that says what they are scores of.

    Those of the same scorer and the same files are taken up again; `known` counts them. Kept until `remove`.
    """

    def __init__(self, path: Path, made_of: object) -> None:
        self._path, self._head = path, json.dumps(made_of, sort_keys=True)
        self._batches = self._earlier()
        self.known = sum(map(len, self._batches))

    def __enter__(self) -> Self:
        lines = [self._head, *map(json.dumps, self._batches)]
        with replacing(self._path) as partial:
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def take(self) -> Scores:
        """The next batch of the earlier call; empty where it came no further."""
        return self._batches.pop(0) if self._batches else []

    def keep(self, scores: Scores) -> None:
        """Adds a batch."""
        self._file.write(json.dumps(scores) + "\n")
        self._file.flush()

    def remove(self) -> None:
        """Once the pairs are written."""
        self._path.unlink(missing_ok=True)

    def _earlier(self) -> list[Scores]:
        try:
            head, *lines = self._path.read_text(encoding="utf-8").splitlines()
            if head != self._head:
                return []
        except (OSError, ValueError):
            return []
        found = []
        for line in lines:
            try:
                found.append([(float(first), float(second)) for first, second in json.loads(line)])
            except (ValueError, TypeError):  # The line at which it was cut off.
                break
        return found
