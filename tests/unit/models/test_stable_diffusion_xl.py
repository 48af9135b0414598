"""SDXL is diffusers' SDXL: two towers, a pooled embedding and sizes, none of which anyone outside the model has to know."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor
from torch.testing import assert_close

from inpo.models.config import ModelConfig
from inpo.models.loading import load
from inpo.models.model import Model
from inpo.models.parts import examine
from inpo.models.sizes import model_sizes
from inpo.types import Condition, Denoiser
from tests.tiny_models import LATENT, MAX_TOKENS, POOLED

PROMPTS = ["a red circle on a white background", "", "a green square 猫"]
TIMES = torch.tensor([0, 417, 999])


@pytest.fixture(scope="module")
def model(tiny_sdxl_pipeline: Path) -> Model:
    return load(ModelConfig(str(tiny_sdxl_pipeline)))


@pytest.fixture(scope="module")
def diffusers_pipeline(tiny_sdxl_pipeline: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(tiny_sdxl_pipeline)


def latents(side: int = 8) -> Tensor:
    return torch.randn(3, LATENT[0], side, side, generator=torch.Generator().manual_seed(0))


def empty_forced(folder: Path, forced: bool, tmp_path: Path) -> Path:
    """A copy whose index says what the empty prompt is."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text()) | {"force_zeros_for_empty_prompt": forced}
    (copy / "model_index.json").write_text(json.dumps(index))
    return copy


def test_the_family_is_read_from_the_folder(model: Model) -> None:
    """Two text encoders, frozen, beside the VAE."""
    assert model.family.name == "sdxl"
    assert [type(module).__name__ for module in model.encoder.modules] == ["AutoencoderKL", "CLIPTextModel", "CLIPTextModelWithProjection"]
    assert not any(p.requires_grad for module in model.encoder.modules for p in module.parameters())
    assert isinstance(model.policy, Denoiser)


def test_prompts_encode_as_the_pipeline_does(model: Model, diffusers_pipeline: StableDiffusionXLPipeline) -> None:
    """Penultimate states of both towers side by side (8 + 12 features), and the second one's pooled embedding."""
    prompts = [PROMPTS[0], PROMPTS[2], "a photo of a weird word " * 9]
    positive, _, pooled, _ = diffusers_pipeline.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
    encoded = model.encoder.encode_prompts(prompts)
    assert encoded.tensors["prompt"].shape == (3, MAX_TOKENS, 8 + 12)
    assert encoded.tensors["text_embeds"].shape == (3, POOLED)
    assert torch.equal(encoded.tensors["prompt"], positive)
    assert torch.equal(encoded.tensors["text_embeds"], pooled)


@pytest.mark.parametrize("forced", [True, False])
def test_the_empty_prompt_is_what_guidance_departs_from(tiny_sdxl_pipeline: Path, tmp_path: Path, forced: bool) -> None:
    """Zeros where model_index.json forces them, else the encoded empty string: diffusers' negative embeddings, alone and in a batch.

    Pictures depend on it, so the fingerprint does.
    """
    folder = empty_forced(tiny_sdxl_pipeline, forced, tmp_path)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    _, negative, _, negative_pooled = pipeline.encode_prompt(PROMPTS[0], device="cpu", do_classifier_free_guidance=True)
    read = load(ModelConfig(str(folder)))
    assert (read.fingerprint() == load(ModelConfig(str(tiny_sdxl_pipeline))).fingerprint()) is forced
    encoded = read.encoder.encode_prompts(PROMPTS)
    assert (negative.abs().max() == 0) is forced or bool(negative.abs().max() > 0) is not forced
    assert_close(encoded.tensors["prompt"][1:2], negative)
    assert_close(encoded.tensors["text_embeds"][1:2], negative_pooled)
    assert all(encoded.tensors[name][row].abs().max() > 0 for name in encoded.tensors for row in (0, 2))


@pytest.mark.parametrize("side", [8, 12])
def test_sizes_are_one_constant_of_the_latents(model: Model, diffusers_pipeline: StableDiffusionXLPipeline, side: int) -> None:
    """(res, res, 0, 0, res, res) with res the pixels of the latents: 16 or 24 at two pixels a latent."""
    condition = model.encoder.encode_prompts(PROMPTS)
    added = {
        "text_embeds": condition.tensors["text_embeds"],
        "time_ids": torch.tensor([[2.0 * side, 2 * side, 0, 0, 2 * side, 2 * side]] * 3),
    }
    network = diffusers_pipeline.unet
    expected = network(latents(side), TIMES, encoder_hidden_states=condition.tensors["prompt"], added_cond_kwargs=added).sample
    assert torch.equal(model.policy(latents(side), TIMES, condition), expected)


def test_sizes_in_the_condition_are_used_row_by_row(model: Model) -> None:
    """The constant given by hand changes nothing; another size changes its own row and no other."""
    condition = model.encoder.encode_prompts(PROMPTS)
    constant = torch.tensor([[16, 16, 0, 0, 16, 16]]).repeat(3, 1)
    plain = model.policy(latents(), TIMES, condition)
    assert torch.equal(model.policy(latents(), TIMES, Condition({**condition.tensors, "time_ids": constant})), plain)
    constant[1, 0] = 900
    other = model.policy(latents(), TIMES, Condition({**condition.tensors, "time_ids": constant}))
    assert [bool((other[row] != plain[row]).any()) for row in range(3)] == [False, True, False]


def test_sizes_encode_to_what_the_pipeline_tells(model: Model, diffusers_pipeline: StableDiffusionXLPipeline) -> None:
    """Original height and width, the crop's upper and left edge, target: `_get_add_time_ids` of diffusers."""
    theirs = diffusers_pipeline._get_add_time_ids((24, 36), (0, 4), (16, 16), torch.float32, POOLED)
    ours = model.encoder.encode_sizes(torch.tensor([[24, 36, 0, 4, 16, 16]]))
    assert list(ours) == ["time_ids"]
    assert torch.equal(ours["time_ids"], theirs)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_policy_and_reference_agree_exactly_at_step_0(tiny_sdxl_pipeline: Path, dtype: str) -> None:
    """max |difference| is 0 with checkpointing on (docs/method.md §6.5), and the gradient reaches every weight."""
    model = load(ModelConfig(str(tiny_sdxl_pipeline), dtype=dtype, gradient_checkpointing=True))
    reference, condition = model.policy.reference(), model.encoder.encode_prompts(PROMPTS)
    model.policy.train()
    answer = model.policy(latents(), TIMES, condition)
    assert (answer - reference(latents(), TIMES, condition)).abs().max() == 0
    answer.square().mean().backward()
    assert all(p.grad is not None for p in model.policy.parameters())


def test_saved_pipeline_loads_without_us(model: Model, tmp_path: Path) -> None:
    """Both towers, both tokenizers and the index's own settings go with it; there is no pickle, and no key that SDXL does not know."""
    model.save_pipeline(tmp_path / "out")
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "out")
    for module, ours in ((pipeline.text_encoder, 1), (pipeline.text_encoder_2, 2)):
        theirs = model.encoder.modules[ours].state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in module.state_dict().items())
    assert pipeline.tokenizer_2.pad_token == "!"
    assert pipeline.config.force_zeros_for_empty_prompt
    assert "requires_safety_checker" not in json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert pipeline("a red circle", num_inference_steps=2, output_type="np").images[0].shape == (16, 16, 3)
    assert {file.suffix for file in (tmp_path / "out").rglob("*") if file.is_file()} <= {".json", ".txt", ".safetensors"}
    assert load(ModelConfig(str(tmp_path / "out"))).fingerprint() == model.fingerprint()


def test_sizes_are_counted_without_weights(tiny_sdxl_pipeline: Path, model: Model) -> None:
    """Both towers are in the plan's sum."""
    sizes = model_sizes(examine(ModelConfig(str(tiny_sdxl_pipeline))))
    assert sizes.network == sum(p.numel() for p in model.policy.parameters())
    assert sizes.frozen == sum(p.numel() for module in model.encoder.modules for p in module.parameters())
