"""Tiny models with the block structure of the published ones, so that every rule of their layouts is met.

`tiny_models` has the least that runs; these have several layers a level, attention in the VAE, and SD2's and SDXL's text encoders.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tests.tiny_models import LATENT, POOLED, scheduler_config, tiny_text_encoder, tiny_tokenizer

CROSS = {"down": "CrossAttnDownBlock2D", "up": "CrossAttnUpBlock2D"}
PLAIN = {"down": "DownBlock2D", "up": "UpBlock2D"}


def unet(attention: tuple[bool, bool, bool], width: int, **more: object) -> torch.nn.Module:
    """Three levels of two layers; `attention`: which of them have it, from the picture inwards."""
    from diffusers import UNet2DConditionModel

    kinds = [CROSS if each else PLAIN for each in attention]
    return UNet2DConditionModel(
        sample_size=LATENT[1], in_channels=LATENT[0], out_channels=LATENT[0], block_out_channels=(4, 8, 8), layers_per_block=2,
        down_block_types=tuple(kind["down"] for kind in kinds), up_block_types=tuple(kind["up"] for kind in reversed(kinds)),
        cross_attention_dim=width, attention_head_dim=2, norm_num_groups=2, **more,
    )  # fmt: skip


def vae() -> torch.nn.Module:
    """Two levels of two layers with attention in the middle, which is a 1×1 convolution in the original layout."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=2, latent_channels=LATENT[0], norm_num_groups=2, sample_size=LATENT[1] * 2,
    )  # fmt: skip


def sd(folder: Path, *, version: int) -> Path:
    """Stable Diffusion `version` 1, or 2: v-prediction, linear projections, an OpenCLIP text encoder."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(version)
        tokenizer = tiny_tokenizer()
        text = tiny_text_encoder(tokenizer, layers=2, hidden_act="gelu" if version == 2 else "quick_gelu")
        pipeline = StableDiffusionPipeline(
            unet=unet((True, True, False), 8, use_linear_projection=version == 2), vae=vae(), text_encoder=text, tokenizer=tokenizer,
            scheduler=DDIMScheduler.from_config(scheduler_config("v_prediction" if version == 2 else "epsilon")),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def sdxl(folder: Path, *, v: bool = False) -> Path:
    """Stable Diffusion XL: no attention where the picture is largest, several transformer blocks where it is smallest."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        tokenizer, second = tiny_tokenizer(), tiny_tokenizer()
        second.pad_token = "!"
        network = unet(
            (False, True, True), 20, addition_embed_type="text_time", addition_time_embed_dim=4, use_linear_projection=True,
            projection_class_embeddings_input_dim=6 * 4 + POOLED, transformer_layers_per_block=(1, 1, 2),
        )  # fmt: skip
        pipeline = StableDiffusionXLPipeline(
            unet=network, vae=vae(), tokenizer=tokenizer, tokenizer_2=second, text_encoder=tiny_text_encoder(tokenizer, layers=3),
            text_encoder_2=tiny_text_encoder(second, 12, layers=4, projection=POOLED, hidden_act="gelu"), add_watermarker=False,
            scheduler=DDIMScheduler.from_config(scheduler_config("v_prediction" if v else "epsilon", zero_terminal_snr=v)),
        )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
