"""A cell: one training run with its evaluations, or one evaluation of the base, as one JSON file that can be made anywhere.

A cell is known by the digest of everything that determines its numbers, which stands in its name and in it. So cells of other
settings are never mixed in, and merging is copying files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from inpo.errors import InputError
from inpo.evaluation.winrate import Array
from inpo.files import replacing
from inpo.training.environment import DIRTY

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA = 1
CELLS = "cells"
CONTENT = "content_sha256"
"""In a cell's file: the sum of everything else in it."""
DIGITS = 5
"""Decimals of a score that a cell keeps: single prompts are told apart, and a cell stays at about 100 kB."""

Sampling = tuple[int, float]
"""(sampler steps, guidance)."""
Key = tuple[int, int, float]
"""(training step, sampler steps, guidance)."""


@dataclass(frozen=True)
class Point:
    """Scores at one training step under one way of sampling. `scores`: scorer, or scorer#part ↦ [prompts][samples], None where none.

    `forwards`: network image-forwards that training had cost by then.
    """

    step: int
    sampler_steps: int
    guidance: float
    forwards: float
    scores: dict[str, list[list[float | None]]]

    @property
    def key(self) -> Key:
        """What the point is asked for by."""
        return self.step, self.sampler_steps, self.guidance

    def grid(self, scorer: str) -> Array:
        """Scores `[prompts, samples]`; not a number where there is none."""
        return np.array(self.scores[scorer], dtype=np.float64)

    def by_prompt(self, scorer: str) -> Array:
        """`[prompts]`: means over the samples; not a number where there is none.

        Not for differences of two points: where one of them lacks a sample, the two means would be over other noise.
        """
        return over_samples(self.grid(scorer))


@dataclass(frozen=True)
class Cell:
    """One file. `identity` is what `digest` is of; `settings` are all of the run's, by dotted name, {} for the base.

    `arm`, `role` and `knobs` say what it was made for; `training`: facts of the run; `versions`: of what made it.
    """

    arm: str
    role: Literal["base", "knobs", "table"]
    seed: int
    digest: str
    identity: dict[str, object]
    settings: dict[str, object]
    prompts: list[str]
    points: list[Point]
    knobs: dict[str, object] = field(default_factory=dict)
    training: dict[str, object] = field(default_factory=dict)
    versions: dict[str, object] = field(default_factory=dict)
    schema: Literal[1] = 1

    def at(self, key: Key) -> Point | None:
        """The point asked for, None where the cell has it not."""
        return next((point for point in self.points if point.key == key), None)

    def holds(self, keys: Iterable[Key], scorers: Iterable[str]) -> bool:
        """Whether every point that is asked for is there, and in it the scores of each of these scorers."""
        return {point.key for point in self.points if point.scores.keys() >= set(scorers)}.issuperset(keys)


def over_samples(values: Array) -> Array:
    """Means over the last axis, the samples, of those that are numbers; not a number where none is."""
    found = np.isfinite(values)
    sums, counts = np.where(found, values, 0.0).sum(axis=-1), found.sum(axis=-1)
    means: Array = np.full(counts.shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def digest_of(identity: Mapping[str, object]) -> str:
    """16 hex digits."""
    return _sha256(identity)[:16]


def _sha256(values: Mapping[str, object]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def commits_of(cell: Cell) -> list[str]:
    """Of the program, short, that worked on a cell in turn. Cells that were made before this was kept know one."""
    known = cell.versions.get("git_commits")
    commits = known if isinstance(known, list) else [cell.versions.get("git_commit")]
    return [commit.removesuffix(DIRTY)[:9] + (DIRTY if commit.endswith(DIRTY) else "") for commit in map(str, commits)]


def stem(arm: str, role: str, seed: int, digest: str, trial: int | None = None) -> str:
    """How a cell's file begins: `inpo.seed-3.0123456789abcdef`. Only the digest is ever read back."""
    what = f"knobs-{trial}." if role == "knobs" else ""
    return f"{arm}.{what}seed-{seed}.{digest}"


def write_cell(path: Path, cell: Cell) -> None:
    """Complete or absent, with the SHA-256 of all its content. Scores that are not finite are written as null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        values = dataclasses.asdict(cell)
        text = json.dumps({**values, CONTENT: _sha256(values)}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        partial.write_text(text + "\n", encoding="utf-8")


def read_cell(path: Path) -> Cell:
    """Raises `InputError` where the file is no cell, of another schema, not what its digest says, or was changed after it was written.

    Older cells have no sum of their content: of those, only a change of what the digest is of is found.
    """
    from pydantic import ValidationError

    again = "delete it, and it is made again"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        written = values.pop(CONTENT, None) if isinstance(values, dict) else None
        cell = _adapter().validate_python(values)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"{path}: is no cell of a comparison ({' '.join(str(reason).split())}); {again}") from None
    if digest_of(cell.identity) != cell.digest or path.stem.rpartition(".")[2] != cell.digest:
        raise InputError(f"{path}: is not what its digest {cell.digest!r} says: it was changed or renamed; {again}")
    samples = cell.identity.get("samples")
    for rows in (rows for point in cell.points for rows in point.scores.values()):
        if len(rows) != len(cell.prompts):
            raise InputError(f"{path}: has scores for another number of prompts than {len(cell.prompts)}; {again}")
        if found := {len(row) for row in rows} - {samples}:
            raise InputError(f"{path}: has {min(found)} scores for a prompt, of which {samples} samples were made; {again}")
    if written is not None and written != _sha256(values):
        raise InputError(f"{path}: its content is not what was written, whose SHA-256 is {written!r}; {again}")
    return cell


class Shelf:
    """The cells in `folder`/cells. A file is read again when it has changed: one with too few points is made anew under its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / CELLS
        self._known: dict[Path, tuple[tuple[int, int], Cell]] = {}

    def cells(self) -> list[Cell]:
        """All that are there now, by file name. Raises `InputError` naming the first that is none."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            now = path.stat()
            stamp = now.st_mtime_ns, now.st_size
            stamp_then, cell = self._known.get(path, (None, None))
            found[path] = (stamp, cell if cell is not None and stamp == stamp_then else read_cell(path))
        self._known = found
        return [cell for _, cell in found.values()]


def rounded(scores: Sequence[float]) -> list[float | None]:
    """Scores as a cell keeps them."""
    return [round(score, DIGITS) if np.isfinite(score) else None for score in scores]


@cache
def _adapter() -> TypeAdapter[Cell]:
    from pydantic import ConfigDict, TypeAdapter, with_config

    for kind in (Point, Cell):
        with_config(ConfigDict(extra="forbid", allow_inf_nan=False))(kind)
    return TypeAdapter(Cell)
