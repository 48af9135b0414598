"""The world's text encoder and UNet, trained together by denoising, and the pipeline they make."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from inpo.world import GUIDANCE
from inpo.world.shapes import Picture
from inpo.world.tokenizer import MAX_TOKENS, make_tokenizer, save_tokenizer
from inpo.world.vae import cosine, decode, draw_pictures, encode

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leg:
    """One leg of the training: `steps` of a cosine that would end at `horizon`, from the running average of the leg before.

    `high_share` of the times are drawn from [700, 1000) and not from all; an error counts 1/ᾱ, but at most `weight_cap`.
    """

    steps: int
    horizon: int
    lr: float = 1e-3
    high_share: float = 0.0
    weight_cap: float = 1.0
    seed: int = 12


# Under the plain loss shapes, colours and sizes are soon right, but not which item goes where: that is settled at the noisiest times,
# where it changes ε by little. So the second leg looks there more often, and weighs errors nearly as errors in x_0.
LEGS = (Leg(2200, 4400), Leg(1300, 1300, high_share=0.5, weight_cap=8.0, seed=22))


@dataclass(frozen=True)
class UnetTraining:
    """How the UNet and the text encoder are trained. `pool` pictures are encoded once a leg and revisited under fresh noise."""

    legs: tuple[Leg, ...] = LEGS
    batch: int = 64
    pool: int = 40_000
    prompt_dropout: float = 0.1
    average_decay: float = 0.998
    save_every: int = 500


class Denoising(nn.Module):
    """The two networks that learn together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text = make_text_encoder(tokenizer)
        self.unet = make_unet()

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """ε `[B, 4, 8, 8]` from `x_t`, times `[B]` and token ids `[B, 16]`."""
        prediction: Tensor = self.unet(x_t, t, self.text(tokens).last_hidden_state).sample
        return prediction


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder, 64 wide and 2 deep."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_unet() -> UNet2DConditionModel:
    """An untrained UNet of SD's class with cross-attention at 8×8 and at 4×4."""
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 88),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def make_scheduler() -> DDIMScheduler:
    """SD1.5's betas and conventions."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token ids `[B, 16]`."""
    ids: Tensor = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


@torch.no_grad()
def sample(model: Denoising, vae: AutoencoderKL, prompts: list[str], *, steps: int, seed: int) -> list[Picture]:
    """One picture a prompt, by DDIM at the world's guidance."""
    tokenizer, scheduler = make_tokenizer(), make_scheduler()
    scheduler.set_timesteps(steps)
    text = model.text(tokenize(tokenizer, [*prompts, *([""] * len(prompts))])).last_hidden_state
    x = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    for t in scheduler.timesteps:
        wanted, anyhow = model.unet(torch.cat([x, x]), t, text).sample.chunk(2)
        x = scheduler.step(anyhow + GUIDANCE * (wanted - anyhow), t, x).prev_sample
    return decode(vae, x / vae.config.scaling_factor)


Checkpoint = Callable[[str, Denoising], None]


def train_unet(how: UnetTraining, vae: AutoencoderKL, checkpoint: Checkpoint) -> Denoising:
    """Trains both networks and returns their running average, which `checkpoint(name, average)` also sees every `save_every` steps."""
    torch.manual_seed(how.legs[0].seed)
    average = Denoising(make_tokenizer())
    for number, leg in enumerate(how.legs, start=1):
        average = train_leg(how, leg, vae, average, partial(_named, checkpoint, number))
    return average


def _named(checkpoint: Checkpoint, leg: int, step: int, average: Denoising) -> None:
    checkpoint(f"leg-{leg}-step-{step:05d}", average)


def train_leg(how: UnetTraining, leg: Leg, vae: AutoencoderKL, start: Denoising, checkpoint: Callable[[int, Denoising], None]) -> Denoising:
    """One leg, from `start`, with an optimiser of its own. Returns the running average of the weights."""
    tokenizer, scheduler = make_tokenizer(), make_scheduler()
    pictures, captions = draw_pictures(np.random.default_rng(leg.seed), how.pool)
    mean, std = (part * vae.config.scaling_factor for part in encode(vae, pictures))
    tokens, blank = tokenize(tokenizer, captions), tokenize(tokenizer, [""])
    torch.manual_seed(leg.seed)
    model = copy.deepcopy(start).train().requires_grad_(True)
    average = copy.deepcopy(start).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=leg.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(leg.horizon, 200))
    weight, running = (1 / scheduler.alphas_cumprod).clamp(max=leg.weight_cap), 1.0
    for step in range(1, leg.steps + 1):
        rows = torch.randint(how.pool, (how.batch,))
        ids = torch.where(torch.rand(how.batch, 1) < how.prompt_dropout, blank, tokens[rows])
        clean = mean[rows] + std[rows] * torch.randn_like(mean[rows])
        t, noise = draw_times(how.batch, leg.high_share), torch.randn_like(clean)
        error = (model(scheduler.add_noise(clean, noise, t), t, ids) - noise).square().mean(dim=(1, 2, 3))
        loss = (weight[t] * error).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        follow(average, model, min(how.average_decay, (1 + step) / (10 + step)))
        running += 0.01 * (float(loss.detach()) - running)
        if step % 200 == 0:
            log.info("unet step %d of %d: running loss %.4f", step, leg.steps, running)
        if step % how.save_every == 0 or step == leg.steps:
            checkpoint(step, average)
    return average


def draw_times(count: int, high_share: float) -> Tensor:
    """Times `[count]`, uniform on [0, 1000); a share of them, on average, on [700, 1000) instead."""
    high = torch.rand(count) < high_share
    return torch.where(high, torch.randint(700, 1000, (count,)), torch.randint(1000, (count,)))


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average ← decay·average + (1 − decay)·model."""
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], 1 - decay)


def save_pipeline(folder: Path, vae: AutoencoderKL, model: Denoising) -> None:
    """Writes a `StableDiffusionPipeline` folder, the UNet and the VAE in half precision, which `from_pretrained` reads into fp32.

    The text encoder stays in fp32: transformers loads weights in the dtype they are stored in.
    """
    tokenizer = make_tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(vae).half(),
        text_encoder=model.text,
        tokenizer=tokenizer,
        unet=copy.deepcopy(model.unet).half(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(tokenizer, folder / "tokenizer")


def load_denoising(folder: Path) -> tuple[Denoising, AutoencoderKL]:
    """What `save_pipeline` wrote, in fp32."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    model = Denoising(pipeline.tokenizer)
    model.text, model.unet = pipeline.text_encoder, pipeline.unet
    return model.eval(), pipeline.vae
