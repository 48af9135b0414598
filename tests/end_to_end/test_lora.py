"""Adapters through the real entrance: trained, resumed, read by plain diffusers, and a run of them is a model like any other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from inpo.errors import InputError
from inpo.generation import GenerationConfig, generate_latents, initial_latents, shots
from inpo.models.config import Lora, ModelConfig
from inpo.models.loading import load
from inpo.models.model import Model
from tests.end_to_end.conftest import Run, small
from tests.single_files import write_single_file

PROMPTS = ["a red circle", "a blue square on a white background"]
CONFIG = GenerationConfig(steps=4, guidance=3.0)
LORA = ("lora.rank=2", "lora.alpha=3", "output.format=lora", "optimizer.lr=0.05", "model.gradient_checkpointing=true")
WITHOUT_US = """
import sys, torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
base, prompts, given, made, *folders = sys.argv[1:]
noise, out = load_file(given)["x_T"], {}
for folder in folders:
    pipe = DiffusionPipeline.from_pretrained(base, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    if folder != base:
        pipe.load_lora_weights(folder)
    settings = dict(num_inference_steps=4, guidance_scale=3.0, height=16, width=16, output_type="latent")
    out[folder] = pipe(prompts.split("|"), latents=noise.clone(), **settings).images.contiguous()
save_file(out, made)
assert "inpo" not in sys.modules
"""


def our_latents(model: Model) -> Tensor:
    """What this package samples from the seeds' noise."""
    return generate_latents(model, shots(PROMPTS, CONFIG), CONFIG)


def their_latents(base: Path, folders: list[Path], scratch: Path) -> list[Tensor]:
    """What diffusers samples from the same noise with the base, and with each folder of adapters on it."""
    noise = initial_latents((4, 8, 8), [shot.seed for shot in shots(PROMPTS, CONFIG)])
    save_file({"x_T": noise}, scratch / "noise.safetensors")
    names = [str(base), *map(str, folders)]
    arguments = [str(base), "|".join(PROMPTS), str(scratch / "noise.safetensors"), str(scratch / "made.safetensors"), *names]
    done = subprocess.run([sys.executable, "-c", WITHOUT_US, *arguments], capture_output=True, text=True, check=False, cwd=scratch)
    assert done.returncode == 0, done.stderr
    made = load_file(scratch / "made.safetensors")
    return [made[name] for name in names]


@pytest.mark.parametrize(("kind", "recipe"), [("tiny_pipeline", "sd15-inpo"), ("tiny_sdxl_pipeline", "sdxl-inpo")], ids=["sd", "sdxl"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_train_resume_and_use_in_diffusers(
    dora: bool, kind: str, recipe: str, run: Run, request: pytest.FixtureRequest, pairs_file: Path, tmp_path: Path
) -> None:
    """Two steps and two after a resume; `load_lora_weights` of diffusers makes our policy's latents, alpha/rank = 3/2 included."""
    pipeline: Path = request.getfixturevalue(kind)
    out, settings = tmp_path / "run", small(pipeline, pairs_file, "inpo", *LORA, f"lora.dora={str(dora).lower()}", "optimizer.name=adamw")
    for more in (("train.steps=2",), ("train.steps=4", "--resume", "latest")):
        done = run("train", recipe, *settings, *more, "--out", out)
        assert done.code == 0, done.err
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert next(line["loss"] for line in lines if "loss" in line) == pytest.approx(0.693147, abs=1e-5)
    assert sorted(path.name for path in (out / "model").iterdir()) == ["README.md", "base.json", "pytorch_lora_weights.safetensors"]
    checkpoint = out / "checkpoints" / "step-000004" / "policy"
    assert [path.name for path in checkpoint.iterdir()] == ["pytorch_lora_weights.safetensors"]

    base, result, saved = their_latents(pipeline, [out / "model", checkpoint], tmp_path)
    policy = load(ModelConfig(str(pipeline)), lora=Lora(rank=2, alpha=3, dora=dora))
    policy.load_policy(checkpoint)
    for ours in (our_latents(policy), our_latents(load(ModelConfig(str(out))))):
        assert (ours - base).abs().max() > 0.01
        torch.testing.assert_close(result, ours, rtol=0, atol=1e-4)
        torch.testing.assert_close(saved, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_merged_results_are_whole_models(dora: bool, run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """output.format pipeline and unet hold the adapters in their weights: all three formats make the same latents."""
    settings = small(tiny_pipeline, pairs_file, "diffusion-dpo", *LORA, f"lora.dora={str(dora).lower()}", "train.steps=1")
    made = {}
    for form in ("lora", "pipeline", "unet"):
        out = tmp_path / form
        done = run("train", "sd15-dpo", *settings, f"output.format={form}", "--out", out)
        assert done.code == 0, done.err
        where = {"unet": ModelConfig(str(tiny_pipeline), unet=str(out / "model" / "unet"))}.get(form, ModelConfig(str(out)))
        made[form] = our_latents(load(where))
    torch.testing.assert_close(made["pipeline"], made["lora"], rtol=0, atol=1e-4)
    torch.testing.assert_close(made["unet"], made["lora"], rtol=0, atol=1e-4)
    assert (made["lora"] - our_latents(load(ModelConfig(str(tiny_pipeline))))).abs().max() > 0.001


def test_a_run_of_adapters_is_a_model(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """`--model RUN` generates, RUN is a base for further adapters and for full training, and a base that is gone is named with its file."""
    base = shutil.copytree(tiny_pipeline, tmp_path / "base")
    first, second = tmp_path / "first", tmp_path / "second"
    for model, out in ((base, first), (first, second)):
        done = run("train", "sd15-sft", *small(model, pairs_file, "sft", *LORA, "train.steps=1"), "--out", out)
        assert done.code == 0, done.err
    assert our_latents(load(ModelConfig(str(second)))).sub(our_latents(load(ModelConfig(str(first))))).abs().max() > 0.001
    done = run("train", "sd15-inpo", *small(second, pairs_file, "inpo", "train.steps=1"), "--out", tmp_path / "full")
    assert done.code == 0, done.err
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    command = ("generate", "--model", second, "--prompts", tmp_path / "prompts.txt", "--steps", 2, "--out")
    assert run(*command, tmp_path / "pictures").code == 0
    shutil.rmtree(base)
    for option, arguments in (
        ("--model", (*command, tmp_path / "others")),
        ("model.path", ("train", "sd15-sft", *small(second, pairs_file, "sft", *LORA), "--out", tmp_path / "third")),
    ):
        gone = run(*arguments)
        assert gone.code == 2
        words = " ".join(gone.err.split())
        assert f"{option}='{second}' holds adapters, and the base that {second / 'model' / 'base.json'} names cannot be used:" in words
        assert f"path='{first}' holds adapters, and the base that {first / 'model' / 'base.json'} names" in words
        assert f"cannot be used: path='{base}': there is no folder {base} here" in words


def test_adapters_on_a_single_file_are_a_model(
    run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's folder alone finds file and settings again, from another working directory; the latents are those of the same folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_single_file(tiny_pipeline, tmp_path / "one.safetensors")
    settings_alone = shutil.copytree(tiny_pipeline, tmp_path / "settings", ignore=shutil.ignore_patterns("*.safetensors"))
    for model, out in ((("one.safetensors", "model.config=settings"), "file"), ((str(tiny_pipeline),), "folder")):
        settings = small(Path(model[0]), pairs_file, "sft", *LORA, "train.steps=1", *model[1:])
        done = run("train", "sd15-sft", *settings, "--out", tmp_path / out)
        assert done.code == 0, done.err
    recorded = json.loads((tmp_path / "file" / "model" / "base.json").read_text())
    assert (recorded["path"], recorded["config"]) == (str(tmp_path / "one.safetensors"), str(settings_alone))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ours = our_latents(load(ModelConfig(str(tmp_path / "file"))))
    assert torch.equal(ours, our_latents(load(ModelConfig(str(tmp_path / "folder")))))
    shutil.rmtree(settings_alone)
    with pytest.raises(InputError, match="holds adapters") as gone:
        load(ModelConfig(str(tmp_path / "file")))
    assert f"cannot be used: config='{settings_alone}'" in str(gone.value)


def test_the_saved_result_is_the_average(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """train.average_decay: the result's adapters are the averages of the last checkpoint, whose policy/ holds the weights themselves."""
    out = tmp_path / "run"
    done = run("train", "sd15-sft", *small(tiny_pipeline, pairs_file, "sft", *LORA, "train.average_decay=0.9"), "--out", out)
    assert done.code == 0, done.err
    last = out / "checkpoints" / "step-000002"
    state = load_file(last / "optimizer.safetensors")
    own, result = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in (last / "policy", out / "model"))
    averages = {key.removeprefix("average/").replace(".default.", "."): value for key, value in state.items() if key.startswith("average/")}
    assert averages.keys() == result.keys() == own.keys()
    for name, average in averages.items():
        # alpha/rank = 3/2 is in the result's B.
        torch.testing.assert_close(result[name], average * (1.5 if ".lora_B." in name else 1.0), rtol=1e-6, atol=0)
    assert any(not torch.equal(own[name], average) for name, average in averages.items())


def test_adapters_are_evaluated_like_any_model(run: Run, pairs_file: Path, tmp_path: Path) -> None:
    """The world's own pipeline under adapters, judged against itself without them."""
    settings = ["train.steps=1", "train.pairs_per_step=4", "optimizer.warmup_steps=0", "train.sample_every_steps=1", *LORA]
    done = run("train", "world-inpo", *settings, "data.validation_fraction=0", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "run" / "samples" / "step-000001").glob("*.png"))) == 8
    (tmp_path / "prompts.txt").write_text("a small red square on a white background\n")
    judged = run(
        "evaluate", "--candidate", tmp_path / "run", "--baseline", "world", "--prompts", tmp_path / "prompts.txt",
        "--scorers", "world:oracle", "--steps", 2, "--guidance", 3, "--out", tmp_path / "judged",
    )  # fmt: skip
    assert judged.code == 0, judged.err
    assert json.loads((tmp_path / "judged" / "summary.json").read_text())["methods"]["candidate"]["n"] == 1


def test_another_base_is_refused_on_resume(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """SFT has no reference, but its adapters belong to their base all the same."""
    base = shutil.copytree(tiny_pipeline, tmp_path / "base")
    settings = small(base, pairs_file, "sft", *LORA, "train.steps=1")
    assert run("train", "sd15-sft", *settings, "--out", tmp_path / "run").code == 0
    file = next((base / "unet").glob("*.safetensors"))
    save_file({name: tensor + 0.01 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    refused = run("train", "sd15-sft", *settings, "train.steps=2", "--out", tmp_path / "run", "--resume", "latest")
    assert refused.code == 2
    assert "the base model is not the one that its run started from" in refused.err


def test_dry_run_counts_one_unet_and_the_adapters(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Trainable parameters are said; gradients and moments are the adapters' alone; targets are checked before anything is read."""
    settings = small(tiny_pipeline, pairs_file)
    done = run("train", "sd15-inpo", *settings, *LORA, "--out", tmp_path / "run", "--dry-run")
    assert done.code == 0, done.err
    weights = load_file(_adapter_file(tiny_pipeline, tmp_path))
    count = sum(weight.numel() for weight in weights.values())
    assert f"trained            LoRA of rank 2 on {len(weights) // 2} layers: {count:,} of the UNet's" in done.out
    assert "the reference is the same network without them" in done.out
    refused = run("train", "sd15-inpo", *settings, *LORA, "lora.targets=to_qq", "--out", tmp_path / "run", "--dry-run")
    assert (refused.code, "did you mean 'to_q'" in refused.err) == (2, True)


def _adapter_file(base: Path, folder: Path) -> Path:
    """Fresh adapters of rank 2 on this pipeline, as a checkpoint has them."""
    load(ModelConfig(str(base)), lora=Lora(rank=2)).save_policy(folder / "policy")
    return folder / "policy" / "pytorch_lora_weights.safetensors"


def test_adapters_alone_need_adapters(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    refused = run("train", "sd15-inpo", *small(tiny_pipeline, pairs_file), "output.format=lora", "--out", tmp_path / "run")
    assert (refused.code, "needs adapters: set lora.rank" in refused.err) == (2, True)
