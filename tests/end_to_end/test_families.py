"""Every family and kind of prediction, from the folder that users have to the folder that they use, through the real entrance."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Run, small

WITHOUT_US = """
import sys, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], use_safetensors=True)
pipe.set_progress_bar_config(disable=True)
image = pipe("a red circle", num_inference_steps=2, height=16, width=16, generator=torch.Generator().manual_seed(0)).images[0]
assert image.size == (16, 16), image.size
assert "inpo" not in sys.modules
print(type(pipe).__name__)
"""
XL = "StableDiffusionXLPipeline"
START = {"inpo": 0.6931, "diffusion-dpo": 0.6931}


@pytest.mark.parametrize(
    ("kind", "recipe", "method", "pipeline"),
    [
        ("tiny_zero_snr_pipeline", "sd15-inpo", "inpo", "StableDiffusionPipeline"),
        ("tiny_sdxl_pipeline", "sdxl-inpo", "inpo", XL),
        ("tiny_sdxl_pipeline", "sdxl-dpo", "diffusion-dpo", XL),
        ("tiny_sdxl_pipeline", "sdxl-sft", "sft", XL),
        ("tiny_sdxl_v_pipeline", "sdxl-inpo", "inpo", XL),
        ("tiny_sdxl_v_pipeline", "sdxl-dpo", "diffusion-dpo", XL),
    ],
)
def test_train_resume_and_use_without_us(
    kind: str, recipe: str, method: str, pipeline: str, run: Run, request: pytest.FixtureRequest, pairs_file: Path, tmp_path: Path
) -> None:
    """Step 1 starts at the objective's value at u = 0, a resumed run goes on, and plain diffusers loads and samples the result."""
    out, settings = tmp_path / "run", small(request.getfixturevalue(kind), pairs_file, method, "model.prediction=null")
    first = run("train", recipe, *settings, "--out", out)
    assert first.code == 0, first.err
    again = run("train", recipe, *settings, "train.steps=3", "--out", out, "--resume", "latest")
    assert again.code == 0, again.err
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["step"]]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert steps[0]["loss"] == pytest.approx(START.get(method, steps[0]["loss"]), abs=1e-4)
    done = subprocess.run([sys.executable, "-c", WITHOUT_US, str(out / "model")], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == pipeline, done.stderr


@pytest.mark.parametrize(("kind", "recipe", "words"), [
    ("tiny_pipeline", "sdxl-inpo", "model.family='sdxl'"),
    ("tiny_sdxl_pipeline", "sd15-inpo", "model.family='sd'"),
    ("tiny_sdxl_v_pipeline", "sdxl-dpo", "model.prediction='epsilon'"),
])  # fmt: skip
def test_a_recipe_for_another_model_is_refused_at_the_entrance(
    kind: str, recipe: str, words: str, run: Run, request: pytest.FixtureRequest, pairs_file: Path, tmp_path: Path
) -> None:
    """Exit 2 and one line before the pairs are examined; --dry-run says the same."""
    settings = small(request.getfixturevalue(kind), pairs_file, {"sdxl-dpo": "diffusion-dpo"}.get(recipe, "inpo"))
    for arguments in (["--out", tmp_path / "run"], ["--out", tmp_path / "run", "--dry-run"]):
        done = run("train", recipe, *settings, *arguments)
        assert done.code == 2
        assert words in done.err
        assert "examining" not in done.err


def test_the_plan_knows_both_towers(run: Run, tiny_sdxl_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """--dry-run counts SDXL without reading a weight."""
    done = run("train", "sdxl-inpo", *small(tiny_sdxl_pipeline, pairs_file, "inpo"), "--out", tmp_path / "run", "--dry-run")
    assert done.code == 0, done.err
    assert "text encoder" in done.out
