"""The adapter adds nothing to diffusers' networks, and policy and reference never meet two different roundings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from torch.testing import assert_close

from inpo.models import encoder
from inpo.models.config import ModelConfig
from inpo.models.loading import load
from inpo.models.model import Model
from inpo.types import Condition, Denoiser
from tests.tiny_models import LATENT, MAX_TOKENS

PROMPTS = ["a red circle on a white background", "", "a green square 猫"]
TIMES = torch.tensor([0, 417, 999])


@pytest.fixture
def model(tiny_pipeline: Path) -> Model:
    """A fresh model: tests may train it."""
    return load(ModelConfig(str(tiny_pipeline)))


@pytest.fixture(scope="module")
def diffusers_pipeline(tiny_pipeline: Path) -> StableDiffusionPipeline:
    """The same folder, as a user of diffusers alone has it."""
    return StableDiffusionPipeline.from_pretrained(tiny_pipeline)


def latents(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, *LATENT, generator=torch.Generator().manual_seed(seed))


def test_denoiser_is_the_unet_called_directly(model: Model, diffusers_pipeline: StableDiffusionPipeline) -> None:
    """The same numbers as diffusers' own UNet, with a time of its own for each example, and the protocol is met."""
    condition = model.encoder.encode_prompts(PROMPTS)
    expected = diffusers_pipeline.unet(latents(), TIMES, encoder_hidden_states=condition.tensors["prompt"]).sample
    assert isinstance(model.policy, Denoiser)
    assert torch.equal(model.policy(latents(), TIMES, condition), expected)


def test_each_example_is_denoised_by_its_own_time_and_prompt(model: Model) -> None:
    """A batch of three is three batches of one."""
    condition = model.encoder.encode_prompts(PROMPTS)
    together = model.policy(latents(), TIMES, condition)
    alone = [model.policy(latents()[i : i + 1], TIMES[i : i + 1], condition[i : i + 1]) for i in range(3)]
    assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_policy_and_reference_agree_exactly_at_step_0(tiny_pipeline: Path, dtype: str) -> None:
    """max |difference| is 0, with gradient and without, in train mode and in eval mode (docs/method.md §6.5)."""
    model = load(ModelConfig(str(tiny_pipeline), dtype=dtype))
    reference, condition = model.policy.reference(), model.encoder.encode_prompts(PROMPTS)
    model.policy.train()
    with_gradient = model.policy(latents(), TIMES, condition)
    with torch.no_grad():
        without_gradient = model.policy(latents(), TIMES, condition)
        of_reference = reference(latents(), TIMES, condition)
    assert with_gradient.requires_grad
    assert (with_gradient - of_reference).abs().max() == 0
    assert (without_gradient - of_reference).abs().max() == 0
    # The reference's matrices are kept in what it computes in.
    assert reference.unet.conv_in.weight.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    assert reference.unet.conv_norm_out.weight.dtype == model.policy.unet.conv_in.weight.dtype == torch.float32


def test_bf16_rounds_inside_the_network_alone(tiny_pipeline: Path, model: Model) -> None:
    """Weights, latents and gradients are fp32; only what happens in between is coarser, by about bf16's 2^-8."""
    half = load(ModelConfig(str(tiny_pipeline), dtype="bf16"))
    condition = model.encoder.encode_prompts(PROMPTS)
    coarse, fine = half.policy(latents(), TIMES, condition), model.policy(latents(), TIMES, condition)
    coarse.square().mean().backward()
    assert coarse.dtype == torch.float32
    assert {p.dtype for p in half.policy.parameters()} == {p.grad.dtype for p in half.policy.parameters()} == {torch.float32}
    assert 1e-5 < (coarse - fine).abs().max() / fine.abs().max() < 0.1


def test_fp64_policy_computes_in_fp64(model: Model) -> None:
    """The network's precision is its weights': what the tests of exact accumulation rely on."""
    condition = model.encoder.encode_prompts(PROMPTS)
    single = model.policy(latents(), TIMES, condition)
    double = model.policy.double()(latents().double(), TIMES, condition)
    assert double.dtype == torch.float64
    assert_close(double.float(), single, atol=1e-4, rtol=1e-4)


def test_reference_is_frozen_and_does_not_follow_the_policy(model: Model) -> None:
    """No gradient, no dropout, and weights of its own."""
    model.policy.train()
    reference, condition = model.policy.reference(), model.encoder.encode_prompts(PROMPTS)
    before = reference(latents(), TIMES, condition)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.1)
    assert not any(p.requires_grad for p in reference.parameters())
    assert not reference.unet.training
    assert torch.equal(reference(latents(), TIMES, condition), before)
    assert all(p.requires_grad for p in model.policy.parameters())


def test_checkpointing_recomputes_and_changes_no_gradient(tiny_pipeline: Path) -> None:
    """The first block runs twice in a step, forward and again in the backward pass; gradients are those without."""
    gradients, runs = [], []
    for checkpointing in (False, True):
        model = load(ModelConfig(str(tiny_pipeline), gradient_checkpointing=checkpointing))
        calls: list[int] = []
        model.policy.unet.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        model.policy(latents(), TIMES, model.encoder.encode_prompts(PROMPTS)).square().mean().backward()
        gradients.append([p.grad for p in model.policy.parameters()])
        runs.append(len(calls))
    assert runs == [1, 2]
    assert_close(gradients[1], gradients[0])


def test_prompts_encode_as_the_pipeline_does(model: Model, diffusers_pipeline: StableDiffusionPipeline) -> None:
    """The empty prompt is diffusers' negative prompt, and a prompt past the model's length is cut where diffusers cuts it."""
    prompts = [*PROMPTS, "a photo of a weird word " * 9]
    positive, negative = diffusers_pipeline.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=True)
    encoded = model.encoder.encode_prompts(prompts)
    assert encoded.tensors["prompt"].shape == (4, MAX_TOKENS, 8)
    assert not encoded.tensors["prompt"].requires_grad
    assert torch.equal(encoded.tensors["prompt"], positive)
    assert_close(encoded.tensors["prompt"][1], negative[1])


def test_tokenizer_without_a_length_uses_the_text_encoders(model: Model) -> None:
    """Some folders say 10^30 tokens, which no position embedding has."""
    model.encoder.towers[0].tokenizer.model_max_length = int(1e30)
    assert model.encoder.encode_prompts(["a cat"]).tensors["prompt"].shape[1] == MAX_TOKENS


def test_pictures_encode_to_the_scaled_posterior(model: Model, diffusers_pipeline: StableDiffusionPipeline) -> None:
    """Mean and deviation times the scaling factor, as training on latents does it; the VAE takes no gradient."""
    pictures = latents(2)[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3).clamp(-1, 1)
    posterior, vae = diffusers_pipeline.vae.encode(pictures).latent_dist, diffusers_pipeline.vae
    encoded = model.encoder.encode_images(pictures)
    assert encoded.mean.shape == (2, *LATENT)
    assert_close(encoded.mean, (posterior.mean * vae.config.scaling_factor).detach())
    assert_close(encoded.std, (posterior.std * vae.config.scaling_factor).detach())
    assert not any(p.requires_grad for p in model.encoder.vae.parameters())


def test_a_shifted_vae_is_shifted_both_ways(model: Model) -> None:
    """`shift_factor` is taken off before the scale and put back after it."""
    plain = model.encoder.decode(latents() * model.encoder.vae.config.scaling_factor)
    mean = model.encoder.encode_images(torch.zeros(1, 3, 16, 16)).mean
    factor = model.encoder.vae.config.scaling_factor
    model.encoder.vae.register_to_config(shift_factor=0.5)
    assert torch.equal(model.encoder.decode((latents() - 0.5) * factor), plain)
    assert_close(model.encoder.encode_images(torch.zeros(1, 3, 16, 16)).mean, mean - 0.5 * factor)


def test_decoding_rounds_as_diffusers_does(model: Model, diffusers_pipeline: StableDiffusionPipeline) -> None:
    """Byte for byte the pipeline's own pictures."""
    decoded = diffusers_pipeline.vae.decode(latents() / diffusers_pipeline.vae.config.scaling_factor).sample.detach()
    pictures = diffusers_pipeline.image_processor.postprocess(decoded, output_type="pil")
    expected = torch.stack([torch.tensor(list(picture.tobytes()), dtype=torch.uint8).view(16, 16, 3) for picture in pictures])
    assert torch.equal(model.encoder.decode(latents()), expected)


def test_a_picture_that_is_not_finite_is_black_and_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN has no defined byte, so one pixel of it makes the picture black; its neighbours keep theirs."""
    pixels = torch.full((3, 3, 16, 16), 0.5)
    pixels[1, 0, 3, 3] = torch.nan
    monkeypatch.setattr(model.encoder.vae, "decode", lambda *_, **__: (pixels,))
    assert model.encoder.decode(latents()).flatten(1).unique(dim=1).flatten().tolist() == [191, 0, 191]


def test_large_batches_are_cut_without_a_trace(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder bounds its own memory: pictures go through the VAE a few at a time, with the same result."""
    pictures = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole, decoded = model.encoder.encode_images(pictures), model.encoder.decode(latents(5))
    monkeypatch.setattr(encoder, "_PIXELS_AT_ONCE", 2 * 16 * 16)
    sizes: list[int] = []
    model.encoder.vae.encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    assert_close(model.encoder.encode_images(pictures).mean, whole.mean)
    assert sizes == [2, 2, 1]
    assert_close(model.encoder.decode(latents(5)), decoded, atol=1, rtol=0)


def test_condition_may_live_on_another_device_dtype(model: Model) -> None:
    """A cached embedding in half precision is read, and the answer keeps the latents' precision."""
    condition = model.encoder.encode_prompts(PROMPTS)
    halved = Condition({"prompt": condition.tensors["prompt"].half()})
    assert_close(model.policy(latents(), TIMES, halved), model.policy(latents(), TIMES, condition), atol=1e-2, rtol=1e-2)
