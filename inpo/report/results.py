"""What was found: the headline in words, a row for each method, parts of the judgement, and methods head to head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inpo.errors import InputError
from inpo.evaluation.scores import PART
from inpo.evaluation.summary import FailureCounts, Failures, MethodSummary, SecondScorer, Summary
from inpo.evaluation.winrate import Array, WinRate, win_rate
from inpo.report.files import RunFolder
from inpo.report.wording import control_note, display_name, verdict

COLOURS = 6
"""Classes c0 … c5 of the page's style; the baseline has cb."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, and where the three stand between 0 and 100 on their chart."""

    value: float
    low: float
    high: float
    at: float
    at_low: float
    at_high: float


@dataclass(frozen=True)
class MethodRow:
    """One method of the table. `key` is its name in summary.json; `control` says what it shows, where it is one."""

    key: str
    name: str
    colour: str
    control: str | None
    entry: MethodSummary
    win: Interval | None


@dataclass(frozen=True)
class PartRow:
    """One part of the judgement, with each method's gain (controls left out): (row of the method, interval, prompts it applied to)."""

    name: str
    gains: tuple[tuple[MethodRow, Interval, int], ...]


@dataclass(frozen=True)
class Duel:
    """The headline's method against another one, picture by picture."""

    other: MethodRow
    result: WinRate
    verdict: str


@dataclass(frozen=True)
class Results:
    """All of it. `headline` is the method that the page is about; `judge` the scorer that decided; None where nothing was evaluated."""

    baseline: str
    judge: str | None
    rows: tuple[MethodRow, ...]
    headline: MethodRow | None
    parts: tuple[PartRow, ...]
    part_zero: float
    duels: tuple[Duel, ...]

    @property
    def failed_rows(self) -> tuple[MethodRow, ...]:
        """Methods some of whose pictures, or of the baseline's beside them, could not be judged as they should."""
        none = FailureCounts(Failures(), Failures(), 0)
        return tuple(row for row in self.rows if row.entry.failures not in (None, none))

    @property
    def verdict(self) -> str | None:
        """Of the headline's win rate: "better", "worse", "even", or None."""
        win = self.headline.win if self.headline else None
        return verdict(win.low, win.high) if win else None

    @property
    def second_verdict(self) -> str | None:
        """Of the second scorer's."""
        second: SecondScorer | None = self.headline.entry.second_scorer if self.headline else None
        return verdict(second.low, second.high) if second else None


def results(run: RunFolder) -> Results:
    """From summary.json, and from the scores for what it does not say."""
    summary = run.summary or Summary("train", "base", {})
    colours = method_colours(run)
    rows = tuple(_row(key, entry, colours[key]) for key, entry in summary.methods.items())
    evaluated = [row for row in rows if row.win is not None]
    headline = next((row for row in evaluated if row.control is None), evaluated[0] if evaluated else None)
    judge = (headline.entry.scorer if headline else None) or _judge(run, headline)
    parts, zero = _parts([row for row in rows if row.control is None])
    rivals = [row for row in evaluated if row.control is None and row is not headline]
    duels = tuple(_duels(run, headline, rivals, judge)) if headline and judge else ()
    return Results(summary.baseline, judge, rows, headline, parts, zero, duels)


def method_colours(run: RunFolder) -> Mapping[str, str]:
    """One colour for each method and model on the whole page."""
    baseline = run.summary.baseline if run.summary else "base"
    methods = list(run.summary.methods) if run.summary else []
    names = dict.fromkeys([*methods, *(training.name for training in run.trainings), *run.images])
    others = [name for name in names if name != baseline]
    return {baseline: "cb"} | {name: f"c{place % COLOURS}" for place, name in enumerate(others)}


def score_grid(run: RunFolder, models: Sequence[str], scorer: str) -> tuple[list[tuple[int, int]], list[Array]]:
    """Pictures that all models have a row for, and each model's scores in their order (not a number where it failed)."""
    columns = [run.scores.get((model, scorer), {}) for model in models]
    keys = sorted(set(columns[0]).intersection(*columns[1:])) if columns else []
    return keys, [np.array([column[key].score for key in keys], dtype=np.float64) for column in columns]


def _row(key: str, entry: MethodSummary, colour: str) -> MethodRow:
    win = None
    if entry.win_rate is not None and entry.low is not None and entry.high is not None:
        win = Interval(entry.win_rate, entry.low, entry.high, 100 * entry.win_rate, 100 * entry.low, 100 * entry.high)
    return MethodRow(key, display_name(key), colour, control_note(key), entry, win)


def _judge(run: RunFolder, headline: MethodRow | None) -> str | None:
    """The first scorer of the file that is no part of another, nor the second one."""
    second = headline.entry.second_scorer if headline else None
    names = (scorer for _, scorer in run.scores if PART not in scorer and (second is None or scorer != second.name))
    return next(names, None)


def _parts(rows: Sequence[MethodRow]) -> tuple[tuple[PartRow, ...], float]:
    """Rows of parts on one common scale that holds 0, and where 0 stands on it."""
    ends = [end for row in rows for part in row.entry.parts.values() for end in (part.low, part.high)]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    width = max(high - low, 1e-9)
    low, high = low - 0.04 * width, high + 0.04 * width

    def at(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    names = dict.fromkeys(name for row in rows for name in row.entry.parts)
    parts = []
    for name in names:
        found = [(row, row.entry.parts[name]) for row in rows if name in row.entry.parts]
        gains = ((row, Interval(p.gain, p.low, p.high, at(p.gain), at(p.low), at(p.high)), p.n) for row, p in found)
        parts.append(PartRow(name, tuple(gains)))
    return tuple(parts), at(0.0)


def _duels(run: RunFolder, headline: MethodRow, rivals: Sequence[MethodRow], judge: str) -> Iterator[Duel]:
    for rival in rivals:
        keys, (ours, theirs) = score_grid(run, [headline.key, rival.key], judge)
        try:
            result = win_rate(*_by_prompt(keys, ours, theirs), missing="exclude")
        except InputError:
            continue
        yield Duel(rival, result, verdict(result.low, result.high))


def _by_prompt(keys: Sequence[tuple[int, int]], *columns: Array) -> list[Array]:
    """Columns as `[prompts, samples]`, not a number where a prompt has fewer samples."""
    prompts = {prompt: place for place, prompt in enumerate(sorted({prompt for prompt, _ in keys}))}
    samples = {sample: place for place, sample in enumerate(sorted({sample for _, sample in keys}))}
    grids = [np.full((len(prompts), len(samples)), math.nan) for _ in columns]
    for position, (prompt, sample) in enumerate(keys):
        for grid, column in zip(grids, columns, strict=True):
            grid[prompts[prompt], samples[sample]] = column[position]
    return grids
