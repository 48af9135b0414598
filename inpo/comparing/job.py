"""`inpo compare`: what is missing is made, cell by cell; several processes share one folder, and folders are merged by copying."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inpo.comparing.cells import Cell, read_cells
from inpo.comparing.make import make, taken
from inpo.comparing.plan import Choice as Knobs
from inpo.comparing.plan import Plan, Planned
from inpo.comparing.spec import AGAIN, BASE, Comparison, load_comparison
from inpo.console import say
from inpo.errors import InputError, nearest


@dataclass(frozen=True)
class Choice:
    """Which of the missing cells to make. `only`: arms (`base` is one); `seeds`: training seeds of the table; None is all.

    `knobs`: the trials alone; `table`: none, so that tables and page are made of what is there.
    """

    only: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    knobs: bool = False
    table: bool = False

    def wants(self, cell: Planned) -> bool:
        """Whether a cell is among them. A trial belongs to its arm whatever the seeds: without it nothing can follow."""
        name = BASE if cell.arm == AGAIN else cell.arm
        if self.table or (self.only is not None and name not in self.only) or (self.knobs and cell.role != "knobs"):
            return False
        return cell.role != "table" or self.seeds is None or cell.seed in self.seeds


@dataclass(frozen=True)
class State:
    """A comparison and the cells that are in its folder, those of other settings among them."""

    plan: Plan
    cells: dict[Path, Cell]

    def find(self, planned: Planned) -> Cell | None:
        """The cell, if it is there and whole."""
        return next((cell for cell in self.cells.values() if cell.digest == planned.digest and planned.accepts(cell)), None)

    def choice(self, name: str) -> Knobs | None:
        """An arm's knobs: those of its best trial, or another arm's; {} where nothing is chosen, None while trials are missing."""
        arm = self.plan.comparison.arms[name]
        if arm.knobs_of is not None:
            return self.choice(arm.knobs_of)
        trials = self.plan.trials(name)
        if not trials:
            return {}
        scores = self.trial_scores(trials)
        return None if None in scores else trials[int(np.argmax([score for score in scores if score is not None]))].knobs

    def trial_scores(self, trials: Sequence[Planned]) -> list[float | None]:
        """Each trial's mean score over prompts and over the seeds of its knobs; None where a cell of them is missing."""
        found: dict[int | None, list[float | None]] = {}
        for trial in trials:
            cell = self.find(trial)
            point = cell.at(trial.keys[-1]) if cell else None
            score = float(np.nanmean(point.by_prompt(trial.judge.scorers[0].name))) if point else None
            found.setdefault(trial.trial, []).append(score)
        means = {key: None if None in scores else float(np.mean([s for s in scores if s is not None])) for key, scores in found.items()}
        return [means[trial.trial] for trial in trials]

    def planned(self) -> Iterator[Planned]:
        """Every cell whose knobs are known, in the order in which they should be made: seed by seed, so that a part of it is fair."""
        yield from self.plan.base()
        arms = list(self.plan.comparison.arms)
        for name in arms:
            yield from self.plan.trials(name)
        tables = [self.plan.table(name, choice) for name in arms if (choice := self.choice(name)) is not None]
        for i in range(max(map(len, tables), default=0)):
            yield from (table[i] for table in tables if i < len(table))

    def waiting(self) -> list[str]:
        """Arms whose knobs are not chosen yet."""
        return [name for name in self.plan.comparison.arms if self.choice(name) is None]


def compare(source: str, out: Path, choice: Choice | None = None, *, quick: bool = False) -> State:
    """Makes what is missing of the comparison `source` (a packaged one's name or a file) in `out`/cells; then table and page.

    A cell that is there is not made again, one that was interrupted goes on, and one that another process is making is left to
    it. Raises `InputError`, `RunFault`, and `Interrupted` once the last completed step is saved.
    """
    choice = choice or Choice()
    comparison = load_comparison(source, quick=quick)
    _check(comparison, choice)
    _prepare(out)
    state = State(Plan(comparison), read_cells(out))
    skipped: set[str] = set()
    while (cell := _next(state, choice, skipped)) is not None:
        if not _make(cell, out):
            skipped.add(cell.digest)
        state = State(state.plan, read_cells(out, state.cells))
    if skipped:
        say(f"left to the processes that are making them: {len(skipped)} cells; the same command completes the table when they are done")
    return state


def look_up(source: str, out: Path, *, quick: bool = False) -> State:
    """What there is, without making anything: `--list`. Raises `InputError`."""
    return State(Plan(load_comparison(source, quick=quick)), read_cells(out))


def listing(state: State) -> Iterator[str]:
    """A line for each cell, and what is still to be done."""
    left, done = 0.0, 0
    for cell in state.planned():
        there = state.find(cell) is not None
        knobs = "".join(f" {key.rpartition('.')[2]}={value:g}" if isinstance(value, float) else f" {key}={value}"
                        for key, value in cell.knobs.items())  # fmt: skip
        yield f"{'there  ' if there else 'missing'} {cell.forwards:11,.0f}  {cell.stem}{knobs}"
        left, done = left + (0 if there else cell.forwards), done + there
    for name in state.waiting():
        yield f"waiting              {name}: its knobs are chosen when its trials are there"
    yield f"{done} cells are there; the missing ones listed take {left:,.0f} UNet image-forwards, and backward passes on top"


def _next(state: State, choice: Choice, skipped: set[str]) -> Planned | None:
    wanted = (cell for cell in state.planned() if choice.wants(cell) and cell.digest not in skipped)
    return next((cell for cell in wanted if state.find(cell) is None), None)


def _make(cell: Planned, out: Path) -> bool:
    """Whether it could be made: another process may be at it."""
    with taken(cell, out) as work:
        if work is None:
            return False
        say(f"making {cell.stem}")
        make(cell, work, out)
        return True


def _check(comparison: Comparison, choice: Choice) -> None:
    names = [BASE, *comparison.arms]
    for name in choice.only or ():
        if name not in names:
            raise InputError(f"--only={name!r} is no arm of this comparison{nearest(name, names)}; it has {', '.join(names)}")


def _prepare(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; a comparison needs a folder")
    held = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if foreign := held - OWN:
        raise InputError(f"{out} holds {min(foreign)}, and is no comparison's folder; choose another --out")
    out.mkdir(parents=True, exist_ok=True)


OWN = {"cells", "work", "pictures", "comparison.json", "summary.json", "table.md", "table.csv", "report.html", "environment.json"}
"""What a comparison writes into its folder."""
