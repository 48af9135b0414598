"""One model's pictures through the scorers: rows for scores.parquet, and a count of what could not be judged."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inpo.errors import InputError
from inpo.evaluation.images import GeneratedImage
from inpo.evaluation.scores import PART, CacheKey, ScoreRow
from inpo.evaluation.summary import Failures
from inpo.files import file_sha256
from inpo.types import Scorer

_BATCH = 64
"""Pictures in memory at a time."""

Known = Mapping[CacheKey, Mapping[str, float]]
"""Scores and parts by what they depend on: `inpo.evaluation.scores.known_scores`."""


@runtime_checkable
class PartScorer(Protocol):
    """A scorer that also says what its score is made of."""

    def parts(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """Parts by name, each fp32 `[B]`, higher is better; not a number where a part does not apply to the prompt."""


@runtime_checkable
class WholeScorer(Protocol):
    """A `PartScorer` whose parts cost as much as the score itself, so that both are asked for at once."""

    def score_with_parts(self, images: Sequence[Tensor], prompts: Sequence[str]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What `Scorer.score` and `PartScorer.parts` return."""


@dataclass(frozen=True)
class ImageSet:
    """The pictures of one model: its name in result files, and a folder as `inpo.evaluation.images` reads it."""

    model: str
    folder: Path


@dataclass(frozen=True)
class _Picture:
    """A listed picture as it was found. `pixels` (uint8 `[H,W,3]`) is None where it is missing or unreadable."""

    image: GeneratedImage
    sha256: str
    pixels: Tensor | None


def score_images(
    images: ImageSet, listed: Sequence[GeneratedImage], *, scorers: Sequence[Scorer], known: Known
) -> tuple[list[ScoreRow], Failures]:
    """A row for each listed picture and scorer (and part). Only pictures that are not `known` to a scorer are shown to it."""
    rows: list[ScoreRow] = []
    failures: Counter[str] = Counter()
    for start in range(0, len(listed), _BATCH):
        pictures = [_load(images.folder, image, failures) for image in listed[start : start + _BATCH]]
        for scorer in scorers:
            scored = _batch_rows(scorer, images.model, pictures, known)
            seen = {picture.image.key for picture in pictures if picture.pixels is not None}
            failures["nan_scores"] += sum(
                row.scorer == scorer.name and not math.isfinite(row.score) and (row.prompt_index, row.sample_index) in seen
                for row in scored
            )
            rows += scored
    return rows, Failures(**failures)


def spec_json(scorer: Scorer) -> str:
    """The scorer's name and spec in one canonical line, so that equal specs of two scorers are not mistaken for one another."""
    return json.dumps({"scorer": scorer.name, **scorer.spec}, sort_keys=True, ensure_ascii=False)


def _load(folder: Path, image: GeneratedImage, failures: Counter[str]) -> _Picture:
    path = folder / image.file
    try:
        sha256 = file_sha256(path)
    except OSError:
        failures["missing"] += 1
        return _Picture(image, "", None)
    if sha256 != image.sha256:
        raise InputError(f"{path}: is not the picture that images.jsonl lists (sha256 {sha256[:12]}…); generate the folder again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pixels = np.array(Image.open(path).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        failures["unreadable"] += 1
        return _Picture(image, sha256, None)
    failures["black"] += not pixels.any()
    return _Picture(image, sha256, torch.from_numpy(pixels))


def _batch_rows(scorer: Scorer, model: str, pictures: Sequence[_Picture], known: Known) -> list[ScoreRow]:
    spec = spec_json(scorer)
    keys = {picture.image.key: (picture.sha256, picture.image.prompt, spec) for picture in pictures}
    fresh = [picture for picture in pictures if picture.pixels is not None and keys[picture.image.key] not in known]
    scores: dict[tuple[int, int], Mapping[str, float]] = dict(zip((p.image.key for p in fresh), _ask(scorer, fresh), strict=True))
    rows = []
    for picture in pictures:
        image = picture.image
        found = scores.get(image.key) or known.get(keys[image.key]) or {}
        for name, score in {scorer.name: math.nan, **found}.items():
            rows.append(
                ScoreRow(
                    prompt_index=image.prompt_index, sample_index=image.sample_index, seed=image.seed, model=model, scorer=name,
                    score=score, scorer_spec=spec, image_sha256=picture.sha256, prompt=image.prompt,
                )
            )  # fmt: skip
    return rows


def _ask(scorer: Scorer, pictures: Sequence[_Picture]) -> Iterator[Mapping[str, float]]:
    """For each picture its score under the scorer's name and, of a `PartScorer`, its parts under "name#part"."""
    if not pictures:
        return
    pixels = [picture.pixels for picture in pictures if picture.pixels is not None]
    prompts = [picture.image.prompt for picture in pictures]
    score, parts = _score_and_parts(scorer, pixels, prompts)
    columns = {scorer.name: score} | {scorer.name + PART + part: values for part, values in parts.items()}
    for name, values in columns.items():
        if values.shape != (len(pictures),):
            raise ValueError(f"scorer {name!r} returned shape {tuple(values.shape)} for {len(pictures)} pictures")
    lists = {name: values.float().tolist() for name, values in columns.items()}
    for position in range(len(pictures)):
        yield {name: values[position] for name, values in lists.items()}


def _score_and_parts(scorer: Scorer, pixels: Sequence[Tensor], prompts: Sequence[str]) -> tuple[Tensor, Mapping[str, Tensor]]:
    if isinstance(scorer, WholeScorer):
        return scorer.score_with_parts(pixels, prompts)
    return scorer.score(pixels, prompts), scorer.parts(pixels, prompts) if isinstance(scorer, PartScorer) else {}
