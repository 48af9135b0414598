"""Folders in, folders out: what is loaded is what the files say, and what is saved loads without this package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from inpo.errors import InputError
from inpo.generation import GenerationConfig, generate_latents, shots
from inpo.models.config import Lora, ModelConfig
from inpo.models.loading import load
from inpo.models.model import Model
from tests.tiny_models import tiny_sd, tiny_vae

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tiny_pipeline: Path) -> Model:
    return load(ModelConfig(str(tiny_pipeline)))


def change(model: Model) -> None:
    """Weights that no file holds yet."""
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.mul_(1.25)


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_prediction_and_schedule_are_the_models_own(tiny_pipeline: Path, tiny_v_pipeline: Path, tiny_zero_snr_pipeline: Path) -> None:
    """ε and v are read from the scheduler's file; SD's σ_0 is 0.029 and its last node ᾱ_0; zero terminal SNR ends at α = 0."""
    plain, v, zero = (load(ModelConfig(str(path))).policy for path in (tiny_pipeline, tiny_v_pipeline, tiny_zero_snr_pipeline))
    assert [p.prediction_type for p in (plain, v, zero)] == ["epsilon", "v_prediction", "v_prediction"]
    first, last = plain.schedule.at(torch.tensor([0])), zero.schedule.at(torch.tensor([999]))
    assert abs(float(first.sigma) - 0.029) < 2e-4
    assert plain.schedule.final_alpha_cumprod == pytest.approx(float(first.alpha) ** 2)
    assert float(last.alpha) == 0


@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["whole", "adapters"])
def test_a_loaded_denoiser_is_in_eval_mode(tiny_pipeline: Path, lora: Lora | None) -> None:
    """Every module of it, its own among them: who asks for pictures and puts back what was finds no dropout switched on."""
    model = load(ModelConfig(str(tiny_pipeline)), lora=lora)
    assert [name for name, module in model.policy.named_modules() if module.training] == []
    generate_latents(model, shots(["a red circle"], config := GenerationConfig(steps=1)), config)
    assert [name for name, module in model.policy.named_modules() if module.training] == []


@pytest.mark.parametrize("down", [2, 4])
def test_sizes_follow_from_the_networks(tmp_path: Path, down: int) -> None:
    """8×8 latents are pictures of 16 or 32; a side that the VAE cannot divide is refused."""
    model = load(ModelConfig(str(tiny_sd(tmp_path, down=down))))
    assert model.family.name == "sd"
    assert model.default_resolution == 8 * down
    assert model.latent_shape() == (4, 8, 8)
    assert model.latent_shape(12 * down) == (4, 12, 12)
    with pytest.raises(InputError, match=f"multiple of {down}"):
        model.latent_shape(8 * down + 1)


def test_stable_diffusion_2_of_768_pixels_is_that_by_its_own_files(tmp_path: Path) -> None:
    """v-prediction and 96 × 96 latents of 8 pixels: 768 unless another resolution is asked for, as its UNet's config.json says."""
    folder = tiny_sd(tmp_path, "v_prediction", down=8)
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": 96}))
    model = load(ModelConfig(str(folder), prediction="v_prediction"))
    assert (model.policy.prediction_type, model.default_resolution, model.latent_shape()) == ("v_prediction", 768, (4, 96, 96))
    assert model.latent_shape(512) == (4, 64, 64)


def test_saved_pipeline_loads_without_us(model: Model, tmp_path: Path) -> None:
    """diffusers alone makes the pictures of the changed UNet; tokenizer, scheduler and VAE are the base's; there is no pickle."""
    change(model)
    model.save_pipeline(tmp_path / "run" / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "run" / "model")
    assert same_weights(pipeline.unet, model.policy.unet)
    assert same_weights(pipeline.vae, model.encoder.vae)
    assert same_weights(pipeline.text_encoder, model.encoder.towers[0].network)
    assert dict(pipeline.scheduler.config)["beta_end"] == 0.012
    picture = pipeline("a red circle", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (16, 16, 3)
    assert {file.suffix for file in (tmp_path / "run").rglob("*") if file.is_file()} <= {".json", ".txt", ".safetensors"}
    assert [item.name for item in (tmp_path / "run").iterdir()] == ["model"]


def test_saved_pipeline_loads_with_us_to_the_same_model(model: Model, tmp_path: Path) -> None:
    """Save and load is the identity, and the fingerprint knows: equal for equal weights, another one after a change."""
    before = model.fingerprint()
    change(model)
    model.save_pipeline(tmp_path / "out")
    again = load(ModelConfig(str(tmp_path / "out")))
    assert again.fingerprint() == model.fingerprint() != before
    assert load(ModelConfig(str(tmp_path / "out"), dtype="bf16")).fingerprint() != again.fingerprint()


def test_saving_twice_replaces_and_equal_models_make_equal_files(model: Model, tmp_path: Path) -> None:
    """The second save takes the first one's place whole, and no file holds the path that a model was loaded from."""
    model.save_pipeline(tmp_path / "a")
    change(model)
    model.save_pipeline(tmp_path / "a")
    load(ModelConfig(str(tmp_path / "a"))).save_pipeline(tmp_path / "b")
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert len(files) >= 9
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_another_unet_may_be_saved(model: Model, tmp_path: Path) -> None:
    """Averaged weights go into the pipeline without touching the policy."""
    averaged = model.policy.reference().unet
    change(model)
    model.save_pipeline(tmp_path / "averaged", network=averaged)
    assert same_weights(load(ModelConfig(str(tmp_path / "averaged"))).policy.unet, averaged)


def test_checkpointed_policy_returns_bit_for_bit(model: Model, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Into the same module, in place, so that an optimiser that holds its parameters still does."""
    change(model)
    model.save_policy(tmp_path / "policy")
    other = load(ModelConfig(str(tiny_pipeline)))
    parameters = list(other.policy.parameters())
    other.load_policy(tmp_path / "policy")
    assert same_weights(other.policy, model.policy)
    assert all(a is b for a, b in zip(parameters, other.policy.parameters(), strict=True))


def test_saved_files_are_as_readable_as_any(model: Model, tmp_path: Path) -> None:
    """Weights are not for their owner alone, as safetensors would have it."""
    model.save_network(tmp_path / "unet")
    assert (tmp_path / "unet" / WEIGHTS).stat().st_mode == (tmp_path / "unet" / "config.json").stat().st_mode
    assert same_weights(UNet2DConditionModel.from_pretrained(tmp_path / "unet"), model.policy.unet)


@pytest.mark.parametrize("where", ["unet folder", "pipeline", "run"])
def test_unet_override(model: Model, tiny_pipeline: Path, tmp_path: Path, where: str) -> None:
    """A UNet of one's own comes from its folder, from a pipeline's, or from a run; the rest stays the base's."""
    change(model)
    if where == "unet folder":
        model.save_network(tmp_path / "x")
    else:
        model.save_pipeline(tmp_path / "x" / "model" if where == "run" else tmp_path / "x")
    if where == "run":
        (tmp_path / "x" / "config.yaml").write_text("model: {}\n")
    loaded = load(ModelConfig(str(tiny_pipeline), unet=str(tmp_path / "x")))
    assert same_weights(loaded.policy.unet, model.policy.unet)
    assert loaded.source == tiny_pipeline


def test_vae_override_is_used_and_saved(tiny_pipeline: Path, tmp_path: Path) -> None:
    """What the run was trained with is what its users get."""
    vae = tiny_vae(down=4)
    vae.save_pretrained(tmp_path / "vae")
    model = load(ModelConfig(str(tiny_pipeline), vae=str(tmp_path / "vae")))
    model.save_pipeline(tmp_path / "out")
    assert same_weights(model.encoder.vae, vae)
    assert model.default_resolution == 32
    assert same_weights(StableDiffusionPipeline.from_pretrained(tmp_path / "out").vae, vae)


def test_a_finished_run_is_a_model(model: Model, tmp_path: Path) -> None:
    """RUN stands for RUN/model."""
    change(model)
    model.save_pipeline(tmp_path / "run" / "model")
    (tmp_path / "run" / "config.yaml").write_text("model: {}\n")
    assert same_weights(load(ModelConfig(str(tmp_path / "run"))).policy, model.policy)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_half_precision_files_load_in_fp32_and_save_as_one_precision(tiny_pipeline: Path, tmp_path: Path, variant: str | None) -> None:
    """A text encoder left in fp16 beside an fp32 UNet would fail in diffusers at the first prompt."""
    half = StableDiffusionPipeline.from_pretrained(tiny_pipeline, dtype=torch.float16)
    half.save_pretrained(tmp_path / "half", variant=variant)
    model = load(ModelConfig(str(tmp_path / "half")))
    modules = (model.policy, model.encoder.vae, model.encoder.towers[0].network)
    assert {p.dtype for module in modules for p in module.parameters()} == {torch.float32}
    model.save_pipeline(tmp_path / "out")
    assert {t.dtype for file in (tmp_path / "out").rglob("*.safetensors") for t in load_file(file).values()} == {torch.float32}
    picture = StableDiffusionPipeline.from_pretrained(tmp_path / "out")("a cat", num_inference_steps=1, output_type="np").images
    assert picture.shape == (1, 16, 16, 3)


def test_optional_parts_are_kept_if_safe(tiny_pipeline: Path, tmp_path: Path) -> None:
    """A safety checker in safetensors goes with the model, one that is a pickle stays behind, and the index says so."""
    for name, file in (("safe", "model.safetensors"), ("pickled", "pytorch_model.bin")):
        base = shutil.copytree(tiny_pipeline, tmp_path / name)
        (base / "safety_checker").mkdir()
        (base / "safety_checker" / "config.json").write_text("{}")
        save_file({"x": torch.ones(1)}, base / "safety_checker" / file)
        index = json.loads((base / "model_index.json").read_text())
        index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
        (base / "model_index.json").write_text(json.dumps(index))
        load(ModelConfig(str(base))).save_pipeline(tmp_path / f"{name}-out")
    kept, left = (json.loads((tmp_path / f"{name}-out" / "model_index.json").read_text()) for name in ("safe", "pickled"))
    assert (tmp_path / "safe-out" / "safety_checker" / "model.safetensors").is_file()
    assert (kept["safety_checker"][1], kept["requires_safety_checker"]) == ("StableDiffusionSafetyChecker", True)
    assert (left["safety_checker"], left["requires_safety_checker"]) == ([None, None], False)
    assert not (tmp_path / "pickled-out" / "safety_checker").exists()


def test_a_saved_pipeline_does_not_say_where_its_parts_were_read(tiny_pipeline: Path, tmp_path: Path) -> None:
    """Nowhere in its settings, those of a part inside a part included; what says nothing of the kind is copied byte for byte."""
    folder, private = shutil.copytree(tiny_pipeline, tmp_path / "base"), "/home/somebody/secret"
    for name, values in {
        "model_index.json": {"_name_or_path": private},
        "text_encoder/config.json": {"_name_or_path": private, "inner": {"_name_or_path": private, "kept": 1}},
        "tokenizer/tokenizer_config.json": {"name_or_path": private, "special_tokens_map_file": f"{private}/special_tokens_map.json"},
        "scheduler/scheduler_config.json": {"_name_or_path": private},
        "unet/config.json": {"_name_or_path": private},
        "vae/config.json": {"_name_or_path": private},
    }.items():
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))
    model = load(ModelConfig(str(folder)))
    model.save_pipeline(tmp_path / "out")
    assert all(private not in file.read_text() for file in (tmp_path / "out").rglob("*.json"))
    assert json.loads((tmp_path / "out" / "text_encoder" / "config.json").read_text())["inner"] == {"kept": 1}
    vocabulary = Path("tokenizer") / "tokenizer.json"
    assert (tmp_path / "out" / vocabulary).read_bytes() == (folder / vocabulary).read_bytes()
    assert load(ModelConfig(str(tmp_path / "out"))).fingerprint() == model.fingerprint()


def test_a_named_family_opens_a_pipeline_class_of_ones_own(tiny_pipeline: Path, tmp_path: Path) -> None:
    """A community pipeline of Stable Diffusion's components loads when the user says what it is."""
    folder = shutil.copytree(tiny_pipeline, tmp_path / "own")
    index = json.loads((folder / "model_index.json").read_text()) | {"_class_name": "MyOwnPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"MyOwnPipeline.*model\.family=sd"):
        load(ModelConfig(str(folder)))
    assert load(ModelConfig(str(folder), family="sd")).family.name == "sd"
