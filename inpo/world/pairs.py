"""The world's preference pairs: the packaged ones first, then freshly rendered ones for ever."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from inpo import world
from inpo.data.pairs import pair_id
from inpo.errors import InputError
from inpo.types import PairRecord
from inpo.world.oracle import score
from inpo.world.preference import BradleyTerry
from inpo.world.shapes import Picture, imperfect, parse, prompts, render

PREFERENCE = BradleyTerry()
# Part of the fingerprint: change it with anything that changes a rendered pair.
_LAW = "world-pairs-1"


def to_png(picture: Picture) -> bytes:
    """A picture as PNG."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


@dataclass(frozen=True)
class Judged:
    """Two pictures for a caption and the label of the first: 1, 0, or ½ for a tie. `gap`: the first one's score less the second's."""

    caption: str
    pictures: tuple[Picture, Picture]
    gap: float
    label: float


def judge(caption: str, pictures: tuple[Picture, Picture], rng: np.random.Generator) -> Judged:
    """Draws the label of two pictures."""
    gap = score(pictures[0], caption) - score(pictures[1], caption)
    return Judged(caption, pictures, gap, PREFERENCE.label(gap, rng))


def render_pair(rng: np.random.Generator) -> Judged:
    """Two pictures of one training prompt, each as imperfect as the pretraining pictures, and their label."""
    captions = prompts("train")
    caption = captions[rng.integers(len(captions))]
    scene = parse(caption)
    first, second = (render(scene, rng, imperfect(scene, rng)) for _ in range(2))
    return judge(caption, (first, second), rng)


class WorldPairs:
    """An endless `PairSource`: the rows of the packaged parquet, ties skipped, then rendered pairs, pure in (seed, index).

    `shuffled` draws every label by a fair coin: what training on it gains is drift alone. Raises `InputError` where the
    parquet (`packaged`, or the world's own) is not there.
    """

    size: int | None = None
    singles = False
    block = 1

    def __init__(self, *, shuffled: bool = False, seed: int = 0, packaged: Path | None = None) -> None:
        path = packaged or world.pairs_path()
        if not path.is_file():
            raise InputError(f"{path}: the world's pairs are not there; make them with 'inpo world build'")
        self._shuffled, self._seed, self._name = shuffled, seed, path.name
        self._rows = [row for row in pq.read_table(path).to_pylist() if row["label_0"] != 0.5]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.fingerprint = hashlib.sha256(f"{_LAW} {digest} {seed} {shuffled}".encode()).hexdigest()

    def __getitem__(self, index: int) -> PairRecord:
        """The pair at `index`, from 0. Raises `IndexError` for a negative index."""
        if index < 0:
            raise IndexError(f"pair {index} of the world")
        rng = np.random.default_rng((self._seed, index))
        caption, win, lose, where = self._packaged(index) if index < len(self._rows) else self._rendered(index, rng)
        if self._shuffled and rng.random() < 0.5:
            win, lose = lose, win
        return PairRecord(id=pair_id(win, lose, caption).hex(), caption=caption, win=win, lose=lose, preference=1.0, row=where)

    def _packaged(self, index: int) -> tuple[str, bytes, bytes, str]:
        row = self._rows[index]
        win, lose = (row["jpg_0"], row["jpg_1"]) if row["label_0"] == 1 else (row["jpg_1"], row["jpg_0"])
        return row["caption"], win, lose, f"{self._name}, pair {index} that is no tie"

    def _rendered(self, index: int, rng: np.random.Generator) -> tuple[str, bytes, bytes, str]:
        pair = render_pair(rng)
        while pair.label == 0.5:
            pair = render_pair(rng)
        first, second = (to_png(picture) for picture in pair.pictures)
        win, lose = (first, second) if pair.label == 1 else (second, first)
        return pair.caption, win, lose, f"world:pairs, index {index}"
