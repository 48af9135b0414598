"""Pictures side by side under the same seeds, best and worst cases, and samples while it trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inpo.report.files import RunFolder, Training
from inpo.report.pictures import Album, Picture
from inpo.report.results import Results, method_colours, score_grid
from inpo.report.wording import control_note, display_name

SHOWN = 12
"""Prompts side by side: evenly spread over the set, not chosen."""

EXTREMES = 3
"""Best cases, and as many worst."""

SLIGHT = 0.25
"""A loss smaller than this share of the largest gain is called slight."""

STEPS, SAMPLES = 6, 4
"""Moments of training, and pictures at each."""

MODELS = 4
"""Pictures beside one another, the baseline among them."""

Key = tuple[int, int]


@dataclass(frozen=True)
class Shot:
    """One model's picture for a prompt; `picture` is None where it is missing, unreadable, or beyond the page's budget.

    `best`: no other model's picture beside it scored higher.
    """

    name: str
    colour: str
    picture: Picture | None
    score: float | None
    best: bool


@dataclass(frozen=True)
class Case:
    """One prompt and seed, the baseline's picture first. `gain`: the headline method's score minus the baseline's."""

    prompt: str
    prompt_index: int
    seed: int
    shots: tuple[Shot, ...]
    gain: float | None


@dataclass(frozen=True)
class Gallery:
    """`even`: a fair look; `best`, `worst`: by paired difference. `total`: pictures (prompt, sample) there are to choose from."""

    even: tuple[Case, ...]
    best: tuple[Case, ...]
    worst: tuple[Case, ...]
    total: int

    @property
    def slight_loss(self) -> bool:
        """Whether the largest loss is one, but next to the largest gain hardly worth the name."""
        if not self.best or not self.worst:
            return False
        gain, loss = self.best[0].gain or 0.0, self.worst[0].gain or 0.0
        return -SLIGHT * gain < loss < 0


@dataclass(frozen=True)
class Strip:
    """Samples of one run while it trained: a column for each of `headings`, one picture (or None) for each prompt in `rows`."""

    name: str
    colour: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Picture | None, ...]], ...]
    total_steps: int
    total_rows: int


def gallery(run: RunFolder, found: Results, album: Album) -> Gallery:
    """Cases of the models that have pictures; controls, whose seeds may differ, are left out."""
    models = [model for model in _models(run, found) if model in run.images][:MODELS]
    keys = sorted(set.intersection(*(set(run.images[model].listed) for model in models))) if len(models) > 1 else []
    gains = _gains(run, found, keys)
    ranked = sorted(gains, key=lambda key: gains[key])
    half = len(ranked) // 2

    def cases(chosen: Sequence[Key]) -> tuple[Case, ...]:
        return tuple(_case(run, key, models=models, judge=found.judge, gain=gains.get(key), album=album) for key in chosen)

    even = [keys[round(place)] for place in np.linspace(0, len(keys) - 1, min(SHOWN, len(keys)))]
    return Gallery(cases(even), cases(ranked[::-1][: min(EXTREMES, half)]), cases(ranked[: min(EXTREMES, half)]), len(keys))


def strips(run: RunFolder, album: Album) -> tuple[Strip, ...]:
    """Sample pictures of every run that made some."""
    colours = method_colours(run)
    return tuple(_strip(training, colours[training.name], album) for training in run.trainings if training.samples)


def _models(run: RunFolder, found: Results) -> list[str]:
    """The baseline, the headline's method, then the others."""
    first = [found.headline.key] if found.headline else []
    others = [name for name in [*(row.key for row in found.rows), *run.images] if control_note(name) is None]
    return list(dict.fromkeys([found.baseline, *first, *others]))


def _gains(run: RunFolder, found: Results, keys: Sequence[Key]) -> Mapping[Key, float]:
    """Finite paired differences of the headline's method, by picture."""
    if not found.headline or not found.judge:
        return {}
    scored, (ours, theirs) = score_grid(run, [found.headline.key, found.baseline], found.judge)
    known = set(keys)
    return {key: gain for key, gain in zip(scored, (ours - theirs).tolist(), strict=True) if key in known and math.isfinite(gain)}


def _case(run: RunFolder, key: Key, *, models: Sequence[str], judge: str | None, gain: float | None, album: Album) -> Case:
    colours = method_colours(run)
    rows = [run.scores.get((model, judge), {}).get(key) if judge else None for model in models]
    scores = [row.score if row is not None and math.isfinite(row.score) else None for row in rows]
    highest = max((score for score in scores if score is not None), default=None)
    shots = []
    for model, score in zip(models, scores, strict=True):
        images = run.images[model]
        picture = album.embed(images.folder / images.listed[key].file)
        shots.append(Shot(display_name(model), colours[model], picture, score, score is not None and score == highest))
    listed = run.images[models[0]].listed[key]
    return Case(listed.prompt, key[0], listed.seed, tuple(shots), gain)


def _strip(training: Training, colour: str, album: Album) -> Strip:
    everything = list(training.samples)
    steps = [everything[round(place)] for place in np.linspace(0, len(everything) - 1, min(STEPS, len(everything)))]
    names = sorted({file.name for step in everything for file in training.samples[step]})
    by_step: list[Mapping[str, Path]] = [{file.name: file for file in training.samples[step]} for step in steps]
    rows = []
    for name in names[:SAMPLES]:
        pictures = (album.embed(files[name], edge=512) if name in files else None for files in by_step)
        rows.append((_prompt(training, Path(name).stem), tuple(pictures)))
    headings = tuple(_heading(training, step) for step in steps)
    return Strip(display_name(training.name), colour, headings, tuple(rows), len(everything), len(names))


def _heading(training: Training, step: int) -> str:
    if step == 0:
        return "base"
    return f"final, step {step}" if training.finished and step == training.last_step else f"step {step}"


def _prompt(training: Training, name: str) -> str:
    """What a picture was asked to show: files are named by the prompt's place."""
    place = int(name) if name.isdecimal() else len(training.prompts)
    return training.prompts[place] if place < len(training.prompts) else name
