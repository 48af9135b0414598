"""What a comparison keeps is worked out once, and again when the files have changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from inpo.comparing import Choice, compare, kept
from inpo.comparing.job import look_up
from inpo.comparing.kept import Kept
from inpo.comparing.make import _drift
from inpo.compose import load
from inpo.config import Experiment, load_experiment
from inpo.data import index
from inpo.models.config import ModelConfig
from tests.unit.comparing.small import TREE, write
from tests.unit.data import making


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[ModelConfig]:
    """The models that were loaded for a fingerprint."""
    seen: list[ModelConfig] = []

    def counted(config: ModelConfig) -> object:
        seen.append(config)
        return load(config)

    monkeypatch.setattr(kept, "load", counted)
    return seen


def test_a_model_is_loaded_for_its_fingerprint_when_its_files_are_new(
    tiny_pipeline: Path, tmp_path: Path, loaded: list[ModelConfig]
) -> None:
    """Once for any number of starts; again when a file was touched, or what is kept is not whole; never an old answer for new weights."""
    config = ModelConfig(str(shutil.copytree(tiny_pipeline, tmp_path / "model")))
    expected = load(config).fingerprint()
    assert [Kept(tmp_path / "out").model_fingerprint(config) for _ in range(3)] == [expected] * 3
    assert len(loaded) == 1
    weights = next((tmp_path / "model" / "unet").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(1, 1))
    changed = Kept(tmp_path / "out").model_fingerprint(config)
    assert changed == load(config).fingerprint() != expected
    next((tmp_path / "out" / "kept").iterdir()).write_text("{")
    assert Kept(tmp_path / "out").model_fingerprint(config) == changed
    assert len(loaded) == 3
    Kept(None).model_fingerprint(config)
    assert len(loaded) == 4


def test_pairs_are_examined_once_for_all_runs_and_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: list[ModelConfig]
) -> None:
    """A run on pairs, one on a picture of each of them, and a list afterwards: one pass over the file, one model loaded."""
    caption = "a big red circle on a white background"
    file = making.write(tmp_path / "pairs.parquet", [making.row(i, caption=caption) for i in range(30)])
    built, build = [], index._build

    def counted(*arguments: Any, **others: Any) -> object:
        built.append(arguments)
        return build(*arguments, **others)

    monkeypatch.setattr(index, "_build", counted)
    settings = {**TREE["settings"], "data": {"path": str(file), "resolution": 32}, "train": {"steps": 4, "pairs_per_step": 4}}  # type: ignore[dict-item]
    arms = {"inpo": {"method": "inpo"}, "kto": {"method": "diffusion-kto", "settings": {"data.positive_ratio": 0.8}}}
    small: dict[str, Any] = {"settings": settings, "arms": arms, "knobs": None, "seeds": 1}
    source = write(tmp_path / "a.yaml", **small)
    compare(source, tmp_path / "out", Choice(only=("inpo", "kto")))
    state = look_up(source, tmp_path / "out")
    assert [state.find(cell) is not None for cell in state.planned()] == [False, False, True, True]
    assert (len(built), len(loaded)) == (1, 1)
    pair, single = (cell for cell in state.planned() if cell.experiment is not None)
    # 4 steps of 4: InPO's 15 for each pair; of a single picture KTO trains one forward and asks the reference for one.
    assert [pair.forwards - pair.judge.forwards(pair.keys), single.forwards - single.judge.forwards(single.keys)] == [16 * 15, 16 * 2]
    before = [cell.digest for cell in state.planned()]
    making.write(file, [making.row(i, caption=caption) for i in range(31)])
    other = look_up(source, tmp_path / "out")
    assert [a == b for a, b in zip(before, [cell.digest for cell in other.planned()], strict=True)] == [True, True, False, False]


def test_looking_at_a_folder_that_is_no_comparison_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    look_up(write(tmp_path / "a.yaml"), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_drift_is_that_of_the_networks_weights(tiny_pipeline: Path, tmp_path: Path) -> None:
    """Every weight times 1.5 has moved by half of where it was."""
    model = load(str(tiny_pipeline))
    for value in model.policy.network.parameters():
        value.data *= 1.5
    model.save_pipeline(tmp_path / "model")
    experiment: Experiment = load_experiment("sd15-sft", [f"model.path={tiny_pipeline}", "data.path=x"])
    assert _drift(experiment, tmp_path) == pytest.approx(0.5, rel=1e-6)
