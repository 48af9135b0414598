"""`inpo demo`: the whole job on the embedded world. InPO and Diffusion-DPO from the same base, judged on held-out prompts."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from inpo import world
from inpo.compose import prompt_set, scorer
from inpo.config import load_experiment
from inpo.console import say
from inpo.errors import InputError
from inpo.evaluation.summary import AGAIN
from inpo.generation import GenerationConfig
from inpo.verbs.alignment import Resume, train
from inpo.verbs.comparison import Contestant, generate_for, judge

if TYPE_CHECKING:
    from inpo.evaluation.summary import MethodSummary, Summary

RECIPES = {"inpo": "world-inpo", "diffusion-dpo": "world-dpo"}
SHUFFLED = "inpo-shuffled"
BASE = Contestant("base", "world")
PROMPTS = "world:heldout"
SCORERS = ("world:oracle", "world:clip")
# Another seed for the base against itself: its interval has to contain one half.
OTHER_SEED = 1_000_003
CONFIG = "config.yaml"
MARKER = "demo.json"
"""The file by which a demo's folder is known again: all else in it has names that other folders have too."""


@dataclass(frozen=True)
class DemoSize:
    """How large a demo is. The defaults are what `inpo demo` runs; tests run smaller ones through the same code.

    `overrides`: settings for every recipe, as on the command line. `prompts`: how many held-out prompts, None for all.
    """

    overrides: tuple[str, ...] = ()
    prompts: int | None = None
    generation: GenerationConfig = field(default_factory=lambda: GenerationConfig(steps=20, guidance=world.GUIDANCE, batch=64))


def run_demo(out: Path, *, force: bool = False, null: bool = False, size: DemoSize | None = None) -> Summary:
    """Trains, judges, writes summary.json and report.html into `out`, and returns the summary.

    `null` adds the control on shuffled labels. Raises `Interrupted`, and `InputError` where `out` holds something else, unless `force`.
    """
    from inpo.evaluation.summary import SUMMARY, read_summary, write_summary
    from inpo.report import build_report

    size = size or DemoSize()
    _prepare(out, force=force)
    trained: dict[str, MethodSummary] = {}
    for name, overrides in _runs(null).items():
        experiment = load_experiment(RECIPES.get(name, RECIPES["inpo"]), (*overrides, *size.overrides))
        say(f"training {experiment.method.title} ({name})")
        train(experiment, out / name, Resume(force=force))
        trained[name] = read_summary(out / name / SUMMARY).methods[experiment.method.name]
    methods = _judged(out, trained, size)
    summary = write_summary(out / SUMMARY, kind="demo", baseline=BASE.name, methods=methods)
    build_report(out)
    return summary


def _runs(null: bool) -> dict[str, tuple[str, ...]]:
    runs: dict[str, tuple[str, ...]] = dict.fromkeys(RECIPES, ())
    return {**runs, SHUFFLED: ("data.path=world:pairs-shuffled",)} if null else runs


def _judged(out: Path, trained: Mapping[str, MethodSummary], size: DemoSize) -> dict[str, MethodSummary]:
    prompts, scorers = prompt_set(PROMPTS)[: size.prompts], [scorer(name) for name in SCORERS]
    contestants = [Contestant(name, str(out / name)) for name in trained] + [Contestant(AGAIN, BASE.path, OTHER_SEED)]
    for contestant in (BASE, *contestants):
        generate_for(contestant, prompts, out, size.generation)
    judged = {contestant.name: judge(contestant, BASE, scorers, out) for contestant in contestants}
    return {name: _with_training(entry, trained.get(name)) for name, entry in judged.items()}


def _with_training(entry: MethodSummary, numbers: MethodSummary | None) -> MethodSummary:
    """The evaluation's entry with the fields that training filled in."""
    if numbers is None:
        return entry
    known = {f.name: getattr(numbers, f.name) for f in dataclasses.fields(numbers) if f.init and getattr(numbers, f.name)}
    return dataclasses.replace(entry, **known)


def _prepare(out: Path, *, force: bool) -> None:
    """The base's own folder, and nothing left of an earlier demo."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; the demo needs a folder")
    if out.is_dir() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise InputError(f"{out} is not empty and holds no earlier demo; choose another folder with --out")
        if not force:
            raise InputError(f"{out} holds an earlier demo; replace it with --force, or choose another folder with --out")
        for left in ("evaluation", SHUFFLED):
            shutil.rmtree(out / left, ignore_errors=True)
        for left in ("summary.json", "report.html"):
            (out / left).unlink(missing_ok=True)
    base = out / BASE.name
    base.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text('{"schema": 1, "kind": "demo"}\n', encoding="utf-8")
    (base / CONFIG).write_text("model:\n  path: world\n", encoding="utf-8")
    shutil.copytree(world.pipeline_path(), base / "model", dirs_exist_ok=True)
