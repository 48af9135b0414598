"""`inpo compare`: what is missing is made, cell by cell; several processes share one folder, and folders are merged by copying."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from inpo.checking import whole
from inpo.comparing.cells import CELLS, Shelf, read_cell
from inpo.comparing.make import WORK, make, taken
from inpo.comparing.plan import Plan, Planned
from inpo.comparing.processes import helped
from inpo.comparing.spec import AGAIN, BASE, Comparison, load_comparison
from inpo.comparing.state import State
from inpo.comparing.tables import write_results
from inpo.console import say
from inpo.errors import InputError, RunFault, nearest
from inpo.training.environment import git_commit


@dataclass(frozen=True)
class Choice:
    """Which of the missing cells to make. `only`: arms (`base` is one); `seeds`: training seeds of the table; None is all.

    `knobs`: the trials alone; `table`: none, so that tables and page are made of what is there.
    """

    only: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    knobs: bool = False
    table: bool = False

    def wants(self, cell: Planned, comparison: Comparison) -> bool:
        """Whether a cell is among them. Trials belong to every arm that takes over what they choose, whatever the seeds: without them
        nothing can follow."""
        if self.table or (self.knobs and cell.role != "knobs"):
            return False
        if cell.role == "knobs":
            return self.only is None or cell.arm in {comparison.chooser(name) for name in self.only}
        named = self.only is None or (BASE if cell.arm == AGAIN else cell.arm) in self.only
        return named and (cell.role != "table" or self.seeds is None or cell.seed in self.seeds)


def compare(source: str, out: Path, choice: Choice | None = None, *, quick: bool = False, jobs: int = 1) -> State:
    """Makes what is missing of the comparison `source` (a packaged one's name or a file) in `out`/cells; then table and page.

    A cell that is there is not made again, one that was interrupted goes on, and one that another process is making is left to
    it. `jobs` processes share the work, each with its part of the cores, or a GPU. Raises `InputError`, `RunFault` once everything
    else is made, and `Interrupted` once the last completed step is saved.
    """
    choice = choice or Choice()
    whole("--jobs", jobs, low=1)
    comparison = load_comparison(source, quick=quick)
    _check(comparison, choice)
    _prepare(out)
    with helped(jobs, out / WORK, {"source": source, "out": str(out), "choice": asdict(choice), "quick": quick}):
        state, faults = make_cells(comparison, out, choice)
    write_results(state, out)
    if faults:
        raise RunFault(f"{len(faults)} of the cells could not be made; the same command tries them again. The first: {faults[0]}")
    return state


def make_cells(comparison: Comparison, out: Path, choice: Choice) -> tuple[State, list[str]]:
    """Makes what is missing and wanted; what there is then, and what went wrong.

    A run that breaks down (numbers that are not finite, say) is told, and the others go on. While all that is left is being made by
    other processes, it waits for them: what follows from theirs may be to share again.
    """
    git_commit()
    plan, shelf = Plan(comparison, out), Shelf(out)
    held: dict[str, str] = {}
    told: set[str] = set()
    broken: dict[str, str] = {}
    while True:
        state = State(plan, shelf.cells())
        cell = _next(state, choice, {*held, *broken})
        if cell is None and not held:
            return state, list(broken.values())
        if cell is None:
            if new := set(held.values()) - told:
                say("\n".join([f"waiting for cells that other processes are making: {len(held)}", *sorted(new)]))
            told |= new
            time.sleep(WAIT_SECONDS)
            held.clear()
        elif (fault := _make(cell, out, held)) is not None:
            broken[cell.digest] = fault


def look_up(source: str, out: Path, *, quick: bool = False) -> State:
    """What there is, without making anything: `--list`. Raises `InputError`."""
    begun = out if (out / CELLS).is_dir() else None
    return State(Plan(load_comparison(source, quick=quick), begun), Shelf(out).cells())


def listing(state: State, choice: Choice) -> Iterator[str]:
    """A line for each cell that is wanted, and what is still to be done. Raises `InputError` for a choice of arms that are none."""
    comparison = state.plan.comparison
    _check(comparison, choice)
    left, done = 0.0, 0
    for cell in state.planned():
        if not choice.wants(cell, comparison):
            continue
        there = state.find(cell) is not None
        knobs = "".join(f" {key.rpartition('.')[2]}={value:g}" if isinstance(value, float) else f" {key}={value}"
                        for key, value in cell.knobs.items())  # fmt: skip
        yield f"{'there  ' if there else 'missing'} {cell.forwards:11,.0f}  {cell.stem}{knobs}"
        left, done = left + (0 if there else cell.forwards), done + there
    for name in state.waiting():
        if choice.only is not None and name not in choice.only:
            continue
        yield f"waiting              {name}: its knobs are chosen when its trials are there"
    yield f"{done} cells are there; the missing ones listed take {left:,.0f} network image-forwards, and backward passes on top"


def _next(state: State, choice: Choice, skipped: set[str]) -> Planned | None:
    comparison = state.plan.comparison
    wanted = (cell for cell in state.planned() if choice.wants(cell, comparison) and cell.digest not in skipped)
    return next((cell for cell in wanted if state.find(cell) is None), None)


def _make(cell: Planned, out: Path, held: dict[str, str]) -> str | None:
    """Makes a cell, or puts it among those that are `held`, with what their locks say. What went wrong, if something did."""
    path = out / CELLS / f"{cell.stem}.json"
    with taken(cell, out) as work:
        if isinstance(work, str):
            held[cell.digest] = work
        elif path.is_file() and cell.accepts(read_cell(path)):
            # Another process has finished it since this one looked.
            shutil.rmtree(work, ignore_errors=True)
        else:
            say(f"making {cell.stem}")
            try:
                make(cell, work, out)
            except RunFault as fault:
                say(f"{cell.stem} could not be made: {fault}")
                return f"{cell.stem}: {fault}"
    return None


def _check(comparison: Comparison, choice: Choice) -> None:
    names = [BASE, *comparison.arms]
    for name in choice.only or ():
        if name not in names:
            raise InputError(f"--only={name!r} is no arm of this comparison{nearest(name, names)}; it has {', '.join(names)}")


def _prepare(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; a comparison needs a folder")
    held = {entry.name for entry in out.iterdir() if not entry.name.startswith(".")} if out.is_dir() else set()
    if foreign := held - OWN:
        raise InputError(f"{out} holds {min(foreign)}, and is no comparison's folder; choose another --out")
    out.mkdir(parents=True, exist_ok=True)


WAIT_SECONDS = 5.0
"""Between looks at what other processes are making."""

OWN = {"cells", "work", "kept", "pictures", "comparison.json", "summary.json", "table.md", "table.csv", "report.html", "environment.json"}
"""What a comparison writes into its folder."""
