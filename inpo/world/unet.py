"""The world's text encoder and UNet, trained together by denoising, and the pipeline they make."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
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
class UnetTraining:
    """How the UNet and the text encoder are trained: `steps` of a cosine that would end at `horizon`.

    `pool` pictures are encoded once and revisited under fresh noise. With 3,000 steps 98 % of the base's samples are right in every
    attribute, which leaves little to prefer; with 2,200 those of two items may stay under the floor (docs/benchmarks/world.md).
    """

    steps: int = 2500
    horizon: int = 4400
    batch: int = 64
    lr: float = 1e-3
    pool: int = 40_000
    prompt_dropout: float = 0.1
    average_decay: float = 0.998
    save_every: int = 500
    seed: int = 12


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


def train_unet(how: UnetTraining, vae: AutoencoderKL, checkpoint: Callable[[int, Denoising], None]) -> Denoising:
    """Trains both networks and returns their running average, which `checkpoint(step, average)` also sees every `save_every` steps."""
    torch.manual_seed(how.seed)
    tokenizer, scheduler = make_tokenizer(), make_scheduler()
    model = Denoising(tokenizer).train()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    pictures, captions = draw_pictures(np.random.default_rng(how.seed), how.pool)
    mean, std = (part * vae.config.scaling_factor for part in encode(vae, pictures))
    tokens, blank = tokenize(tokenizer, captions), tokenize(tokenizer, [""])
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(how.horizon, 200))
    running = 1.0
    for step in range(1, how.steps + 1):
        rows = torch.randint(how.pool, (how.batch,))
        ids = torch.where(torch.rand(how.batch, 1) < how.prompt_dropout, blank, tokens[rows])
        clean = mean[rows] + std[rows] * torch.randn_like(mean[rows])
        t, noise = torch.randint(1000, (how.batch,)), torch.randn_like(clean)
        loss = nn.functional.mse_loss(model(scheduler.add_noise(clean, noise, t), t, ids), noise)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        follow(average, model, min(how.average_decay, (1 + step) / (10 + step)))
        running += 0.01 * (float(loss.detach()) - running)
        if step % 200 == 0:
            log.info("unet step %d of %d: running loss %.4f", step, how.steps, running)
        if step % how.save_every == 0:
            checkpoint(step, average)
    return average


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
