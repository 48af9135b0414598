"""Stable Diffusion 3 is diffusers' Stable Diffusion 3: its prompts with any text encoder absent, its velocity, its files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from transformers import T5EncoderModel

from inpo.errors import InputError
from inpo.models.config import Lora, ModelConfig
from inpo.models.folders import weights_variant
from inpo.models.loading import load
from inpo.models.lora import adapted_layers
from inpo.models.model import Model
from inpo.models.parts import examine
from inpo.models.sizes import model_sizes
from inpo.types import Denoiser
from tests.tiny_models import MAX_TOKENS, SD3_CHANNELS, SD3_TOWERS, T5_WIDTH, tiny_sd3

PROMPTS = ["a red circle on a white background", "", "a green square " * 40]
TIMES = torch.tensor([1e-3, 0.417, 1.0])
T5_TOKENS = 256


@pytest.fixture(scope="module")
def model(tiny_sd3_pipeline: Path) -> Model:
    return load(ModelConfig(str(tiny_sd3_pipeline)))


@pytest.fixture(scope="module")
def diffusers_pipeline(tiny_sd3_pipeline: Path) -> StableDiffusion3Pipeline:
    """The same folder, as a user of diffusers alone has it."""
    return StableDiffusion3Pipeline.from_pretrained(tiny_sd3_pipeline)


def latents(side: int = 8) -> Tensor:
    return torch.randn(3, SD3_CHANNELS, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def encoded_by(pipeline: StableDiffusion3Pipeline) -> tuple[Tensor, Tensor]:
    prompt, _, pooled, _ = pipeline.encode_prompt(PROMPTS, PROMPTS, PROMPTS, device="cpu", do_classifier_free_guidance=False)
    return prompt, pooled


def test_the_family_is_read_from_the_folder(model: Model) -> None:
    """A velocity, three frozen text encoders beside the VAE, and the scheduler's shift."""
    assert (model.family.name, model.policy.prediction_type, model.policy.schedule.shift) == ("sd3", "flow", 3.0)
    kinds = ["AutoencoderKL", "CLIPTextModelWithProjection", "CLIPTextModelWithProjection", "T5EncoderModel"]
    assert [type(module).__name__ for module in model.encoder.modules] == kinds
    assert isinstance(model.policy, Denoiser)
    assert (model.default_resolution, model.latent_shape()) == (16, (16, 8, 8))


def test_prompts_encode_as_the_pipeline_does(model: Model, diffusers_pipeline: StableDiffusion3Pipeline) -> None:
    """Both CLIPs, widened to T5's features, and 256 tokens of T5; the empty prompt is encoded like any. To 1e-4."""
    encoded = model.encoder.encode_prompts(PROMPTS)
    prompt, pooled = encoded_by(diffusers_pipeline)
    assert encoded.tensors["prompt"].shape == (3, MAX_TOKENS + T5_TOKENS, T5_WIDTH)
    assert encoded.tensors["text_embeds"].shape == (3, 8 + 12)
    assert_close(encoded.tensors["prompt"], prompt, atol=1e-4, rtol=1e-4)
    assert_close(encoded.tensors["text_embeds"], pooled)
    assert not encoded.tensors["prompt"].requires_grad


def test_clip_skip_is_the_pipelines_and_windows_are_clips_alone(
    tiny_sd3_pipeline: Path, diffusers_pipeline: StableDiffusion3Pipeline, tmp_path: Path
) -> None:
    """A layer less of both CLIPs; two windows of theirs, also of one that is not there; T5 reads its 256 tokens as ever."""
    with torch.no_grad():
        settings = {"device": "cpu", "do_classifier_free_guidance": False, "clip_skip": 1}
        skipped = diffusers_pipeline.encode_prompt(PROMPTS, PROMPTS, PROMPTS, **settings)[0]
    skipping = load(ModelConfig(str(tiny_sd3_pipeline), clip_skip=1)).encoder.encode_prompts(PROMPTS)
    assert_close(skipping.tensors["prompt"], skipped, atol=1e-4, rtol=1e-4)
    for folder in (tiny_sd3_pipeline, tiny_sd3(tmp_path, without=("text_encoder",))):
        once, twice = (load(ModelConfig(str(folder), prompt_chunks=n)).encoder.encode_prompts(PROMPTS).tensors["prompt"] for n in (1, 2))
        assert twice.shape[1] == 2 * MAX_TOKENS + T5_TOKENS
        assert_close(twice[:, :MAX_TOKENS], once[:, :MAX_TOKENS])
        assert_close(twice[:, 2 * MAX_TOKENS :], once[:, MAX_TOKENS:])


def test_the_fingerprint_knows_which_text_encoders_there_are(model: Model, tmp_path: Path) -> None:
    """Pictures depend on them."""
    prints = {load(ModelConfig(str(tiny_sd3(tmp_path, without=(name,))))).fingerprint() for name in SD3_TOWERS}
    assert len(prints | {model.fingerprint()}) == 4


def test_without_t5_zeros_stand_where_the_pipeline_puts_them(tmp_path: Path) -> None:
    folder = tiny_sd3(tmp_path, without=("text_encoder_3",))
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    encoded, (prompt, pooled) = load(ModelConfig(str(folder))).encoder.encode_prompts(PROMPTS), encoded_by(pipeline)
    assert torch.equal(encoded.tensors["prompt"], prompt)
    assert torch.equal(encoded.tensors["text_embeds"], pooled)
    assert encoded.tensors["prompt"][:, MAX_TOKENS:].abs().max() == 0


@pytest.mark.parametrize("how", ["index", "folder"])
@pytest.mark.parametrize("without", [(SD3_TOWERS[0],), (SD3_TOWERS[1],), SD3_TOWERS[:2], (SD3_TOWERS[0], SD3_TOWERS[2])])
def test_an_absent_text_encoder_is_zeros_in_its_place(
    without: tuple[str, ...], how: str, tiny_sd3_pipeline: Path, model: Model, tmp_path: Path
) -> None:
    """Whether the index or the folder lacks it. What the others make of a prompt is what they make of it in the whole pipeline."""
    folder = shutil.copytree(tiny_sd3_pipeline, tmp_path / "part")
    for name in without:
        shutil.rmtree(folder / name)
    if how == "index":
        index = json.loads((folder / "model_index.json").read_text()) | {name: [None, None] for name in without}
        (folder / "model_index.json").write_text(json.dumps(index))
    whole, part = (each.encoder.encode_prompts(PROMPTS).tensors for each in (model, load(ModelConfig(str(folder)))))
    clip = whole["prompt"].shape[1] - T5_TOKENS
    if SD3_TOWERS[0] in without and SD3_TOWERS[1] in without:
        # Nothing says how long a CLIP was: its usual 77 tokens.
        assert part["prompt"].shape[1] == 77 + T5_TOKENS
        assert part["prompt"][:, :77].abs().max() == part["text_embeds"].abs().max() == 0
        assert torch.equal(part["prompt"][:, 77:], whole["prompt"][:, clip:])
        return
    expected, pooled = whole["prompt"].clone(), whole["text_embeds"].clone()
    for name, columns in zip(SD3_TOWERS, (slice(0, 8), slice(8, 20)), strict=False):
        if name in without:
            expected[:, :clip, columns], pooled[:, columns] = 0, 0
    if SD3_TOWERS[2] in without:
        expected[:, clip:] = 0
    assert torch.equal(part["prompt"], expected)
    assert torch.equal(part["text_embeds"], pooled)


@pytest.mark.parametrize("dual", [False, True])
def test_denoiser_is_the_transformer_called_directly(dual: bool, tmp_path: Path) -> None:
    """The same numbers as diffusers' own transformer at 1000 t, with a time of its own for each example; for SD3.5's blocks too."""
    model = load(ModelConfig(str(tiny_sd3(tmp_path, dual=dual))))
    condition = model.encoder.encode_prompts(PROMPTS)
    expected = StableDiffusion3Pipeline.from_pretrained(model.source).transformer(
        latents(), condition.tensors["prompt"], pooled_projections=condition.tensors["text_embeds"], timestep=1000 * TIMES
    )
    assert torch.equal(model.policy(latents(), TIMES, condition), expected.sample)


def test_each_example_is_denoised_by_its_own_time_and_prompt(model: Model) -> None:
    """A batch of three is three batches of one; another prompt or time is another answer."""
    condition = model.encoder.encode_prompts(PROMPTS)
    together = model.policy(latents(), TIMES, condition)
    assert_close(together, torch.cat([model.policy(latents()[i : i + 1], TIMES[i : i + 1], condition[i : i + 1]) for i in range(3)]))
    assert (model.policy(latents(), TIMES, condition[[1, 0, 2]]) - together).flatten(1).abs().amax(dim=1)[:2].min() > 1e-5
    assert (model.policy(latents(), TIMES.flip(0), condition) - together).flatten(1).abs().amax(dim=1)[[0, 2]].min() > 1e-4


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_policy_and_reference_agree_exactly_at_step_0(tiny_sd3_pipeline: Path, dtype: str) -> None:
    """max |difference| is 0 with checkpointing on (docs/method.md §6.5), and the gradient reaches every weight, in fp32."""
    model = load(ModelConfig(str(tiny_sd3_pipeline), dtype=dtype, gradient_checkpointing=True))
    reference, condition = model.reference(), model.encoder.encode_prompts(PROMPTS)
    model.policy.train()
    answer = model.policy(latents(), TIMES, condition)
    assert (answer - reference(latents(), TIMES, condition)).abs().max() == 0
    answer.square().mean().backward()
    assert {p.grad.dtype for p in model.policy.parameters()} == {torch.float32}


def test_attention_adapts_picture_and_text(tiny_sd3_pipeline: Path) -> None:
    """Eight projections a block, and six where the last block makes nothing more of the text: it has neither its q nor its output."""
    model = load(ModelConfig(str(tiny_sd3_pipeline)), lora=Lora(rank=2))
    names = set(adapted_layers(model.policy.network))
    both = {f"transformer_blocks.0.attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")}
    assert both | {f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")} <= names
    assert not any("attn" not in name for name in names)
    sizes = model_sizes(examine(ModelConfig(str(tiny_sd3_pipeline))), Lora(rank=2))
    assert (sizes.title, sizes.adapted_layers) == ("transformer", len(names))


def test_sizes_are_counted_without_weights(tmp_path: Path) -> None:
    """Absent text encoders are not in the plan's sum."""
    folder = tiny_sd3(tmp_path, without=("text_encoder_3",))
    sizes, model = model_sizes(examine(ModelConfig(str(folder)))), load(ModelConfig(str(folder)))
    assert sizes.network == sum(p.numel() for p in model.policy.parameters())
    assert sizes.frozen == sum(p.numel() for module in model.encoder.modules for p in module.parameters())
    assert sizes.t5 == 0


@pytest.mark.parametrize("without", [(), ("text_encoder_3",)])
def test_saved_pipeline_loads_without_us(without: tuple[str, ...], tmp_path: Path) -> None:
    """diffusers alone makes a picture with it, and we load the same model again; an absent encoder stays absent."""
    model = load(ModelConfig(str(tiny_sd3(tmp_path, without=without))))
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.mul_(1.25)
    model.save_pipeline(tmp_path / "out")
    absent = dict.fromkeys([*without, *(name.replace("text_encoder", "tokenizer") for name in without)])
    pipeline = StableDiffusion3Pipeline.from_pretrained(tmp_path / "out", **absent)
    assert all(torch.equal(a, b) for a, b in zip(pipeline.transformer.parameters(), model.policy.parameters(), strict=True))
    assert pipeline("a red circle", num_inference_steps=2, output_type="np").images[0].shape == (16, 16, 3)
    assert {file.suffix for file in (tmp_path / "out").rglob("*") if file.is_file()} <= {".json", ".txt", ".safetensors"}
    assert load(ModelConfig(str(tmp_path / "out"))).fingerprint() == model.fingerprint()


def test_transformer_override_and_its_own_folder(model: Model, tiny_sd3_pipeline: Path, tmp_path: Path) -> None:
    """`model.transformer` takes a folder of `save_network`, and a checkpoint comes back bit for bit."""
    other = load(ModelConfig(str(tiny_sd3(tmp_path, seed=1))))
    other.save_network(tmp_path / "own")
    loaded = load(ModelConfig(str(tiny_sd3_pipeline), transformer=str(tmp_path / "own")))
    assert all(torch.equal(a, b) for a, b in zip(loaded.policy.parameters(), other.policy.parameters(), strict=True))
    loaded.save_policy(tmp_path / "policy")
    again = load(ModelConfig(str(tiny_sd3_pipeline)))
    again.load_policy(tmp_path / "policy")
    assert again.fingerprint() == loaded.fingerprint() != model.fingerprint()


@pytest.mark.parametrize(("pixels", "words"), [(18, "not a positive multiple of 4"), (36, "more than 32")])
def test_sides_that_the_transformer_cannot_have(model: Model, pixels: int, words: str) -> None:
    """Two pixels a latent and two latents a patch; eight places a side."""
    with pytest.raises(InputError, match=words):
        model.latent_shape(pixels)
    assert model.latent_shape(32) == (16, 16, 16)


def test_pictures_encode_to_the_shifted_and_scaled_posterior(model: Model, diffusers_pipeline: StableDiffusion3Pipeline) -> None:
    """(mean − shift) · factor, and decoding undoes it, as the pipeline's last lines do."""
    vae, pictures = diffusers_pipeline.vae, torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean = vae.encode(pictures).latent_dist.mean.detach()
    assert_close(model.encoder.encode_images(pictures).mean, (mean - 0.06) * 1.5)
    expected = diffusers_pipeline.image_processor.postprocess(vae.decode(latents() / 1.5 + 0.06).sample.detach(), output_type="np")
    assert_close(model.encoder.decode(latents()), torch.from_numpy((expected * 255).round()).to(torch.uint8))


def in_shards(folder: Path, *, variant_last: bool) -> None:
    """Puts half-precision shards in the place of T5's weights, under either name that diffusers' versions give them."""
    t5 = T5EncoderModel.from_pretrained(folder / "text_encoder_3").half()
    for file in (folder / "text_encoder_3").glob("*"):
        file.unlink()
    t5.save_pretrained(folder / "text_encoder_3", variant="fp16", max_shard_size="4KB")
    shards = sorted((folder / "text_encoder_3").glob("model.fp16-*-of-*.safetensors"))
    assert len(shards) > 1
    if variant_last:
        index = folder / "text_encoder_3" / "model.safetensors.index.fp16.json"
        text = index.read_text()
        for shard in shards:
            name = re.sub(r"model\.fp16(-\d+-of-\d+)", r"model\1.fp16", shard.name)
            text = text.replace(shard.name, name)
            shard.rename(shard.with_name(name))
        index.write_text(text)


@pytest.mark.parametrize("variant_last", [False, True])
def test_a_t5_in_half_precision_shards_is_read_and_saved_whole(
    variant_last: bool, tiny_sd3_pipeline: Path, tmp_path: Path
) -> None:
    """As SD3's T5 is published: every tensor comes in, and diffusers reads every one of what is saved, in fp32."""
    base = shutil.copytree(tiny_sd3_pipeline, tmp_path / "base")
    in_shards(base, variant_last=variant_last)
    assert weights_variant(base / "text_encoder_3", "model") == "fp16"
    load(ModelConfig(str(base))).save_pipeline(tmp_path / "saved")
    saved = tmp_path / "saved" / "text_encoder_3"
    assert {file.name for file in saved.glob("*index*")} == {"model.safetensors.index.json"}
    assert all(re.fullmatch(r"model-\d+-of-\d+\.safetensors", file.name) for file in saved.glob("*.safetensors"))
    whole = load_file(tiny_sd3_pipeline / "text_encoder_3" / "model.safetensors")
    read, found = T5EncoderModel.from_pretrained(saved, output_loading_info=True)
    assert not found["missing_keys"]
    for name, tensor in read.state_dict().items():
        assert tensor.dtype == torch.float32
        if name in whole:
            assert_close(tensor, whole[name].half().float(), rtol=0, atol=0)
    assert sum(len(load_file(file)) for file in saved.glob("*.safetensors")) == len(whole)
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    StableDiffusion3Pipeline.from_pretrained(tmp_path / "saved")
