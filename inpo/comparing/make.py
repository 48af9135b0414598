"""One cell is made: a run is trained in a work folder and judged as it goes, and what came out becomes one JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inpo.comparing.cells import CELLS, Cell, Point, rounded, write_cell
from inpo.comparing.kept import Kept
from inpo.comparing.plan import Planned
from inpo.compose import load, resolve_model
from inpo.config import Experiment
from inpo.console import say
from inpo.errors import InputError
from inpo.evaluation.scores import PART
from inpo.evaluation.scoring import PartScorer
from inpo.files import replacing
from inpo.generation import generate_images, write_png
from inpo.models.config import ModelConfig
from inpo.models.loading import load_network
from inpo.models.parts import examine
from inpo.training.checkpoint import steps_in
from inpo.training.environment import environment, git_commit
from inpo.training.lock import Lock
from inpo.verbs.alignment import Resume, train

if TYPE_CHECKING:
    from inpo.models.model import Model

WORK, PICTURES = "work", "pictures"
COMMITS = "commits.json"
SHOWN = 8
"""Pictures of one model that are kept for the page, evenly spread over the prompts and not chosen."""
END_SHARE = 0.25
"""The part of a run, at its end, over which what it says about itself is averaged."""


@contextmanager
def taken(planned: Planned, out: Path) -> Iterator[Path | str]:
    """The cell's work folder for this process alone; where it is not to be had, what its lock says of who has it."""
    work = out / WORK / planned.stem
    work.mkdir(parents=True, exist_ok=True)
    try:
        lock = Lock(work / "lock.json")
    except (InputError, FileNotFoundError) as held:
        # Not found: whoever had the folder has finished just now and removed it.
        yield str(held)
        return
    try:
        yield work
    finally:
        lock.release()


def make(planned: Planned, work: Path, out: Path) -> Cell:
    """Trains and judges, from where an interrupted process left it, writes the cell and removes the work folder.

    Raises `Interrupted` (the next call continues), `InputError` and `RunFault`.
    """
    look, commits = Look(planned, work), _worked_on(work)
    training: Mapping[str, object] = {}
    if planned.experiment is None:
        look(load(planned.model), 0)
    else:
        training = _trained(planned.experiment, look, work, pairs=Kept(out).pairs(planned.experiment.data))
    points = [_point(look.path(key), training) for key in planned.keys]
    known = environment()
    versions = {**{key: known[key] for key in ("python", "platform", "packages", "git_commit", "cpu", "gpus")}, "git_commits": commits}
    cell = Cell(
        planned.arm, planned.role, planned.seed, planned.digest, dict(planned.identity), planned.settings, list(planned.judge.prompts),
        points, dict(planned.knobs), {key: value for key, value in training.items() if key != "cost"}, versions,
    )  # fmt: skip
    if (work / "grid.png").is_file():
        (out / PICTURES).mkdir(exist_ok=True)
        shutil.copy(work / "grid.png", out / PICTURES / f"{planned.stem}.png")
    write_cell(out / CELLS / f"{planned.stem}.json", cell)
    shutil.rmtree(work, ignore_errors=True)
    return cell


def _worked_on(work: Path) -> list[str | None]:
    """The commits of the program that worked in this folder, in turn, this process's among them, which is noted there."""
    path, commit = work / COMMITS, git_commit()
    known: list[str | None] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    if known[-1:] != [commit]:
        known.append(commit)
        with replacing(path) as partial:
            partial.write_text(json.dumps(known), encoding="utf-8")
    return known


@dataclass(frozen=True)
class Look:
    """Calling it with the model as it is at a step makes and scores the pictures of every point of that step, once."""

    planned: Planned
    work: Path

    def path(self, key: tuple[int, int, float]) -> Path:
        """Where a point is kept until the cell is complete."""
        step, sampler_steps, guidance = key
        return self.work / "points" / f"step-{step:06d}.sampler-{sampler_steps}.guidance-{guidance:g}.json"

    def __call__(self, model: Model, step: int) -> None:
        for key in [key for key in self.planned.keys if key[0] == step]:
            if not self.path(key).is_file():
                self._judge(model, key)

    def _judge(self, model: Model, key: tuple[int, int, float]) -> None:
        judge, offset = self.planned.judge, self.planned.seed if self.planned.experiment is None else 0
        say(f"{self.planned.stem}: pictures at step {key[0]}, {key[1]} sampler steps, guidance {key[2]:g}")
        pictures = generate_images(model, judge.prompts, judge.sampling(key[1], key[2], seed_offset=offset))
        if key[1:] == (judge.judging.sampler_steps, judge.judging.guidance):
            self._keep(pictures)
        self.path(key).parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path(key)) as partial:
            partial.write_text(json.dumps(self._scores(pictures)), encoding="utf-8")

    def _scores(self, pictures: Tensor) -> dict[str, list[list[float | None]]]:
        judge, samples = self.planned.judge, self.planned.judge.judging.samples
        shown, prompts = list(pictures), [prompt for prompt in judge.prompts for _ in range(samples)]
        columns: dict[str, Tensor] = {}
        for each, label in zip(judge.scorers, judge.labels, strict=True):
            columns[label] = each.score(shown, prompts)
            if isinstance(each, PartScorer) and self.planned.role != "knobs":
                columns |= {f"{label}{PART}{name}": values for name, values in each.parts(shown, prompts).items()}
        lists = {name: rounded(values.tolist()) for name, values in columns.items()}
        return {name: [row[i : i + samples] for i in range(0, len(row), samples)] for name, row in lists.items()}

    def _keep(self, pictures: Tensor) -> None:
        """One strip of pictures of the first seed, side by side; a later step's replaces it."""
        if self.planned.role == "knobs" or self.planned.seed != 0:
            return
        # A white line on either side of each: two pictures of one background would run into one.
        shown = torch.nn.functional.pad(pictures[shown_places(len(pictures))], (0, 0, 1, 1), value=255)
        write_png(self.work / "grid.png", torch.cat(list(shown), dim=1).numpy())


def shown_places(count: int) -> list[int]:
    """Which of so many pictures are kept."""
    return torch.linspace(0, count - 1, min(SHOWN, count)).round().long().tolist()


def _trained(experiment: Experiment, look: Look, work: Path, *, pairs: Path | None) -> dict[str, object]:
    """The run's facts; `cost`: network image-forwards by step.

    It saves as its settings say: a point that was judged is kept, and what is trained again after a kill is the same bit for bit.
    """
    steps = look.planned.judge.judging.steps_of(experiment.train.steps)
    rhythm = dataclasses.replace(
        experiment.train, sample_every_steps=math.gcd(*steps), validate_every_steps=experiment.train.steps, keep=1
    )
    output = dataclasses.replace(experiment.output, format="pipeline")
    run = work / "run"
    saved = max(steps_in(run / "checkpoints"), default=0)
    # A step may be asked for that the interrupted run has passed: only one from the beginning comes by it again.
    began = saved > 0 and all(look.path(key).is_file() for key in look.planned.keys if key[0] < saved)
    fitted = dataclasses.replace(experiment, train=rhythm, output=output, report_to=())
    result = train(fitted, run, Resume("latest") if began else Resume(force=True), look=look, pairs=pairs)
    return {"stopped": result.stopped, **run_facts(run / "metrics.jsonl", experiment), "drift": _drift(experiment, run)}


def run_facts(metrics: Path, experiment: Experiment) -> dict[str, object]:
    """What metrics.jsonl says: cost and speed of the whole run, and its own numbers averaged over the last quarter."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["step"] > 0]
    pairs = experiment.train.pairs_per_step
    cost, total = {0: 0.0}, 0.0
    for line in lines:
        total += pairs * line["unet_forwards_per_pair"]
        cost[line["step"]] = total
    seconds = sum(pairs / line["pairs_per_second"] for line in lines)
    last = lines[-math.ceil(END_SHARE * len(lines)) :]
    end = {key: sum(line[key] for line in last) / len(last) for key in last[-1] if all(_is_number(line.get(key)) for line in last)}
    for key in ("step", "lr", "pairs_per_second", "unet_forwards_per_pair", "peak_memory_bytes"):
        end.pop(key, None)
    held_out = lines[-1].get("validation") or {}
    return {
        "steps": lines[-1]["step"], "pairs_per_step": pairs, "unet_forwards_per_pair": total / (pairs * len(lines)),
        "seconds": seconds, "pairs_per_second": pairs * len(lines) / seconds, "end": end,
        "held_out": {key: value for key, value in held_out.items() if _is_number(value)}, "cost": cost,
    }  # fmt: skip


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _drift(experiment: Experiment, run: Path) -> float:
    """‖θ − θ_0‖/‖θ_0‖ of the network's weights, adapters merged: how far training has gone, for every method alike."""
    places = (resolve_model(experiment.model), ModelConfig(str(run / "model")))
    before, after = (load_network(examine(place)).state_dict() for place in places)
    moved = sum(float((after[name].double() - before[name].double()).square().sum()) for name in before)
    return math.sqrt(moved / sum(float(value.double().square().sum()) for value in before.values()))


def _point(path: Path, training: Mapping[str, object]) -> Point:
    step, sampler, guidance = (part.partition("-")[2] for part in path.name.removesuffix(".json").split(".", 2))
    cost = training.get("cost")
    forwards = cost[int(step)] if isinstance(cost, dict) else 0.0
    return Point(int(step), int(sampler), float(guidance), forwards, json.loads(path.read_text(encoding="utf-8")))
