"""Whose noise a picture is drawn from, and which trial is the best: read off the cells, and not asked of what chooses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from inpo.comparing import compare, job, make
from inpo.comparing.cells import Cell, read_cell
from inpo.comparing.job import look_up
from inpo.comparing.plan import OTHER_SEED, Planned
from inpo.generation import GenerationConfig, generate_images
from tests.unit.comparing.small import TREE, write

SEED = 5
"""Of the evaluation's pictures."""


@dataclass(frozen=True)
class Made:
    """A comparison's file and folder, and the seeds that its pictures were drawn under, by arm and role."""

    file: str
    out: Path
    seeds: dict[tuple[str, str], set[int]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One arm of one step; two trials of two training seeds, each judged on two pictures of each prompt."""
    root = tmp_path_factory.mktemp("choosing")
    seeds: dict[tuple[str, str], set[int]] = {}
    current: list[tuple[str, str]] = []
    really, drawn = make.make, generate_images

    def making(cell: Planned, work: Path, out: Path) -> Cell:
        current.append((cell.arm, cell.role))
        return really(cell, work, out)

    def drawing(model: Any, prompts: Any, config: GenerationConfig) -> Tensor:
        seeds.setdefault(current[-1], set()).add(config.seed)
        return drawn(model, prompts, config)

    settings: dict[str, object] = {**TREE["settings"], "train": {"steps": 1, "pairs_per_step": 4}}  # type: ignore[dict-item]
    evaluation = {"prompts": "world:heldout", "scorers": ["world:oracle"], "limit": 3, "sampler_steps": 2, "guidance": 3.0, "seed": SEED}
    knobs = {"prompts": "world:validation", "trials": 2, "limit": 3, "seeds": 2, "samples": 2, "grid": {"optimizer.lr": [1e-5, 3e-3]}}
    file = write(root / "a.yaml", settings=settings, evaluation=evaluation, knobs=knobs, arms={"sft": {"method": "sft"}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "make", making)
        patch.setattr(make, "generate_images", drawing)
        compare(file, root / "out")
    return Made(file, root / "out", seeds)


def test_every_model_is_drawn_from_the_bases_noise(made: Made) -> None:
    """Whatever its training seed, so that a gain is the weights' alone; the base again, from noise of its own."""
    own = {SEED + OTHER_SEED}
    assert made.seeds == {("base", "base"): {SEED}, ("base-again", "base"): own, ("sft", "knobs"): {SEED}, ("sft", "table"): {SEED}}
    base, again = (read_cell(next((made.out / "cells").glob(f"{name}.seed-*"))) for name in ("base", "base-again"))
    ours, theirs = (np.array(cell.points[0].scores["world:oracle"], dtype=np.float64) for cell in (base, again))
    assert (ours != theirs).any()


def test_the_trial_with_the_highest_mean_is_chosen(made: Made) -> None:
    """Over three prompts, two pictures of each and two training seeds, added up from the cells' own files."""
    found: dict[float, list[float]] = {}
    for path in (made.out / "cells").glob("sft.knobs-*.json"):
        cell = json.loads(path.read_text(encoding="utf-8"))
        ((point,), rate) = cell["points"], cell["knobs"]["optimizer.lr"]
        assert np.shape(point["scores"]["world:oracle"]) == (3, 2)
        found.setdefault(rate, []).append(float(np.mean(point["scores"]["world:oracle"])))
    assert {rate: len(means) for rate, means in found.items()} == {1e-5: 2, 3e-3: 2}
    means = {rate: float(np.mean(each)) for rate, each in found.items()}
    state = look_up(made.file, made.out)
    trials = state.plan.trials("sft")
    assert state.trial_scores(trials) == pytest.approx([means[float(str(trial.knobs["optimizer.lr"]))] for trial in trials])
    best = max(means, key=lambda rate: means[rate])
    assert state.choice("sft") == {"optimizer.lr": best}
    runs = [read_cell(path) for path in (made.out / "cells").glob("sft.seed-*.json")]
    assert [run.settings["optimizer.lr"] for run in runs] == [best] * 2
