"""What the terminal shows: a bar while pictures are made, and the table of results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inpo.evaluation.summary import MethodSummary, Summary

HEADINGS = ("against {baseline}", "win rate", "95 %", "n", "mean gain", "second scorer", "steps", "pairs/s", "forwards/pair")
ABSENT = "–"
WIDE = 0.2
"""A 95 % interval of a win rate that is wider than this says little: at ½ it is that wide with about a hundred prompts."""


def bar(title: str) -> Callable[[int, int], None]:
    """A progress callback (done, total): redrawn in place on a terminal, silent elsewhere."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{title}: {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def counter(title: str) -> Callable[[int], None]:
    """A progress callback for work whose end is not known: every hundredth count on a terminal, silent elsewhere."""

    def show(done: int) -> None:
        if done % 100 == 0 and sys.stderr.isatty():
            print(f"\r{title}: {done}", end="", file=sys.stderr, flush=True)

    return show


def say(what: str) -> None:
    """What happens next, where it takes a while before anything else is to be seen."""
    print(what, file=sys.stderr, flush=True)


def print_summary(summary: Summary) -> None:
    """The win-rate table without the columns that nobody has a number for, and what its intervals do not allow to be said.

    Plain text of fixed width where the output is no terminal.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    rows = [[name, *_cells(method)] for name, method in summary.methods.items()]
    kept = [i for i in range(len(HEADINGS)) if any(row[i] != ABSENT for row in rows)]
    for i in kept:
        table.add_column(HEADINGS[i].format(baseline=summary.baseline), justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(row[i] for i in kept))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    for name, method in summary.methods.items():
        if caution := _caution(name, method, summary.baseline):
            console.print(f"{name}: {caution}", markup=False, highlight=False)


def _caution(name: str, method: MethodSummary, baseline: str) -> str:
    from inpo.evaluation.summary import AGAIN, UNSOUND

    if method.win_rate is None or method.low is None or method.high is None:
        return ""
    said = []
    if method.high - method.low > WIDE:
        said.append(f"few prompts ({method.n}), so the interval is wide")
    if method.low <= 0.5 <= method.high:
        said.append(f"the interval contains ½: these prompts do not tell it from {baseline}")
    elif name == AGAIN:
        said.append(UNSOUND)
    return "; ".join(said)


def _cells(method: MethodSummary) -> list[str]:
    second = method.second_scorer
    interval = ABSENT if method.low is None else f"\\[{method.low:.3f}, {method.high:.3f}]"
    return [
        _number(method.win_rate, "{:.3f}"),
        interval,
        _number(method.n, "{}"),
        _number(method.mean_gain, "{:+.4f}"),
        ABSENT if second is None else f"{second.win_rate:.3f} ({second.low:.3f}–{second.high:.3f})",
        _number(method.steps, "{}"),
        _number(method.pairs_per_second, "{:.0f}"),
        _number(method.unet_forwards_per_pair, "{:.1f}"),
    ]


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else form.format(value)
