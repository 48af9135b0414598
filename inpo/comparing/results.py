"""From cells to results: every arm against the base, how its settings were chosen, and arms against one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from inpo.comparing.cells import Cell, commits_of
from inpo.comparing.duels import duels
from inpo.comparing.make import PICTURES, shown_places
from inpo.comparing.plan import Plan, Planned
from inpo.comparing.runs import Runs
from inpo.comparing.spec import AGAIN
from inpo.comparing.state import State
from inpo.evaluation.compared import ArmResult, Compared, Estimate, Moment, Sampled, Trial
from inpo.training.snapshot import flat

ELSEWHERE = "starts from another model than the base, against which it is judged all the same; what that model cost is in no count"
AGAIN_NOTE = "the base against itself under other seeds: its interval should contain 0, and its win rate ½"


class Measured(TypedDict, total=False):
    """The fields of `ArmResult` that are read off pictures."""

    moments: list[Moment]
    samplings: list[Sampled]
    parts: dict[str, Estimate]
    unjudged: bool


def results(state: State, out: Path) -> Compared | None:
    """All of it, of the cells that are there; None where the base is not."""
    plan, judging, knobs = state.plan, state.plan.comparison.evaluation, state.plan.comparison.knobs
    base = state.find(plan.base()[0])
    if base is None:
        return None
    cells = {name: _cells(state, name) for name in [AGAIN, *plan.comparison.arms]}
    main, scorers = (judging.sampler_steps, judging.guidance), judging.scorers
    second, labels = scorers[1] if len(scorers) > 1 else None, (*plan.judge.labels, None)
    runs = {name: Runs(name, found, base, plan.judge.labels[0], labels[1], main) for name, found in cells.items() if found}
    judged = [found for found in runs.values() if found.judged((found.steps[-1], *main))]
    rivals = [found for found in judged if found.arm != AGAIN and not plan.comparison.arms[found.arm].control]
    arms = [_arm(state, name, runs.get(name), out) for name in plan.comparison.arms]
    elsewhere = {arm.name for arm in arms if arm.elsewhere}
    return Compared(
        title=plan.comparison.title, note=plan.comparison.note, quick=plan.comparison.quick, scorer=scorers[0], second=second,
        prompts=len(base.prompts), prompt_set=judging.prompts, trial_prompts=knobs.prompts if knobs else None, sampling=main,
        pairs_per_step=plan.experiment(next(iter(plan.comparison.arms))).train.pairs_per_step,
        arms=[*arms, *([_again(state, runs[AGAIN])] if AGAIN in runs else [])], duels=list(duels(rivals, elsewhere)),
        left=_missing(state),
        versions=sorted({_version(cell) for found in [(base,), *cells.values()] for cell in found}),
        shown=[base.prompts[place // judging.samples] for place in shown_places(len(base.prompts) * judging.samples)],
        base_score=_base_score(base, plan), base_picture=_picture(plan.base()[0], out),
    )  # fmt: skip


def _base_score(base: Cell, plan: Plan) -> float | None:
    """Its mean score, sampled as the table is; None where no picture has one."""
    judging = plan.comparison.evaluation
    point = base.at((0, judging.sampler_steps, judging.guidance))
    known = [] if point is None else [score for score in point.by_prompt(plan.judge.labels[0]) if np.isfinite(score)]
    return float(np.mean(known)) if known else None


def _missing(state: State) -> int:
    """Cells, those of arms whose settings are not chosen yet among them."""
    seeds = [state.plan.comparison.arms[name].seeds or 1 for name in state.waiting()]
    return sum(state.find(cell) is None for cell in state.planned()) + sum(seeds)


def _cells(state: State, name: str) -> tuple[Cell, ...]:
    planned = state.plan.base()[1:] if name == AGAIN else _table(state, name)
    return tuple(cell for each in planned if (cell := state.find(each)) is not None)


def _table(state: State, name: str) -> list[Planned]:
    choice = state.choice(name)
    return [] if choice is None else state.plan.table(name, choice)


def _arm(state: State, name: str, runs: Runs | None, out: Path) -> ArmResult:
    arm, experiment = state.plan.comparison.arms[name], state.plan.experiment(name)
    planned = _table(state, name)
    there = [each for each in planned if state.find(each) is not None]
    choice, elsewhere = state.choice(name), state.plan.starts_elsewhere(name)
    return ArmResult(
        name=name, title=experiment.method.title, paper=experiment.method.paper,
        note="; ".join(filter(None, [arm.note, ELSEWHERE if elsewhere else ""])), elsewhere=elsewhere, control=arm.control,
        seeds=[each.seed for each in there], wanted=arm.seeds or 1, knobs=None if choice is None else dict(choice), knobs_of=arm.knobs_of,
        trials=_trials(state, name), steps=experiment.train.steps, schedule=experiment.optimizer.schedule,
        settings=_settings(planned[0] if planned else None, state.plan, name),
        **_measured(runs), training=_training(runs.cells) if runs else {}, commits=_commits(state, name),
        picture=next((found for each in there if (found := _picture(each, out))), None),
    )  # fmt: skip


def _again(state: State, runs: Runs) -> ArmResult:
    """The control: the base under other sampling seeds, as if they were training seeds."""
    return ArmResult(
        name=AGAIN, title="The base again", paper="", note=AGAIN_NOTE, control=True, seeds=[cell.seed for cell in runs.cells],
        wanted=len(runs.cells), knobs={}, knobs_of=None, trials=[], steps=0, schedule="", settings={}, **_measured(runs),
        commits=_commits(state, AGAIN),
    )  # fmt: skip


def _measured(runs: Runs | None) -> Measured:
    """What of an arm's entry is read off its pictures; where those of the last step cannot be judged, only that."""
    if runs is None:
        return {}
    if not runs.judged((runs.steps[-1], *runs.main)):
        return {"unjudged": True}
    moments = [runs.moment(step) for step in runs.steps if runs.judged((step, *runs.main))]
    return {"moments": moments, "samplings": list(runs.samplings()), "parts": runs.parts()}


def _commits(state: State, name: str) -> list[str]:
    """Short, of every cell of an arm, its trials among them."""
    trials = [] if name == AGAIN else [cell for each in state.plan.trials(name) if (cell := state.find(each)) is not None]
    return sorted({commit for cell in (*_cells(state, name), *trials) for commit in commits_of(cell)})


def _settings(planned: Planned | None, plan: Plan, name: str) -> dict[str, object]:
    """What a reader wants to know of an arm: its method's numbers, its rate, and what its own section sets."""
    experiment = planned.experiment if planned and planned.experiment else plan.experiment(name)
    rows = flat(experiment.to_tree())
    own = set(flat(plan.comparison.arms[name].settings))
    shown = [key for key in rows if key.startswith("method.") and key != "method.name"]
    return {key: _plain(rows[key]) for key in dict.fromkeys([*shown, "optimizer.lr", "train.steps", *sorted(own & set(rows))])}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _trials(state: State, name: str) -> list[Trial]:
    planned = state.plan.trials(name)
    choice, scores = state.choice(name), state.trial_scores(planned)
    shown = [None if score is None or not np.isfinite(score) else score for score in scores]
    rows = {trial.trial: Trial(dict(trial.knobs), score, trial.knobs == choice) for trial, score in zip(planned, shown, strict=True)}
    return list(rows.values())


def _training(cells: Sequence[Cell]) -> dict[str, float]:
    """Numbers of the runs' own record, averaged: cost, speed, drift, and margins and accuracy at the end."""
    flats = [flat(cell.training) for cell in cells]
    keys = [key for key, value in flats[0].items() if _is_number(value) and all(_is_number(each.get(key)) for each in flats)]
    return {key: float(np.mean([float(str(each[key])) for each in flats])) for key in keys}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _picture(planned: Planned, out: Path) -> str | None:
    path = out / PICTURES / f"{planned.stem}.png"
    return path.name if path.is_file() else None


def _version(cell: Cell) -> str:
    packages = cell.versions.get("packages")
    known = packages if isinstance(packages, dict) else {}
    commit, gpus = ", ".join(commits_of(cell)), cell.versions.get("gpus")
    place = ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else "CPU"
    return f"inpo {known.get('inpo')} ({commit}), torch {known.get('torch')}, diffusers {known.get('diffusers')}, on {place}"
