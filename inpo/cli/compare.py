"""`inpo compare`: methods side by side."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from inpo.cli.interruption import interrupted, interruptible
from inpo.cli.options import Out
from inpo.errors import InputError, Interrupted

app = typer.Typer()


@app.command("compare")
def compare(
    source: Annotated[str, typer.Argument(help="A packaged comparison (world, world-ablations, world-hypotheses) or a .yaml file.")],
    out: Out,
    only: Annotated[str | None, typer.Option(help="Make cells of these arms only, comma-separated; 'base' is one.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Make the table's cells of these training seeds only: 0-3 or 0,2,5.")] = None,
    knobs: Annotated[bool, typer.Option("--knobs", help="Make only the trials that choose settings.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Make no cell; write table and page from the finished ones.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List finished and missing cells, with their cost; make nothing.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes on this machine that share the work; each gets a share of the cores, or a GPU.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Everything at the small size of the file's section 'quick'.")] = False,
) -> None:
    """Compare methods side by side, from one base and on one budget. The same command goes on where it stopped, or helps another."""
    again = shlex.join(["inpo", *sys.argv[1:]])
    with interruptible(lambda: f"the cells in {out / 'cells'} are kept; go on with: {again}"):
        from inpo.comparing import Choice
        from inpo.comparing import compare as run
        from inpo.comparing.job import listing, look_up

        if table and (list_ or knobs or only is not None or seeds is not None):
            raise InputError("--table makes no cell and shows all that are there: leave out --list, --knobs, --only and --seeds")
        choice = Choice(None if only is None else tuple(only.split(",")), None if seeds is None else _numbers(seeds), knobs, table)
        if list_:
            print("\n".join(listing(look_up(source, out, quick=quick), choice)))
            return
        try:
            run(source, out, choice, quick=quick, jobs=jobs)
        except Interrupted as stop:
            raise interrupted(str(stop), stop.signal, f"go on with: {again}") from None
        _show(out)


def _show(out: Out) -> None:
    """The table, and where the rest is; nothing where there is no table yet."""
    from inpo.console import print_summary
    from inpo.evaluation.summary import SUMMARY, read_summary

    if (out / SUMMARY).is_file():
        print_summary(read_summary(out / SUMMARY))
        print(f"differences between methods: {out / 'table.md'}\nreport: {out / 'report.html'}")


def _numbers(text: str) -> tuple[int, ...]:
    """0-3,7 as (0, 1, 2, 3, 7). Raises `InputError`."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise InputError(f"--seeds={text!r} must be numbers and ranges upwards, as in 0-3,7")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)
