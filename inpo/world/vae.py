"""The world's VAE: 32×32 pictures to latents of 4×8×8 and back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, pi

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from inpo.world.shapes import SIDE, Picture, everything, imperfect, render

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VaeTraining:
    """How the VAE is trained. `kl` weighs the KL divergence per latent number against L1 + MSE per channel value."""

    steps: int = 3000
    batch: int = 32
    lr: float = 2e-3
    kl: float = 1e-4
    seed: int = 11


def make_vae() -> AutoencoderKL:
    """An untrained VAE of SD's class, 0.8 M parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
    )


def draw_pictures(rng: np.random.Generator, count: int, *, slips: bool = True) -> tuple[list[Picture], list[str]]:
    """Pictures of the pretraining law and their captions, every second one of two items. Without `slips` every caption is true."""
    scenes = everything()
    ones = sum(not scene.relation for scene in scenes)
    pictures, captions = [], []
    for i in range(count):
        scene = scenes[rng.integers(ones) if i % 2 else rng.integers(ones, len(scenes))]
        imperfection = imperfect(scene, rng)
        pictures.append(render(scene, rng, imperfection if slips else replace(imperfection, shown=None)))
        captions.append(scene.caption)
    return pictures, captions


def to_tensor(pictures: list[Picture]) -> Tensor:
    """Pictures as `[B, 3, 32, 32]`, fp32 in [−1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(images: Tensor) -> list[Picture]:
    """The inverse of `to_tensor`, rounded and clipped."""
    return list(((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())


def cosine(steps: int, warmup: int) -> Callable[[int], float]:
    """The learning rate's factor at a step: a linear rise, then a cosine to nearly 0."""
    return lambda step: min((step + 1) / warmup, 0.5 * (1 + cos(pi * min(step / steps, 1))) + 1e-3)


def train_vae(how: VaeTraining) -> AutoencoderKL:
    """Trains a VAE on fresh pictures and measures its scaling factor, 1/std of its latents."""
    torch.manual_seed(how.seed)
    rng = np.random.default_rng(how.seed)
    vae = make_vae().train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=how.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(how.steps, 100))
    for step in range(1, how.steps + 1):
        images = to_tensor(draw_pictures(rng, how.batch)[0])
        posterior = vae.encode(images).latent_dist
        error = vae.decode(posterior.sample()).sample - images
        loss = error.abs().mean() + error.square().mean() + how.kl * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == how.steps:
            log.info("vae step %d: mse %.5f, loss %.4f", step, float(error.detach().square().mean()), float(loss.detach()))
    vae.eval()
    latents = encode(vae, draw_pictures(rng, 512)[0])[0]
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: list[Picture]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the unscaled posterior, each `[B, 4, 8, 8]`."""
    parts = [vae.encode(to_tensor(pictures[i : i + 256])).latent_dist for i in range(0, len(pictures), 256)]
    return torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> list[Picture]:
    """Pictures of unscaled latents."""
    parts = (latents[i : i + 256] for i in range(0, len(latents), 256))
    return [picture for part in parts for picture in to_pictures(vae.decode(part).sample)]


def vae_error(vae: AutoencoderKL, count: int, seed: int) -> float:
    """Mean squared error on fresh pictures in [−1, 1], through the posterior's mean."""
    pictures = draw_pictures(np.random.default_rng(seed), count)[0]
    again = decode(vae, encode(vae, pictures)[0])
    return float((to_tensor(pictures) - to_tensor(again)).square().mean())
