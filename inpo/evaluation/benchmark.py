"""Candidate against baseline on pictures that are already there: score, pair, compare, write down every score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inpo.errors import InputError
from inpo.evaluation.images import GeneratedImage, read_images
from inpo.evaluation.scores import PART, SCORES, ScoreRow, known_scores, read_scores, write_scores
from inpo.evaluation.scoring import ImageSet, score_images
from inpo.evaluation.summary import FailureCounts, Failures, MethodSummary, Part, SecondScorer
from inpo.evaluation.winrate import Array, paired_difference, win_rate
from inpo.types import Scorer

Key = tuple[int, int]
"""(prompt index, sample index)."""


def evaluate(candidate: ImageSet, baseline: ImageSet, *, scorers: Sequence[Scorer], out: Path, same_seeds: bool = True) -> MethodSummary:
    """Scores both folders, adds the rows to `out`/evaluation/scores.parquet, and returns the candidate's entry for summary.json.

    The first scorer decides the win rate and, if it is a `PartScorer`, gives the parts; the second, if any, is the check against
    over-optimisation. Pictures are paired by (prompt, sample); `same_seeds=False` allows other noise (the base against itself).
    Scores already in the file are used again. Raises `InputError` where prompts, samples or seeds of the two folders differ, and
    where no picture at all can be compared.
    """
    _check_names(candidate, baseline, scorers)
    ours, theirs = read_images(candidate.folder), read_images(baseline.folder)
    _check_pairing(f"{candidate.folder} and {baseline.folder}", ours, theirs, same_seeds=same_seeds)
    path = out / SCORES
    earlier = read_scores(path) if path.exists() else ()
    known = known_scores(earlier)
    our_rows, our_failures = score_images(candidate, ours, scorers=scorers, known=known)
    their_rows, their_failures = score_images(baseline, theirs, scorers=scorers, known=known)
    _add(path, earlier, our_rows + their_rows)
    return _entry(our_rows, their_rows, scorers=scorers, failures=(our_failures, their_failures))


def _entry(
    ours: Sequence[ScoreRow], theirs: Sequence[ScoreRow], *, scorers: Sequence[Scorer], failures: tuple[Failures, Failures]
) -> MethodSummary:
    name = scorers[0].name
    first = win_rate(_column(ours, name), _column(theirs, name), missing="exclude")
    second = None
    if len(scorers) > 1:
        other = win_rate(_column(ours, scorers[1].name), _column(theirs, scorers[1].name), missing="exclude")
        second = SecondScorer(scorers[1].name, other.win_rate, other.low, other.high)
    return MethodSummary(
        scorer=name, win_rate=first.win_rate, low=first.low, high=first.high,
        n=first.n, wins=first.wins, ties=first.ties, losses=first.losses,
        mean_gain=first.mean_gain, gain_low=first.gain_low, gain_high=first.gain_high, sign_test_p=first.sign_test_p,
        parts=_parts(ours, theirs, name + PART), second_scorer=second, failures=FailureCounts(*failures, excluded=first.excluded),
    )  # fmt: skip


def _parts(ours: Sequence[ScoreRow], theirs: Sequence[ScoreRow], prefix: str) -> dict[str, Part]:
    """Paired gains by part, in the scorer's order; a part that applies to no prompt is left out."""
    parts = {}
    for scorer in dict.fromkeys(row.scorer for row in ours if row.scorer.startswith(prefix)):
        a, b = _column(ours, scorer), _column(theirs, scorer)
        if np.isfinite(a - b).any():
            difference = paired_difference(a, b, missing="exclude")
            parts[scorer.removeprefix(prefix)] = Part(difference.gain, difference.low, difference.high, difference.n)
    return parts


def _column(rows: Sequence[ScoreRow], scorer: str) -> Array:
    """Scores `[prompts, samples]`, ordered by prompt index; not a number where there is none."""
    prompts = {index: place for place, index in enumerate(sorted({row.prompt_index for row in rows}))}
    samples = 1 + max(row.sample_index for row in rows)
    scores = np.full((len(prompts), samples), math.nan)
    for row in rows:
        if row.scorer == scorer:
            scores[prompts[row.prompt_index], row.sample_index] = row.score
    return scores


def _add(path: Path, earlier: Sequence[ScoreRow], rows: Sequence[ScoreRow]) -> None:
    """Rows of the same model and scorer replace earlier ones; other models' rows stay."""
    replaced = {(row.model, row.scorer.split(PART)[0]) for row in rows}
    kept = [row for row in earlier if (row.model, row.scorer.split(PART)[0]) not in replaced]
    write_scores(path, [*kept, *rows])


def _check_names(candidate: ImageSet, baseline: ImageSet, scorers: Sequence[Scorer]) -> None:
    if candidate.model == baseline.model:
        raise InputError(f"candidate and baseline are both called {baseline.model!r}; their scores could not be told apart")
    names = [scorer.name for scorer in scorers]
    if not names or len(set(names)) < len(names):
        raise InputError(f"scorers: expected one or more, each with a name of its own; found {names}")
    for name in names:
        if PART in name or not name:
            raise InputError(f"scorers: a name must not be empty nor hold {PART!r}, which marks parts; found {name!r}")


def _check_pairing(folders: str, ours: Sequence[GeneratedImage], theirs: Sequence[GeneratedImage], *, same_seeds: bool) -> None:
    keys = {image.key for image in ours}
    alone = sorted(keys ^ {image.key for image in theirs})
    if alone:
        raise InputError(f"{folders}: prompt {alone[0][0]}, sample {alone[0][1]} is in only one of them ({len(alone)} such pictures)")
    for a, b in zip(ours, theirs, strict=True):
        place = f"{folders}: prompt {a.prompt_index}, sample {a.sample_index}"
        if a.prompt != b.prompt:
            raise InputError(f"{place}: prompts differ, {a.prompt!r} and {b.prompt!r}; generate both from one prompt file")
        if same_seeds and a.seed != b.seed:
            raise InputError(f"{place}: seeds differ, {a.seed} and {b.seed}; generate both with the same --seed")
    samples = 1 + max(sample for _, sample in keys)
    for prompt in sorted({prompt for prompt, _ in keys}):
        found = [sample for sample in range(samples) if (prompt, sample) in keys]
        if len(found) < samples:
            raise InputError(f"{folders}: prompt {prompt} has {len(found)} of {samples} samples; generate the missing ones")
