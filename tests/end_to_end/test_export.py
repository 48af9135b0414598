"""`inpo export` on runs of every kind: read elsewhere, with a card, complete or absent, and refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
from diffusers import DiffusionPipeline, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from safetensors.torch import load_file

from inpo.models.config import ModelConfig
from inpo.models.loading import load
from tests.end_to_end.conftest import Run, small
from tests.tiny_models import tiny_sd, tiny_text_encoder, tiny_tokenizer, tiny_unet

LORA = ("lora.rank=2", "output.format=lora", "optimizer.lr=0.05")
Make = Callable[..., Path]


@pytest.fixture
def make(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> Make:
    """Trains a tiny run of two steps and returns its folder."""

    def train(name: str, *settings: str) -> Path:
        done = run("train", "sd15-sft", *small(tiny_pipeline, pairs_file, "sft", "optimizer.lr=0.01", *settings), "--out", tmp_path / name)
        assert done.code == 0, done.err
        return tmp_path / name

    return train


def latents(pipe: DiffusionPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}
    made: torch.Tensor = pipe("a red circle", generator=torch.Generator().manual_seed(0), **settings).images
    return made


def test_a_fully_trained_run_in_every_format(make: Make, run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Pipeline, UNet and single file are the run's result; a LoRA of it needs a rank, and says how much it keeps."""
    full = make("full")
    wanted = latents(DiffusionPipeline.from_pretrained(full / "model"))
    for form in ("pipeline", "unet", "single-file"):
        done = run("export", full, "--format", form, "--out", tmp_path / form)
        assert done.code == 0, done.err
        assert done.out == f"{form} in {tmp_path / form}\n"
        assert "Supervised fine-tuning on winners" in (tmp_path / form / "README.md").read_text()
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    file = type(pipeline).from_single_file(str(tmp_path / "single-file" / "single-file.safetensors"), config=str(tiny_pipeline))
    for pipe in (pipeline, DiffusionPipeline.from_pretrained(tiny_pipeline, unet=unet), file):
        torch.testing.assert_close(latents(pipe), wanted, rtol=0, atol=1e-4)
    refused = run("export", full, "--format", "lora", "--out", tmp_path / "lora")
    assert (refused.code, "its network was trained in full. --rank 32 extracts" in refused.err) == (2, True)
    for form in ("lora", "lora-kohya"):
        done = run("export", full, "--format", form, "--rank", 64, "--out", tmp_path / form)
        assert done.code == 0, done.err
        assert "extracted by SVD: " in done.out
        pipe = DiffusionPipeline.from_pretrained(tiny_pipeline)
        pipe.load_lora_weights(tmp_path / form, weight_name=f"{'pytorch_lora_weights' if form == 'lora' else form}.safetensors")
        torch.testing.assert_close(latents(pipe), latents(without_vectors(tiny_pipeline, unet)), rtol=0, atol=1e-4)


def without_vectors(base: Path, trained: UNet2DConditionModel) -> DiffusionPipeline:
    """The base with the trained matrices and kernels, but its own norms and biases: all that a LoRA of full rank can have."""
    pipe = DiffusionPipeline.from_pretrained(base)
    matrices = {name: weight for name, weight in trained.state_dict().items() if weight.ndim > 1}
    pipe.unet.load_state_dict(matrices, strict=False)
    return pipe


def test_a_run_of_adapters(make: Make, run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """As they are, merged, and where they were merged into the result, extracted at their own rank without loss."""
    out = make("adapters", *LORA)
    merged = make("merged", *LORA, "output.format=pipeline")
    wanted = latents(DiffusionPipeline.from_pretrained(merged / "model"))
    assert run("export", out, "--format", "lora", "--out", tmp_path / "lora").code == 0
    ours, theirs = (load_file(each / "pytorch_lora_weights.safetensors") for each in (out / "model", tmp_path / "lora"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # base.json says where on this machine the base lies.
    assert sorted(each.name for each in (tmp_path / "lora").iterdir()) == ["README.md", "pytorch_lora_weights.safetensors"]
    done = run("export", merged, "--format", "lora", "--out", tmp_path / "extracted.safetensors")
    assert "100.0% of the update's energy is kept" in done.out
    assert "rank 2 on" in done.out
    assert "holds 100.0% of the energy" in (tmp_path / "extracted.md").read_text()
    for where, name in ((tmp_path / "lora", "pytorch_lora_weights.safetensors"), (tmp_path, "extracted.safetensors")):
        pipe = DiffusionPipeline.from_pretrained(tiny_pipeline)
        pipe.load_lora_weights(where, weight_name=name)
        torch.testing.assert_close(latents(pipe), wanted, rtol=0, atol=1e-4)
    assert run("export", out, "--out", tmp_path / "whole").code == 0
    torch.testing.assert_close(latents(DiffusionPipeline.from_pretrained(tmp_path / "whole")), wanted, rtol=0, atol=1e-4)


def test_finished_adapters_leave_without_their_bases_weights(
    make: Make, run: Run, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is on the hub: of it the settings are fetched and nothing else, and the files are those beside a base that is here."""
    out, hub, asked = make("adapters", *LORA), tmp_path / "hub", []
    forms = ("lora", "lora-kohya")
    for form in forms:
        assert run("export", out, "--format", form, "--out", tmp_path / f"here-{form}.safetensors").code == 0
    for file in (out / "config.yaml", out / "model" / "base.json"):
        file.write_text(file.read_text().replace(str(tiny_pipeline), "owner/base"))

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        asked.append(name)
        for file in (each for pattern in allow_patterns for each in tiny_pipeline.glob(pattern)):
            target = hub / file.relative_to(tiny_pipeline)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        return str(hub)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(DiffusionPipeline, "download", None)
    for form in forms:
        done = run("export", out, "--format", form, "--out", tmp_path / f"there-{form}.safetensors")
        assert done.code == 0, done.err
        assert (tmp_path / f"there-{form}.safetensors").read_bytes() == (tmp_path / f"here-{form}.safetensors").read_bytes()
        assert "StableDiffusionPipeline" in (tmp_path / f"there-{form}.md").read_text()
    assert set(asked) == {"owner/base"}
    assert {file.name for file in hub.rglob("*.*")} == {"model_index.json", "config.json"}


def test_adapters_on_adapters(make: Make, run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Two files cannot be one as they are; by SVD they can, against the plain base."""
    first = make("first", *LORA)
    second = make("second", *LORA, f"model.path={first}")
    ignored = run("export", first, "--format", "lora", "--base", tmp_path / "no-such", "--out", tmp_path / "lora")
    assert (ignored.code, "no-such': RUN=" in ignored.err, "leave --base out, or add --rank" in ignored.err) == (2, True, True)
    refused = run("export", second, "--format", "lora", "--out", tmp_path / "lora")
    assert (refused.code, "holds adapters on a base that has adapters itself: --rank" in refused.err) == (2, True)
    done = run("export", second, "--format", "lora", "--rank", 4, "--out", tmp_path / "lora")
    assert "100.0% of the update's energy" in done.out
    pipe = DiffusionPipeline.from_pretrained(tiny_pipeline)
    pipe.load_lora_weights(tmp_path / "lora")
    assert run("export", second, "--out", tmp_path / "whole").code == 0
    torch.testing.assert_close(latents(pipe), latents(DiffusionPipeline.from_pretrained(tmp_path / "whole")), rtol=0, atol=1e-4)


def test_a_run_that_kept_its_unet_alone(make: Make, run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """The rest of the pipeline is its base's."""
    out = make("alone", "output.format=unet")
    card = (out / "model" / "README.md").read_text()
    assert "`pairs.parquet`, 12 pairs" in card
    assert "UNet2DConditionModel.from_pretrained('alone/model', subfolder='unet')" in card
    assert run("export", out, "--out", tmp_path / "whole").code == 0
    ours = load(ModelConfig(str(tiny_pipeline), unet=str(out / "model" / "unet")))
    assert ours.fingerprint() == load(ModelConfig(str(tmp_path / "whole"))).fingerprint()
    (out / "config.yaml").write_text((out / "config.yaml").read_text().replace(str(tiny_pipeline), "/gone/base"))
    gone = run("export", out, "--out", tmp_path / "again")
    assert (gone.code, f"{out / 'config.yaml'}: model.path='/gone/base'" in gone.err, "RUN=" in gone.err) == (2, True, False), gone.err


def test_halves_and_names_of_files(run: Run, tiny_sdxl_v_pipeline: Path, tmp_path: Path) -> None:
    """A pipeline folder is exported too; v-prediction is marked in the file, as SDXL's users expect."""
    done = run("export", tiny_sdxl_v_pipeline, "--format", "single-file", "--dtype", "fp16", "--out", tmp_path / "new" / "one.safetensors")
    assert done.code == 0, done.err
    tensors = load_file(tmp_path / "new" / "one.safetensors")
    assert {"v_pred", "ztsnr"} <= tensors.keys()
    assert {tensor.dtype for name, tensor in tensors.items() if name not in ("v_pred", "ztsnr")} == {torch.float16}
    assert (tmp_path / "new" / "one.safetensors").stat().st_mode == (tmp_path / "new" / "one.md").stat().st_mode


def test_nothing_is_overwritten_unless_asked(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """A folder with anything in it, an existing file; with --force an earlier export, and never somebody else's folder."""
    out, file, other = tmp_path / "out", tmp_path / "one.safetensors", tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    for arguments in (("--out", out), ("--format", "single-file", "--out", file)):
        assert run("export", tiny_pipeline, *arguments).code == 0
        refused = run("export", tiny_pipeline, *arguments)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "choose another, or --force to replace an earlier export" in refused.err
        assert run("export", tiny_pipeline, *arguments, "--force").code == 0
    kept = run("export", tiny_pipeline, "--out", other, "--force")
    assert (kept.code, "is no earlier export (it has no README.md of inpo's)" in kept.err) == (2, True)
    assert (other / "thesis.txt").read_text() == "years of work"


def test_a_files_neighbour_is_not_its_card(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """What bears the card's name and was there before is not overwritten either."""
    (tmp_path / "mine.md").write_text("my notes")
    arguments = ("export", tiny_pipeline, "--format", "single-file", "--out", tmp_path / "mine.safetensors")
    refused = run(*arguments)
    assert (refused.code, f"its card beside it, and {tmp_path / 'mine.md'} exists: choose another" in refused.err) == (2, True)
    assert (tmp_path / "mine.md").read_text() == "my notes"
    assert not (tmp_path / "mine.safetensors").exists()
    refused = run(*arguments, "--force")
    assert (refused.code, f"is no earlier export ({tmp_path / 'mine.md'} is no card of inpo's)" in refused.err) == (2, True)
    assert (tmp_path / "mine.md").read_text() == "my notes"
    (tmp_path / "mine.md").unlink()
    assert run(*arguments).code == run(*arguments, "--force").code == 0
    assert "from_single_file" in (tmp_path / "mine.md").read_text()


@pytest.mark.parametrize("where", ["inpo.models.loading.load_network", "inpo.models.parts.examine"])
def test_what_cannot_be_read_is_not_said_of_what_is_written(
    where: str, run: Run, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails under the model: exit 1, RUN is named and not --out, and nothing is written."""

    def failing(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(where, failing)
    done = run("export", tiny_pipeline, "--out", tmp_path / "out")
    assert done.code == 1
    assert f"RUN='{tiny_pipeline}' or its base could not be read ([Errno 5] Input/output error): look at the disk" in done.err
    assert "--out" not in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("prediction", "features", "told"), [("epsilon", 8, False), ("v_prediction", 8, True), ("epsilon", 1024, True)])
def test_the_card_of_a_single_file_names_settings_that_diffusers_would_not_guess(
    prediction: str, features: int, told: bool, run: Run, tmp_path: Path
) -> None:
    """It takes all of Stable Diffusion 2 for 2.1, which predicts v, and all of 1.x for ε."""
    base = tiny_sd(tmp_path, prediction)
    if features != 8:
        tiny_unet(cross_attention_dim=features).save_pretrained(base / "unet")
        tiny_text_encoder(tiny_tokenizer(), features, hidden_act="gelu").save_pretrained(base / "text_encoder")
    done = run("export", base, "--format", "single-file", "--out", tmp_path / "one.safetensors")
    assert done.code == 0, done.err
    name = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    guessed = infer_diffusers_model_type({name: torch.empty(8, features)})
    assert guessed == ("v2" if features == 1024 else "v1")
    card = (tmp_path / "one.md").read_text()
    assert (f"from_single_file('one.safetensors', config='{base.name}')" in card) is told
    assert ("Without `config` diffusers would take the file for a model with other settings" in card) is told


def test_a_broken_export_leaves_nothing(run: Run, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, for a file and for a folder: one line, exit 1, and no part of it."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    for out in ("one.safetensors", "folder"):
        done = run("export", tiny_pipeline, "--format", "single-file", "--out", tmp_path / out)
        assert done.code == 1
        assert f"--out {tmp_path / out} could not be written ([Errno 28] No space left on device): nothing is left of it" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "words"), [
    (("--format", "ckpt", "--out", "x"), "format='ckpt' is not known"),
    (("--rank", 4, "--out", "x"), "rank=4 belongs to a LoRA"),
    (("--format", "lora", "--rank", 0, "--out", "x"), "rank=0 must be a whole number of at least 1"),
    (("--dtype", "fp16", "--out", "x"), "dtype='fp16': a pipeline is kept in fp32"),
    (("--format", "lora", "--dtype", "int8", "--out", "x"), "dtype='int8' is not known"),
    (("--out", "x.safetensors"), "a pipeline is a folder, not a file"),
    (("--format", "lora", "--rank", 4, "--out", "x"), "is no run's folder, so its base is not known: give it as --base"),
    (("--format", "lora", "--out", "x"), "has no adapters to export: its network was trained in full"),
    (("--format", "lora", "--rank", 4, "--base", "{self}", "--out", "x"), "the trained network equals its base"),
    (("--format", "lora", "--rank", 4, "--base", "{sdxl}", "--out", "x"), "the trained network and the base differ in"),
    (("--format", "lora", "--rank", 4, "--base", "nowhere/at/all", "--out", "x"), "--base='nowhere/at/all'"),
    (("--format", "lora", "--out", "taken.txt"), "is a file: give a folder"),
    (("--format", "unet", "--out", "taken.txt"), "a unet is a folder, not a file"),
    (("--format", "lora", "--out", "folder.safetensors"), "is a folder, and its name is a file's"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(
    arguments: tuple[object, ...], words: str, run: Run, tiny_pipeline: Path, tiny_sdxl_pipeline: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Exit 2, naming the option, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.txt").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    before = sorted(tmp_path.iterdir())
    done = run("export", tiny_pipeline, *(str(each).format(self=tiny_pipeline, sdxl=tiny_sdxl_pipeline) for each in arguments))
    lines = [line for line in done.err.splitlines() if not line.startswith("loading")]
    assert (done.code, len(lines)) == (2, 1), done.err
    assert words in lines[0]
    assert sorted(tmp_path.iterdir()) == before


def test_runs_that_cannot_be_exported(make: Make, run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """One that did not finish, and one whose base is gone; neither leaves anything."""
    out = make("full")
    base = shutil.copytree(out, tmp_path / "moved")
    text = (base / "config.yaml").read_text().replace(str(tiny_pipeline), str(tmp_path / "gone"))
    (base / "config.yaml").write_text(text)
    gone = run("export", base, "--format", "lora", "--rank", 2, "--out", tmp_path / "lora")
    assert (gone.code, "names a base that cannot be used" in gone.err, "give it as --base" in gone.err) == (2, True, True)
    assert f"config.yaml names a base that cannot be used (path='{tmp_path / 'gone'}'" in gone.err
    assert "RUN=" not in gone.err
    shutil.rmtree(out / "model")
    unfinished = run("export", out, "--out", tmp_path / "whole")
    assert (unfinished.code, "is a run that has no model/ yet" in unfinished.err) == (2, True)
    assert not (tmp_path / "lora").exists()
    assert not (tmp_path / "whole").exists()


def test_a_transformer_in_every_format_that_it_has(
    run: Run, tiny_sd3_pipeline: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stable Diffusion 3, its adapters and its network alone: read by diffusers; what is for UNets is refused in a line.

    No text encoder is loaded for what copies its files.
    """
    alone, adapted = tmp_path / "alone", tmp_path / "adapted"
    base = small(tiny_sd3_pipeline, pairs_file, "sft", "optimizer.lr=0.01")
    for out, settings in ((alone, ("output.format=transformer",)), (adapted, LORA)):
        done = run("train", "sd3-sft", *base, *settings, "--out", out)
        assert done.code == 0, done.err
    network = SD3Transformer2DModel.from_pretrained(alone / "model" / "transformer")
    wanted = latents(DiffusionPipeline.from_pretrained(tiny_sd3_pipeline, transformer=network))
    for form in ("pipeline", "transformer"):
        with monkeypatch.context() as without:
            without.delattr("inpo.models.loading.load_towers")
            done = run("export", alone, "--format", form, "--out", tmp_path / form)
        assert done.code == 0, done.err
    torch.testing.assert_close(latents(DiffusionPipeline.from_pretrained(tmp_path / "pipeline")), wanted, rtol=0, atol=1e-4)
    exported = SD3Transformer2DModel.from_pretrained(tmp_path / "transformer")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), exported.parameters(), strict=True))
    assert "transformer=network" in (tmp_path / "transformer" / "README.md").read_text()

    for form in ("lora", "pipeline"):
        assert run("export", adapted, "--format", form, "--out", tmp_path / f"adapted-{form}").code == 0
    pipe = DiffusionPipeline.from_pretrained(tiny_sd3_pipeline)
    pipe.load_lora_weights(tmp_path / "adapted-lora")
    merged = DiffusionPipeline.from_pretrained(tmp_path / "adapted-pipeline")
    torch.testing.assert_close(latents(pipe), latents(merged), rtol=0, atol=1e-4)
    assert (latents(pipe) - latents(DiffusionPipeline.from_pretrained(tiny_sd3_pipeline))).abs().max() > 1e-3

    extracted = run("export", alone, "--format", "lora", "--rank", 64, "--out", tmp_path / "extracted")
    assert extracted.code == 0, extracted.err
    refusals = {"unet": "is its transformer: use 'transformer'", "lora-kohya": "use format=lora", "single-file": "use format=pipeline"}
    for form, words in refusals.items():
        refused = run("export", alone, "--format", form, *(("--rank", 4) if form.startswith("lora") else ()), "--out", tmp_path / "no")
        assert (refused.code, words in refused.err, "Stable Diffusion 3" in refused.err) == (2, True, True), refused.err
