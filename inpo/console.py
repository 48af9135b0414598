"""What the terminal shows: a bar while pictures are made, and the table of results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inpo.evaluation.summary import MethodSummary, Summary

HEADINGS = ("against {baseline}", "win rate", "95 %", "n", "mean gain", "second scorer", "steps", "pairs/s", "UNet images/pair")


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
    """The win-rate table. Plain text of fixed width where the output is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for i, heading in enumerate(HEADINGS):
        table.add_column(heading.format(baseline=summary.baseline), justify="left" if i == 0 else "right")
    for name, method in summary.methods.items():
        table.add_row(name, *_cells(method))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _cells(method: MethodSummary) -> list[str]:
    second = method.second_scorer
    return [
        _number(method.win_rate, "{:.3f}"),
        f"[{_number(method.low, '{:.3f}')}, {_number(method.high, '{:.3f}')}]".replace("[", r"\["),
        _number(method.n, "{}"),
        _number(method.mean_gain, "{:+.4f}"),
        "–" if second is None else f"{second.win_rate:.3f} ({second.low:.3f}–{second.high:.3f})",
        _number(method.steps, "{}"),
        _number(method.pairs_per_second, "{:.0f}"),
        _number(method.unet_forwards_per_pair, "{:.1f}"),
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
