"""What a user types, through the real entrance: train, resume, generate, evaluate, report, and every refusal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.end_to_end.conftest import Run, small

RECIPES = {"inpo": "sd15-inpo", "diffusion-dpo": "sd15-dpo", "sft": "sd15-sft"}
WITHOUT_US = """
import sys, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], use_safetensors=True)
pipe.set_progress_bar_config(disable=True)
image = pipe("a red circle", num_inference_steps=2, height=16, width=16, generator=torch.Generator().manual_seed(0)).images[0]
assert image.size == (16, 16), image.size
assert "inpo" not in sys.modules
print("generated")
"""


@pytest.mark.parametrize("method", RECIPES)
def test_train_resume_and_use_without_us(method: str, run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Two steps and two more after a resume; the run folder is as documented; plain diffusers loads and samples the result."""
    out, settings = tmp_path / "run", small(tiny_pipeline, pairs_file, method)
    first = run("train", RECIPES[method], *settings, "--out", out)
    assert first.code == 0, first.err
    assert yaml.safe_load((out / "config.yaml").read_text())["method"]["name"] == method
    again = run("train", RECIPES[method], *settings, "train.steps=4", "--out", out, "--resume", "latest")
    assert again.code == 0, again.err
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(row["row"], row["field"]) for row in rejected] == [(13, "jpg_1")]
    assert json.loads((out / "summary.json").read_text())["methods"][method]["steps"] == 4
    done = subprocess.run([sys.executable, "-c", WITHOUT_US, str(out / "model")], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "generated", done.stderr


@pytest.mark.parametrize("variant", ["tiny_v_pipeline", "tiny_zero_snr_pipeline"])
def test_inpo_trains_v_prediction_models(variant: str, run: Run, request: pytest.FixtureRequest, pairs_file: Path, tmp_path: Path) -> None:
    """v is read from the model's own config; with zero terminal SNR, t = T − 1 is a time like any other."""
    settings = small(request.getfixturevalue(variant), pairs_file, "inpo", "train.pairs_per_step=8")
    done = run("train", "sd15-inpo", *settings, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_bf16_starts_from_the_identity(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """bf16 with fp32 master weights: policy and reference round alike, so the first loss is log 2 and the run goes on."""
    settings = small(tiny_pipeline, pairs_file, "inpo", "model.dtype=bf16", "output.format=unet", "optimizer.name=adafactor")
    done = run("train", "sd15-inpo", *settings, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert (tmp_path / "run" / "model" / "unet" / "config.json").is_file()


def test_generate_evaluate_report(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Pictures of a prompt file, then a model against itself under the same seeds: every comparison a tie, win rate ½ exactly."""
    (tmp_path / "prompts.txt").write_text("a red circle\n<script>alert(1)</script>\na blue square\n")
    made = run("generate", "--model", tiny_pipeline, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "pictures", "--steps", 2)
    assert made.code == 0, made.err
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3
    judged = run(
        "evaluate", "--candidate", tiny_pipeline, "--baseline", tiny_pipeline, "--prompts", tmp_path / "prompts.txt",
        "--scorers", "world:oracle", "--steps", 2, "--out", tmp_path / "judged",
    )  # fmt: skip
    assert judged.code == 2
    assert "a red circle" in judged.err
    assert "world:oracle" in judged.err


def test_dry_run_trains_nothing_and_names_the_cost(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Sizes, memory, and METHOD's count: 2 train + 2 reference + 11 inversion image-forwards per pair at N = 10."""
    done = run("train", "sd15-inpo", *small(tiny_pipeline, pairs_file), "--out", tmp_path / "run", "--dry-run")
    assert done.code == 0, done.err
    assert "2 train + 2 reference + 11 inversion" in done.out
    assert "12 available" in done.out
    assert not (tmp_path / "run").exists()


def test_help_fits_on_one_screen(run: Run) -> None:
    lines = run("--help").out.splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    assert not any(line.rstrip().endswith("...") for line in lines)


def test_recipes_are_listed_and_printed(run: Run) -> None:
    assert all(name in run("recipes").out for name in ("world-inpo", "world-dpo", "world-sft", "sd15-inpo", "sd15-dpo", "sd15-sft"))
    assert "beta: 2000.0" in run("recipes", "sd15-inpo").out
    assert run("recipes", "sd15-impo").code == 2


def test_validate_lists_what_is_wrong(run: Run, pairs_file: Path) -> None:
    """The broken picture by row and field, exit 2; no model is loaded for it."""
    done = run("data", "validate", pairs_file)
    assert done.code == 2
    assert "row 13" in done.out
    assert "jpg_1" in done.out


REFUSALS = {
    "a misspelt key": (["train.step=3"], "did you mean 'steps'"),
    "a model that is not there": (["model.path=/nowhere/at/all"], "/nowhere/at/all"),
    "pairs that are not there": (["data.path=/nowhere.parquet"], "/nowhere.parquet"),
    "too few pairs for a step": (["train.pairs_per_step=4000"], "4000"),
    "too many broken rows": (["data.max_rejected_fraction=0"], "1 of"),
    "ties as errors": (["data.ties=error"], "label"),
    "a picture size that the VAE cannot halve": (["data.resolution=9"], "resolution"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_one_line_and_exit_two(case: str, run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    overrides, words = REFUSALS[case]
    done = run("train", "sd15-inpo", *small(tiny_pipeline, pairs_file), *overrides, "--out", tmp_path / "run")
    assert done.code == 2
    assert words in done.err
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err


def test_a_folder_of_another_run_is_refused(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """A second run into the same folder needs --force or --resume; a foreign folder is never touched; an absent checkpoint is an error."""
    settings = small(tiny_pipeline, pairs_file, "sft")
    assert run("train", "sd15-sft", *settings, "--out", tmp_path / "run").code == 0
    refused = run("train", "sd15-sft", *settings, "--out", tmp_path / "run")
    assert (refused.code, "--resume latest" in refused.err) == (2, True)
    assert run("train", "sd15-sft", *settings, "--out", tmp_path / "run", "--force").code == 0
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "model").write_text("mine")
    assert run("train", "sd15-sft", *settings, "--out", tmp_path / "thesis", "--force").code == 2
    assert (tmp_path / "thesis" / "model").read_text() == "mine"
    absent = run("train", "sd15-sft", *settings, "--out", tmp_path / "run", "--resume", tmp_path / "run" / "checkpoints" / "step-000099")
    assert (absent.code, "step-000099" in absent.err) == (2, True)
