"""The page: everything that was read, through templates that escape it, into one file without a script or a request."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inpo.errors import InputError
from inpo.evaluation.compared import COMPARISON
from inpo.evaluation.summary import to_json
from inpo.files import replacing
from inpo.report import wording
from inpo.report.accuracy import accuracy_view
from inpo.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from inpo.report.curves import bucket_charts, held_out_charts, step_charts
from inpo.report.files import RunFolder, Training, flattened, read_run
from inpo.report.gallery import gallery, strips
from inpo.report.pictures import Album
from inpo.report.results import method_colours, results

if TYPE_CHECKING:
    from jinja2 import Environment

    from inpo.evaluation.accuracy import Accuracy

REPORT = "report.html"

COSTS = {
    "steps": "steps",
    "lr": "learning rate",
    "beta": "β",
    "pairs_per_second": "pairs / s",
    "unet_forwards_per_pair": "network forwards / pair",
    "seconds": "seconds",
}
"""What a method's training took, and what it is called."""

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Settings:
    """Settings of all runs under their dotted names: those that `differ` (a value for each run) and those that all `share`."""

    runs: tuple[str, ...]
    differ: tuple[tuple[str, tuple[object, ...]], ...]
    share: tuple[tuple[str, object], ...]


def build_report(run: Path) -> Path:
    """Writes `run`/report.html from the files in the folder, and returns its path. Replaces an earlier page in one move.

    Pieces that are missing or broken are named in the page. Raises `InputError` where there is no such folder, or nothing of a run in it.
    """
    if (Path(run) / COMPARISON).is_file():
        from inpo.report.compare import render_comparison

        html = render_comparison(Path(run).resolve(), environment())
    else:
        found = read_run(Path(run).resolve())
        if not found.is_a_run:
            raise InputError(f"report: {run} holds neither a training run nor an evaluation; give a folder that was their --out")
        html = render(found)
    path = Path(run) / REPORT
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


def render(run: RunFolder) -> str:
    """The page as text. The same files give the same bytes."""
    album, found = Album(), results(run)
    colours = method_colours(run)
    return environment().get_template("page.html.jinja").render(
        run=run,
        found=found,
        gallery=gallery(run, found, album),
        strips=strips(run, album),
        album=album,
        step_charts=step_charts(run),
        held_out_charts=held_out_charts(run),
        bucket_charts=bucket_charts(run),
        stopped=[(wording.display_name(training.name), training.stopped) for training in run.trainings if training.stopped],
        legend_entries=[(wording.display_name(training.name), colours[training.name]) for training in run.trainings if training.metrics],
        settings=_settings(run.trainings),
        environment=[(key, value) for key, value in flattened(run.environment).items() if key not in ("command", "schema", "resumed")],
        command=_command(run),
        numbers=_numbers(flattened({"methods": _methods(run)})),
        rejected=_rejected(run.trainings),
        costs=_costs(run),
        digits=wording.gain_digits(_gains(run)),
        accuracies=[accuracy_view(place, accuracy) for place, accuracy in run.accuracies],
    )


def write_accuracy_page(path: Path, accuracy: Accuracy) -> None:
    """Accuracy on pairs on a page of its own. Replaces `path` in one move."""
    html = environment().get_template("accuracy_page.html.jinja").render(one=accuracy_view("", accuracy))
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8")


def environment() -> Environment:
    """Templates, filters and the page's style. Raises for a name that a template misspells."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        """Whatever a template prints: nothing invisible, nothing that turns the line round."""
        return wording.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "rate": wording.rate, "decimals": wording.decimals, "signed": wording.signed, "brief": wording.brief,
        "plain": wording.plain, "p_value": wording.p_value, "short": wording.short, "seed": wording.seed,
        "json": json.dumps, "name": wording.display_name,
    }  # fmt: skip
    made.globals |= {
        "style": Markup(style),
        "style_hash": base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii"),
        "chart": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    }
    return made


def _settings(trainings: Sequence[Training]) -> Settings:
    known = [training for training in trainings if training.settings]
    keys = dict.fromkeys(key for training in known for key in training.settings)
    differ, share = [], []
    for key in keys:
        values = tuple(training.settings.get(key, "–") for training in known)
        if all(value == values[0] for value in values):
            share.append((key, values[0]))
        else:
            differ.append((key, values))
    return Settings(tuple(wording.display_name(training.name) for training in known), tuple(differ), tuple(share))


def _rejected(trainings: Sequence[Training]) -> list[tuple[str, int, list[tuple[str, int]]]]:
    """(runs, rejected pairs, reasons and how often); runs on the same data tell the same, once."""
    groups: dict[tuple[int, tuple[tuple[str, int], ...]], list[str]] = {}
    for training in trainings:
        if training.rejected:
            key = training.rejected_pairs, tuple(training.rejected.most_common())
            groups.setdefault(key, []).append(wording.display_name(training.name))
    return [(", ".join(names), pairs, list(reasons)) for (pairs, reasons), names in groups.items()]


def _costs(run: RunFolder) -> list[tuple[str, str]]:
    """Columns of the table of costs that some method has a number for: (field of MethodSummary, heading)."""
    methods = run.summary.methods.values() if run.summary else ()
    return [(field, heading) for field, heading in COSTS.items() if any(getattr(entry, field) is not None for entry in methods)]


def _gains(run: RunFolder) -> list[float]:
    """Everything that is printed as a gain."""
    entries = run.summary.methods.values() if run.summary else ()
    parts = [gain for entry in entries for part in entry.parts.values() for gain in (part.gain, part.low, part.high)]
    return [*parts, *(gain for entry in entries for gain in (entry.mean_gain, entry.gain_low, entry.gain_high) if gain is not None)]


def _methods(run: RunFolder) -> Mapping[str, object]:
    return {key: to_json(entry) for key, entry in run.summary.methods.items()} if run.summary else {}


def _numbers(values: Mapping[str, object]) -> list[tuple[str, float]]:
    """Every number of summary.json under its dotted name."""
    return [(key, value) for key, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)]


def _command(run: RunFolder) -> str | None:
    return typed(run.environment)


def typed(environment: Mapping[str, object]) -> str | None:
    """What was typed, if the environment's record says."""
    command = environment.get("command")
    if not isinstance(command, list) or not command:
        return None
    program, *arguments = (str(word) for word in command)
    # sys.argv[0] is a path of the machine that it ran on.
    name = "python -m inpo" if program.endswith("__main__.py") else Path(program).name
    return shlex.join([*name.split(), *arguments])
