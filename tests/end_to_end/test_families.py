"""Every family × way to train × method: trained, resumed and saved by the command line, then loaded and sampled by a program without us."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Run, small
from tests.tiny_models import tiny_sd3
from tests.training_runs import metrics
from tests.unit.data import making

FAMILIES = {
    "SD1.5": ("tiny_pipeline", "sd15"),
    "SD2-v": ("tiny_v_pipeline", "sd15"),
    "SDXL": ("tiny_sdxl_pipeline", "sdxl"),
    "SDXL-v-ztsnr": ("tiny_sdxl_v_pipeline", "sdxl"),
    "SD2-v-ztsnr": ("tiny_zero_snr_pipeline", "sd15"),
    "SD3": ("tiny_sd3_pipeline", "sd3"),
    "PixArt-Σ": ("tiny_pixart_pipeline", "pixart"),
}
TRAINED = {
    "full": ("optimizer.lr=0.001",),
    "lora": ("lora.rank=2", "output.format=lora", "optimizer.lr=0.01"),
    "dora": ("lora.rank=2", "lora.dora=true", "output.format=lora", "optimizer.lr=0.01"),
}
# Where diffusers' pipeline has no loader for LoRA, adapters are saved in the weights.
MERGED = {f"merged{name}": (*TRAINED[kind], "output.format=pipeline") for name, kind in (("", "lora"), ("-dora", "dora"))}
METHODS = {"inpo": "inpo", "diffusion-dpo": "dpo", "sft": "sft"}
CASES = [
    *product(list(FAMILIES)[:4], TRAINED, METHODS), ("SD2-v-ztsnr", "full", "inpo"),
    *(("SD3", trained, method) for trained, method in (("full", "inpo"), ("full", "diffusion-dpo"), ("lora", "inpo"), ("dora", "sft"))),
    *(("PixArt-Σ", trained, method) for trained, method in (("full", "inpo"), ("merged", "diffusion-dpo"), ("merged-dora", "sft"))),
]  # fmt: skip
WITHOUT_US = """
import json, sys, torch
from diffusers import DiffusionPipeline
def picture(base, adapters=None):
    pipe = DiffusionPipeline.from_pretrained(base, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    if adapters:
        pipe.load_lora_weights(adapters)
    seed = torch.Generator().manual_seed(0)
    settings = dict(num_inference_steps=2, guidance_scale=3.0, height=16, width=16, generator=seed, output_type="pt")
    if type(pipe).__name__.startswith("PixArt"):
        settings |= dict(use_resolution_binning=False, clean_caption=False)
    return type(pipe).__name__, pipe("a red circle", **settings).images[0]
for line in sys.stdin:
    asked = json.loads(line)
    _, before = picture(asked["base"])
    kind, after = picture(asked["base"], asked["result"]) if asked["adapters"] else picture(asked["result"])
    assert "inpo" not in sys.modules
    moved = float((after - before).abs().max())
    print(json.dumps({"pipeline": kind, "shape": list(after.shape), "finite": bool(after.isfinite().all()), "moved": moved}), flush=True)
"""
Ask = Callable[..., dict[str, object]]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """A program with diffusers and without this package: asked about a base and a result, it says what it made of them."""
    log = tmp_path_factory.mktemp("elsewhere") / "errors.txt"
    with log.open("w") as errors:
        # -I: neither this folder nor PYTHONPATH is searched. An installed package could still be imported, so the program checks.
        program = subprocess.Popen(
            [sys.executable, "-I", "-c", WITHOUT_US], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert program.stdin is not None
    assert program.stdout is not None

    def ask(**question: object) -> dict[str, object]:
        program.stdin.write(json.dumps(question, default=str) + "\n")  # type: ignore[union-attr]
        program.stdin.flush()  # type: ignore[union-attr]
        answer = program.stdout.readline()  # type: ignore[union-attr]
        assert answer, log.read_text()
        return json.loads(answer)

    yield ask
    program.stdin.close()
    program.wait(timeout=60)


@pytest.mark.parametrize(("family", "trained", "method"), CASES, ids=["-".join(case) for case in CASES])
def test_train_resume_save_and_sample_elsewhere(
    family: str, trained: str, method: str, run: Run, elsewhere: Ask, request: pytest.FixtureRequest, pairs_file: Path, tmp_path: Path
) -> None:
    """Two steps, one more after a resume; the first loss is that of u = 0; diffusers alone samples another picture than the base's."""
    fixture, recipe = FAMILIES[family]
    base, out = request.getfixturevalue(fixture), tmp_path / "run"
    settings = small(
        base, pairs_file, method, "model.prediction=null", "train.pairs_per_step=2", "data.validation_fraction=0",
        *(TRAINED | MERGED)[trained],
    )
    for more in (("train.steps=2",), ("train.steps=3", "--resume", "latest")):
        done = run("train", f"{recipe}-{METHODS[method]}", *settings, *more, "--out", out)
        assert done.code == 0, done.err
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    if method != "sft":
        assert lines[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    answer = elsewhere(base=base, result=out / "model", adapters=trained in ("lora", "dora"))
    assert answer["pipeline"] == json.loads((base / "model_index.json").read_text())["_class_name"]
    assert answer["shape"] == [3, 16, 16]
    assert answer["finite"]
    assert float(str(answer["moved"])) > 1e-4


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


def test_sdxl_trains_under_its_pictures_own_sizes(run: Run, tiny_sdxl_pipeline: Path, tmp_path: Path) -> None:
    """Pictures of 3:2 move the loss otherwise than the constant does; a run that is cut after its first step goes on to the same."""
    rows = [making.row(i, jpg_0=making.png(2 * i, 24), jpg_1=making.png(2 * i + 1, 24)) for i in range(12)]
    settings = small(tiny_sdxl_pipeline, making.write(tmp_path / "wide.parquet", rows), "inpo", "data.crop=random")
    for sizes in ("constant", "original"):
        done = run("train", "sdxl-inpo", *settings, f"data.sizes={sizes}", "--out", tmp_path / sizes)
        assert done.code == 0, done.err
    constant, original = (metrics(tmp_path / sizes)[-1]["loss"] for sizes in ("constant", "original"))
    assert constant != original
    cut = ["train", "sdxl-inpo", *settings, "data.sizes=original", "--out", tmp_path / "cut"]
    assert run(*cut, "train.steps=1").code == 0
    assert run(*cut, "--resume", "latest").code == 0
    assert metrics(tmp_path / "cut")[-1]["loss"] == original


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_sizes_are_refused_where_the_network_is_told_none(
    more: list[str], run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path
) -> None:
    """Exit 2 and one line that names the key, before the pairs are examined."""
    done = run("train", "sd15-inpo", *small(tiny_pipeline, pairs_file, "inpo", "data.sizes=original"), "--out", tmp_path / "run", *more)
    assert done.code == 2
    assert "data.sizes='original' means nothing to Stable Diffusion, whose" in done.err
    assert "examining" not in done.err


def test_the_plan_knows_both_towers(run: Run, tiny_sdxl_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """--dry-run counts SDXL without reading a weight."""
    done = run("train", "sdxl-inpo", *small(tiny_sdxl_pipeline, pairs_file, "inpo"), "--out", tmp_path / "run", "--dry-run")
    assert done.code == 0, done.err
    assert "text encoder" in done.out


def test_a_transformer_has_its_name_in_the_plan_and_an_absent_text_encoder_is_said(run: Run, pairs_file: Path, tmp_path: Path) -> None:
    """The plan's columns stand; a run without T5 says what stands in its place, and its result has none either, and says so."""
    base = tiny_sd3(tmp_path, without=("text_encoder_3",))
    settings = small(base, pairs_file, "sft", "data.validation_fraction=0")
    plan = run("train", "sd3-sft", *settings, "--out", tmp_path / "run", "--dry-run")
    assert plan.code == 0, plan.err
    lines = plan.out.splitlines()
    assert {"transformer per pair", "transformer in all"} <= {line[:21].rstrip() for line in lines}
    assert len({line.index(line[20:].lstrip()[:8], 20) for line in lines}) == 1
    done = run("train", "sd3-sft", *settings, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "the model has no text_encoder_3: zeros stand in the place" in done.err
    assert json.loads((tmp_path / "run" / "model" / "model_index.json").read_text())["text_encoder_3"] == [None, None]
    assert "text_encoder_3=None, tokenizer_3=None)" in (tmp_path / "run" / "model" / "README.md").read_text()
