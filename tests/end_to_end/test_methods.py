"""Every method × family by the command line: trained, resumed, exported, loaded again and asked for a picture."""

from __future__ import annotations

import gc
import json
from itertools import product
from pathlib import Path

import pytest

from inpo.methods import METHODS
from tests.end_to_end.conftest import Run, small
from tests.training_runs import metrics
from tests.unit.data import making
from tests.unit.data.test_singles import as_jsonl

FAMILIES = {
    "SD1.5": ("tiny_pipeline", "sd15"),
    "SD2-v": ("tiny_v_pipeline", "sd15"),
    "SDXL": ("tiny_sdxl_pipeline", "sdxl"),
    "SD3": ("tiny_sd3_pipeline", "sd3"),
    "PixArt-Σ": ("tiny_pixart_pipeline", "pixart"),
}
CASES = [case for case in product(METHODS, FAMILIES) if case[1] != "PixArt-Σ" or case[0] in ("inpo", "mapo", "diffusion-kto")]
"""Every method on every family; on PixArt, for the suite to stay short, one with a reference, one without, one on single pictures."""
OWN = {
    "smpo": ("data.score_columns=[score_0,score_1]",),
    "inversion-dpo": ("method.noising.inversion_steps=4",),
}
"""What a method wants besides plain labels, or wants less of to be done in seconds."""


@pytest.fixture(scope="module")
def scored_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pairs with labels and with scores that agree with them."""
    rows = [making.row(i) for i in range(12)]
    rows = [row | {f"score_{k}": float(row[f"label_{k}"]) + 0.1 * i for k in (0, 1)} for i, row in enumerate(rows)]
    return making.write(tmp_path_factory.mktemp("scored") / "pairs.parquet", rows)


@pytest.fixture(scope="module")
def singles_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight single pictures, six of them desired."""
    return as_jsonl(tmp_path_factory.mktemp("singles") / "data")


@pytest.fixture(scope="session")
def of_bases() -> dict[str, str]:
    """The picture that each family's base draws: filled by the first case that asks for it."""
    return {}


def picture(run: Run, model: Path, folder: Path) -> str:
    """Drawn in two steps."""
    (folder.parent / "prompts.txt").write_text("a red circle\n", encoding="utf-8")
    settings = ("--prompts", folder.parent / "prompts.txt", "--steps", 2, "--guidance", 3)
    made = run("generate", "--model", model, *settings, "--out", folder)
    assert made.code == 0, made.err
    (record,) = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    assert record["fault"] is None
    return str(record["sha256"])


@pytest.mark.parametrize(("method", "family"), CASES, ids=lambda name: name)
def test_two_steps_resume_export_reload_generate(
    method: str, family: str, run: Run, request: pytest.FixtureRequest, of_bases: dict[str, str], tmp_path: Path
) -> None:
    """The first loss is the objective's own at u = 0; the second step after a resume is the one of the run that was not cut; the
    exported pipeline makes another picture than the base does."""
    (fixture, recipe), singles = FAMILIES[family], method == "diffusion-kto"
    base, out = request.getfixturevalue(fixture), tmp_path / "run"
    data: Path = request.getfixturevalue("singles_file" if singles else "scored_file")
    settings = small(
        base, data, method, "model.prediction=null", "train.pairs_per_step=2", "data.validation_fraction=0", "optimizer.lr=0.001",
        *OWN.get(method, ()),
    )  # fmt: skip
    done = run("train", f"{recipe}-inpo", *settings, "--out", out)
    assert done.code == 0, done.err
    resumed = run("train", f"{recipe}-inpo", *settings, "--resume", out / "checkpoints" / "step-000001", "--out", tmp_path / "resumed")
    assert resumed.code == 0, resumed.err
    first, second = metrics(out)
    assert metrics(tmp_path / "resumed") == [second]
    declared = METHODS[method].objective.at_zero_margin
    assert declared is None or first["loss"] == pytest.approx(declared, abs=1e-4)
    # A single picture is seen once by the policy and once by the reference, and has no margin.
    assert not singles or (first["unet_forwards_per_pair"], first.get("margin")) == (2, None)

    exported = run("export", out, "--format", "pipeline", "--out", tmp_path / "exported")
    assert exported.code == 0, exported.err
    if family not in of_bases:
        of_bases[family] = picture(run, base, tmp_path / "before")
    assert picture(run, tmp_path / "exported", tmp_path / "after") != of_bases[family]


@pytest.mark.parametrize(
    ("method", "more", "networks"),
    [("mapo", (), 1), ("sft", (), 1), ("diffusion-dpo", (), 2), ("diffusion-dpo", ("lora.rank=2",), 1), ("inversion-dpo", (), 2)],
)
def test_how_many_networks_a_run_holds(
    method: str, more: tuple[str, ...], networks: int, run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """While it trains: MaPO and SFT one UNet, Diffusion-DPO a policy and its reference, and with LoRA one that is both."""
    from diffusers import UNet2DConditionModel

    from inpo.training.trainer import Trainer

    held, step_once = [], Trainer.step_once

    def counted(self: Trainer, step: int) -> object:
        gc.collect()
        held.append(sum(type(each) is UNet2DConditionModel for each in gc.get_objects()) - before)
        return step_once(self, step)

    monkeypatch.setattr(Trainer, "step_once", counted)
    gc.collect()
    before = sum(type(each) is UNet2DConditionModel for each in gc.get_objects())
    done = run("train", "sd15-inpo", *small(tiny_pipeline, pairs_file, method, *more, *OWN.get(method, ())), "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert held == [networks] * 2
