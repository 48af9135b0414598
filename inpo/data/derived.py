"""Sources made of another source of pairs: judged by a scorer in place of labels, or one picture of each pair.

A derived pair keeps id and ranking of the pair that it was made of, so what is held out of training stays held out.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from inpo.data.config import DataConfig
from inpo.data.images import BrokenImage, decode
from inpo.data.order import STRIDE, ids_of, split_names_of
from inpo.data.soft import Range, clamped, soft_preference
from inpo.errors import InputError
from inpo.randomness import seed_for
from inpo.scorer_name import scorer_kind
from inpo.types import PairRecord, PairSource, Scorer


class Derived(ABC):
    """What a derived source has in common with its `source`: how many there are, in which order, under which ids."""

    singles = False

    def __init__(self, source: PairSource, *made_by: object) -> None:
        """`made_by`: all that its records depend on besides the source."""
        self.source = source
        self.size = source.size
        self.block = source.block
        self.fingerprint = hashlib.sha256(json.dumps([source.fingerprint, *made_by], sort_keys=True).encode()).hexdigest()

    @abstractmethod
    def __getitem__(self, index: int) -> PairRecord:
        """The record at `index`, from 0."""

    @property
    def ids(self) -> Sequence[str]:
        """The ids in order; none of a source without end."""
        return ids_of(self.source)

    @property
    def split_names(self) -> Sequence[str]:
        """The source's."""
        return split_names_of(self.source)


class ScoredPairs(Derived):
    """Pairs whose preference is P(w ≻ l) of a scorer's two scores, each pair scored by itself when it is read.

    So a pair's label depends on nothing but the pair. Equal scores are a tie: with data.ties=drop a source without end gives its
    next pair instead, and a list of pairs, which was made before, keeps it with P(w ≻ l) = ½.
    """

    def __init__(self, source: PairSource, scorer: Scorer, config: DataConfig) -> None:
        assert config.score_range is not None  # the settings' own check
        self._scorer, self._limits, self._ties = scorer, config.score_range, config.ties
        super().__init__(source, "scorer", scorer_kind(scorer.name), dict(scorer.spec), list(self._limits), self._ties)

    def __getitem__(self, index: int) -> PairRecord:
        """The pair at `index`, from 0. Raises `InputError` for a picture that cannot be read or scored, and for a tie where it is one."""
        pair, step = self._judged(self.source[index]), 0
        while pair.preference == 0.5 and self.size is None and self._ties == "drop":
            step += 1
            pair = self._judged(self.source[index + step * STRIDE])
        return pair

    def _judged(self, pair: PairRecord) -> PairRecord:
        first, second = scores_of(self._scorer, [pair])[0]
        if not (math.isfinite(first) and math.isfinite(second)):
            raise InputError(f"{pair.row}: data.scorer={self._scorer.name!r} gave no finite score: leave the pair out")
        return softened(pair, (first, second), self._limits, ties_allowed=self._ties != "error")


class SinglesOfPairs(Derived):
    """One picture of each pair: the winner, a desired one, with probability `ratio`, and else the loser, pure in (seed, pair id)."""

    singles = True

    def __init__(self, source: PairSource, ratio: float, seed: int) -> None:
        super().__init__(source, "singles", ratio, seed)
        self._ratio, self._seed = ratio, seed

    def __getitem__(self, index: int) -> PairRecord:
        """The picture of the pair at `index`, from 0."""
        pair = self.source[index]
        assert pair.lose is not None  # singles are refused where pairs are opened
        desired = seed_for(self._seed, "single", pair.id) < self._ratio * 2.0**63
        # A tie that a scorer found has no winner: whichever picture comes, nothing is known of it.
        preference = 0.5 if pair.preference == 0.5 else float(desired)
        return replace(pair, win=pair.win if desired else pair.lose, lose=None, preference=preference)


def origin(source: PairSource) -> PairSource:
    """What a source was made of in the first place; itself where it was not."""
    while isinstance(source, Derived):
        source = source.source
    return source


def softened(pair: PairRecord, scores: tuple[float, float], limits: Range, *, ties_allowed: bool) -> PairRecord:
    """The pair with the better picture by `scores` (of its win and its lose) as the winner. Raises `InputError` for a tie."""
    first, second = (clamped(score, limits) for score in scores)
    if first == second and not ties_allowed:
        raise InputError(f"{pair.row}: both pictures score {first:g}, a tie, and data.ties=error allows none")
    assert pair.lose is not None
    win, lose = (pair.lose, pair.win) if first < second else (pair.win, pair.lose)
    return replace(pair, win=win, lose=lose, preference=float(soft_preference(np.array([[first, second]]), limits)[0]))


def scores_of(scorer: Scorer, pairs: Sequence[PairRecord]) -> list[tuple[float, float]]:
    """Scores of each pair's `win` and `lose`, by one call of the scorer. Raises `InputError` for a picture that cannot be read."""
    pictures = [_readable(pair, data) for pair in pairs for data in (pair.win, pair.lose)]
    return score_pictures(scorer, pictures, [pair.caption for pair in pairs])


def score_pictures(scorer: Scorer, pictures: Sequence[Tensor], captions: Sequence[str]) -> list[tuple[float, float]]:
    """Scores of the first and the second picture of each caption; `pictures`: uint8 `[H,W,3]`, the two of a pair side by side."""
    scores = scorer.score(pictures, [caption for caption in captions for _ in range(2)]).tolist()
    return list(zip(scores[::2], scores[1::2], strict=True))


def pixels_of(data: bytes) -> Tensor:
    """A picture as scorers take it, uint8 `[H,W,3]`. Raises `BrokenImage`."""
    return torch.from_numpy(np.array(decode(data), dtype=np.uint8))


def _readable(pair: PairRecord, data: bytes | None) -> Tensor:
    assert data is not None
    try:
        return pixels_of(data)
    except BrokenImage as error:
        raise InputError(f"{pair.row}: cannot decode an image: {error}; data.verify=full leaves such pairs out") from error
