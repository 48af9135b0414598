"""The settings under `data.`, checked at the entrance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from inpo.checking import number, one_of
from inpo.errors import InputError

Ties = Literal["drop", "half", "error"]
Verify = Literal["full", "headers"]
Crop = Literal["center", "random"]
LatentChoice = Literal["mean", "sample"]
SizeChoice = Literal["constant", "original"]

RESOLUTION_MULTIPLE = 8
"""VAEs of the supported families make pictures up to 8 times smaller."""


@dataclass(frozen=True)
class DataConfig:
    """Which pairs, or single labelled pictures, are trained on and how they reach the network.

    path: Parquet, JSONL or CSV files (one, a folder, a glob), a folder of pictures, a data set on the hub
      ("hub:owner/name[@revision][:split]"), or the name of a built-in source ("world:pairs").
    root: the folder that the paths in JSONL and CSV files are relative to and may not leave; None is each file's own.
    where: comparisons of columns with values ("nsfw < 0.1"), all of which a row must pass; others are left out and counted.
    positive_ratio: each pair gives one picture with a label of its own, the winner with this probability; None keeps pairs.
    score_columns: the columns with the scores of the first and the second picture, in place of labels.
    scorer: who scores the pictures as they are read, in place of labels.
    score_range: the scores that count as 0 and as 1, others clamped between them; None takes the columns' own least and largest.
    ties: a label of ½, or equal scores, leaves the pair out, keeps it with P(w ≻ l) = ½, or is an error.
    verify: decode every picture before training, or read headers only; then a damaged body stops the run when it is met.
    max_rejected_fraction: the share of rows that may be broken before the run refuses to start.
    resolution: side of the square shown to the VAE, in pixels; None takes the model's own.
    flip: mirror each pair, both sides alike, with probability ½. Off by default: captions say "left" and "right".
    crop: the centre, or a place drawn anew for each pair and epoch (latents are then not kept between epochs).
    latents: the posterior's mean, or a sample of it drawn anew at every position.
    sizes: what a model that is told sizes (SDXL) is told of a pair: one constant of the run, or the winner's own size and crop, for
      w and l alike. "true" would be no name for it: YAML reads a truth value.
    prompt_dropout: probability of replacing the prompt by the empty one, for w and l alike.
    validation_fraction: share of pairs held out of training, chosen by a hash of the ranking's id that pairs share, else of the pair's.
    """

    path: str
    root: str | None = None
    where: tuple[str, ...] = ()
    positive_ratio: float | None = None
    score_columns: tuple[str, str] | None = None
    scorer: str | None = None
    score_range: tuple[float, float] | None = None
    ties: Ties = "drop"
    verify: Verify = "full"
    max_rejected_fraction: float = 0.1
    resolution: int | None = None
    flip: bool = False
    crop: Crop = "center"
    latents: LatentChoice = "mean"
    sizes: SizeChoice = "constant"
    prompt_dropout: float = 0.0
    validation_fraction: float = 0.02

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path.strip():
            raise _refusal("path", self.path, "a Parquet file, a folder or a glob of them")
        choices = (("ties", Ties), ("verify", Verify), ("crop", Crop), ("latents", LatentChoice), ("sizes", SizeChoice))
        for key, kind in choices:
            one_of(f"data.{key}", getattr(self, key), get_args(kind))
        number("data.max_rejected_fraction", self.max_rejected_fraction, low=0, high=1)
        number("data.prompt_dropout", self.prompt_dropout, low=0, high=1)
        number("data.validation_fraction", self.validation_fraction, low=0, high=0.5)
        if not isinstance(self.flip, bool):
            raise _refusal("flip", self.flip, "true or false")
        _check_resolution(self.resolution)
        ratio = self.positive_ratio
        if ratio is not None and not 0 < ratio < 1:
            raise _refusal("positive_ratio", ratio, "between 0 and 1, both left out, or null to keep pairs")
        self._check_scores()

    @property
    def judge(self) -> str | None:
        """The key by which scores take the place of labels; None where labels decide."""
        if self.score_columns is not None:
            return "data.score_columns"
        return None if self.scorer is None else "data.scorer"

    def _check_scores(self) -> None:
        columns, limits = self.score_columns, self.score_range
        if columns is not None and (len(columns) != 2 or columns[0] == columns[1]):
            raise _refusal("score_columns", list(columns), "two different columns, as in [score_0, score_1]")
        if columns is not None and self.scorer is not None:
            raise InputError(f"data.scorer={self.scorer!r} and data.score_columns={list(columns)} both give scores: set one of them")
        if limits is None:
            if self.scorer is not None:
                raise InputError(f"data.scorer={self.scorer!r} needs data.score_range=[low, high], the scores that count as 0 and as 1")
            return
        if self.judge is None:
            raise InputError(f"data.score_range={list(limits)} is of no use without scores: set data.score_columns or data.scorer too")
        if len(limits) != 2 or not all(map(math.isfinite, limits)) or limits[0] >= limits[1]:
            raise _refusal("score_range", list(limits), "two finite numbers, the lower one first")


def _refusal(key: str, value: object, allowed: str) -> InputError:
    return InputError(f"data.{key}={value!r} must be {allowed}")


def _check_resolution(value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < RESOLUTION_MULTIPLE or value % RESOLUTION_MULTIPLE:
        raise _refusal("resolution", value, f"a positive multiple of {RESOLUTION_MULTIPLE} pixels, or null for the model's own")
