"""How large a model is, from its configuration alone: no weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from inpo.models.families import Component
from inpo.models.folders import read_json
from inpo.models.parts import Parts


@dataclass(frozen=True)
class ModelSizes:
    """Parameters of the UNet, with the shape of each, and of the frozen VAE and text encoders together; the UNet's own picture side in
    latents, and scale."""

    unet: int
    unet_shapes: tuple[tuple[int, ...], ...]
    frozen: int
    latent_side: int
    latent_channels: int
    pixels_per_latent: int


def model_sizes(parts: Parts) -> ModelSizes:
    """Builds the networks on the meta device and counts."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet_config, vae_config = read_json(parts.unet / "config.json"), read_json(parts.vae / "config.json")
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel.from_config(unet_config), AutoencoderKL.from_config(vae_config)
        texts = [_text_encoder(component, parts.place(component)) for component in parts.family.text_encoders]
    side = unet.config.sample_size
    return ModelSizes(
        unet=_count(unet),
        unet_shapes=tuple(tuple(parameter.shape) for parameter in unet.parameters()),
        frozen=sum(map(_count, (vae, *texts))),
        latent_side=side if isinstance(side, int) else side[0],
        latent_channels=unet.config.in_channels,
        pixels_per_latent=1 << (len(vae.config.block_out_channels) - 1),
    )


def _text_encoder(component: Component, folder: Path) -> torch.nn.Module:
    import transformers

    config = transformers.CLIPTextConfig.from_dict(read_json(folder / "config.json"))
    return cast(torch.nn.Module, getattr(transformers, component.kind)(config))


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
