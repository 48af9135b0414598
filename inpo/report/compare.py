"""A comparison's page: curves, differences between methods, ways of sampling, controls, and how settings were chosen."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inpo.evaluation.compared import ArmResult, Compared, Duel, Estimate, Moment, by_guidance, read_compared
from inpo.report.charts import Chart, Series, line_chart
from inpo.report.pictures import Album, Picture
from inpo.report.results import COLOURS, Interval
from inpo.report.wording import display_name

if TYPE_CHECKING:
    from jinja2 import Environment

ENVIRONMENT, PICTURES = "environment.json", "pictures"
PICTURE_EDGE = 2048
PER_CHART = 4
"""Curves in one chart, the first arm's among them in every chart: more could not be told apart."""

TRAINING = {
    "unet_forwards_per_pair": "network forwards / pair", "seconds": "seconds", "pairs_per_second": "pairs / s",
    "end.implicit_accuracy": "accuracy at the end", "end.margin": "margin at the end", "held_out.implicit_accuracy": "held-out accuracy",
    "held_out.win_drift": "held-out winners’ drift", "drift": "drift of weights",
}  # fmt: skip
"""What runs say of themselves, and what it is called."""


@dataclass(frozen=True)
class Row:
    """An arm in the main table; `bar`: its gain on a scale that all rows share."""

    arm: ArmResult
    name: str
    colour: str
    bar: Interval | None


@dataclass(frozen=True)
class Cell:
    """One difference of a matrix: the row's arm less the column's."""

    estimate: Estimate
    at: tuple[float, float]


@dataclass(frozen=True)
class Group:
    """Charts of some arms, and their legend."""

    legend: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]


def render_comparison(folder: Path, templates: Environment) -> str:
    """The page as text. Raises `InputError` where comparison.json is broken."""
    found = read_compared(folder)
    rivals = [arm for arm in found.arms if not arm.control and arm.moments]
    colours = _colours(found.arms)
    rows, zero = _rows([arm for arm in found.arms if arm.last or arm.unjudged], colours)
    missing = [display_name(arm.name) for arm in found.arms if not arm.last and not arm.unjudged]
    album = Album()
    return templates.get_template("compare.html.jinja").render(
        found=found, rivals=rivals, first=rivals[0] if rivals else None, rows=rows, missing=missing, zero=zero, album=album,
        name=display_name, colours=colours, headline=_headline(found, rivals), groups=_groups(rivals, colours),
        ends=_matrix(found.duels, "last"), equal=_matrix(found.duels, "forwards"), by_step=_by_step(found.duels),
        samplings=_samplings(rivals), sampled=_sampled(found.duels),
        parts=list(dict.fromkeys(part for arm in found.arms for part in arm.parts)),
        training=[(key, title) for key, title in TRAINING.items() if any(key in arm.training for arm in found.arms)],
        strips=_strips(folder, found, album, colours), settings=_settings(found.arms), command=_command(folder), folder=folder.name,
    )  # fmt: skip


def _headline(found: Compared, rivals: Sequence[ArmResult]) -> Duel | None:
    """The first arm against the second, where their runs end."""
    if len(rivals) < 2:
        return None
    return next((duel for duel in found.duels if (duel.kind, duel.a, duel.b) == ("last", rivals[0].name, rivals[1].name)), None)


def _colours(arms: Sequence[ArmResult]) -> Mapping[str, str]:
    """The first arm's alone; the others share the rest, so that two beside one another in the file differ."""
    return {arm.name: "c0" if i == 0 else f"c{1 + (i - 1) % (COLOURS - 1)}" for i, arm in enumerate(arms)}


def _rows(arms: Sequence[ArmResult], colours: Mapping[str, str]) -> tuple[list[Row], float]:
    """Arms by their gain, controls last, arms that cannot be judged at the very end; and where 0 stands on the bars' scale."""
    ends = [end for arm in arms if arm.last for end in (arm.last.gain.low, arm.last.gain.high)]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    room = 0.04 * max(high - low, 1e-9)
    low, high = low - room, high + room

    def at(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    def bar(moment: Moment | None) -> Interval | None:
        if moment is None:
            return None
        gain = moment.gain
        return Interval(gain.value, gain.low, gain.high, at(gain.value), at(gain.low), at(gain.high))

    order = sorted(arms, key=lambda arm: (arm.last is None, arm.control, -(arm.last.gain.value if arm.last else 0.0)))
    return [Row(arm, display_name(arm.name), colours[arm.name], bar(arm.last)) for arm in order], at(0.0)


def _groups(rivals: Sequence[ArmResult], colours: Mapping[str, str]) -> list[Group]:
    """The first arm beside a few others at a time."""
    first, others = rivals[:1], rivals[1:]
    cuts = [others[i : i + PER_CHART - 1] for i in range(0, len(others), PER_CHART - 1)] or [[]]
    return [_group([*first, *cut], colours) for cut in cuts]


def _group(arms: Sequence[ArmResult], colours: Mapping[str, str]) -> Group:
    def series(x: Callable[[Moment], float], y: Callable[[Moment], Estimate | None], start: float, last: float) -> list[Series]:
        return [_series(arm, colours[arm.name], x, y, start=start, last=last) for arm in arms]

    steps = float(arms[0].moments[-1].step) if arms else 0.0
    everywhere = float("inf")
    note = "in mean score over the base; bands: 95 % over prompts and training seeds"
    drawn = (
        line_chart("Gain by training step", series(lambda m: m.step, lambda m: m.gain, 0.0, steps), note=note, reference=(0.0, "the base"),
                   smooth=False),
        line_chart("Gain by network image-forwards", series(lambda m: m.forwards, lambda m: m.gain, 0.0, everywhere), note=note,
                   x_label="network image-forwards of training", reference=(0.0, "the base"), smooth=False),
        line_chart("Win rate by training step", series(lambda m: m.step, lambda m: m.win_rate, 0.5, steps), note="against the base",
                   reference=(0.5, "½: a coin"), smooth=False),
        line_chart("Second scorer by training step", series(lambda m: m.step, lambda m: m.second_gain, 0.0, steps),
                   note="gain over the base by the scorer that nothing was chosen by", reference=(0.0, "the base"), smooth=False),
    )  # fmt: skip
    return Group(tuple((display_name(arm.name), colours[arm.name]) for arm in arms), tuple(chart for chart in drawn if chart is not None))


def _series(
    arm: ArmResult, colour: str, x: Callable[[Moment], float], y: Callable[[Moment], Estimate | None], *, start: float, last: float
) -> Series:
    """From the base, which is every run's step 0 unless it started elsewhere, to step or forwards `last`."""
    points = [(x(moment), value) for moment in arm.moments if (value := y(moment)) is not None and x(moment) <= last]
    xs = [place for place, _ in points]
    ys, lows, highs = ([getattr(value, key) for _, value in points] for key in ("value", "low", "high"))
    if points and not arm.elsewhere:
        xs, ys, lows, highs = ([first, *values] for first, values in ((0.0, xs), (start, ys), (start, lows), (start, highs)))
    return Series(display_name(arm.name), colour, xs, ys, band=(lows, highs))


def _matrix(duels: Sequence[Duel], kind: str) -> Mapping[tuple[str, str], Cell]:
    """Both ways round."""
    cells: dict[tuple[str, str], Cell] = {}
    for duel in duels:
        if duel.kind == kind:
            found = duel.difference
            cells[duel.a, duel.b] = Cell(found, duel.at)
            turned = dataclasses.replace(found, value=-found.value, low=-found.high, high=-found.low)
            cells[duel.b, duel.a] = Cell(turned, (duel.at[1], duel.at[0]))
    return cells


def _by_step(duels: Sequence[Duel]) -> tuple[list[int], Mapping[tuple[str, int], Cell]]:
    """The first arm less each other, by step."""
    cells = {(duel.b, int(duel.at[0])): Cell(duel.difference, duel.at) for duel in duels if duel.kind == "steps"}
    return sorted({step for _, step in cells}), cells


def _samplings(rivals: Sequence[ArmResult]) -> list[tuple[int, float]]:
    """(sampler steps, guidance) that some arm was judged under: by steps, then by guidance."""
    return sorted({(one.sampler_steps, one.guidance) for arm in rivals for one in arm.samplings}, key=by_guidance)


def _sampled(duels: Sequence[Duel]) -> Mapping[tuple[str, int, float], Cell]:
    """The first arm less each other, sampled otherwise."""
    return {(duel.b, *duel.sampling): Cell(duel.difference, duel.at) for duel in duels if duel.kind == "samplings"}


def _strips(folder: Path, found: Compared, album: Album, colours: Mapping[str, str]) -> list[tuple[str, str, Picture | None]]:
    """The base's strip of pictures, then each arm's that has one."""
    files = [("Base", "cb", found.base_picture)] + [(display_name(arm.name), colours[arm.name], arm.picture) for arm in found.arms]
    kept = [(name, colour, Path(file).name) for name, colour, file in files if file is not None]
    return [(name, colour, album.embed(folder / PICTURES / file, edge=PICTURE_EDGE)) for name, colour, file in kept]


def _settings(arms: Sequence[ArmResult]) -> list[str]:
    """Settings that some two arms differ in, by dotted name."""
    keys = dict.fromkeys(key for arm in arms for key in arm.settings)
    trained = [arm for arm in arms if arm.settings]
    return [key for key in keys if len({json.dumps(arm.settings.get(key)) for arm in trained}) > 1]


def _command(folder: Path) -> str | None:
    """What was typed last, without what made it a part of the whole."""
    from inpo.report.page import typed

    try:
        values = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    command = typed(values) if isinstance(values, dict) else None
    return None if command is None else re.sub(r" --(?:table|knobs|(?:only|seeds)[ =]\S+)(?= |$)", "", command)
