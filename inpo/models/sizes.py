"""How large a model is, from its configuration alone: no weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from inpo.models.config import Lora
from inpo.models.families import Component
from inpo.models.folders import read_json
from inpo.models.parts import Parts
from inpo.models.targets import target_layers


@dataclass(frozen=True)
class ModelSizes:
    """Parameters of the UNet, with the shape of each, and of the frozen VAE and text encoders together; the UNet's own picture side in
    latents, and scale.

    `adapted_layers`, `adapter_shapes`: how many layers have adapters, and the adapters' parameters; none where the UNet is trained.
    """

    unet: int
    unet_shapes: tuple[tuple[int, ...], ...]
    adapted_layers: int
    adapter_shapes: tuple[tuple[int, ...], ...]
    frozen: int
    latent_side: int
    latent_channels: int
    pixels_per_latent: int


def model_sizes(parts: Parts, lora: Lora | None = None) -> ModelSizes:
    """Builds the networks on the meta device and counts. Raises `InputError` for `lora.targets` that match nothing."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet_config, vae_config = read_json(parts.unet / "config.json"), read_json(parts.vae / "config.json")
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel.from_config(unet_config), AutoencoderKL.from_config(vae_config)
        texts = [_text_encoder(component, parts.place(component)) for component in parts.family.text_encoders]
    side = unet.config.sample_size
    layers = target_layers(unet, lora.target_names, parts.family.lora_targets) if lora else []
    return ModelSizes(
        unet=_count(unet),
        unet_shapes=tuple(tuple(parameter.shape) for parameter in unet.parameters()),
        adapted_layers=len(layers),
        adapter_shapes=tuple(shape for name in layers for shape in _adapter_shapes(unet.get_submodule(name), lora)) if lora else (),
        frozen=sum(map(_count, (vae, *texts))),
        latent_side=side if isinstance(side, int) else side[0],
        latent_channels=unet.config.in_channels,
        pixels_per_latent=1 << (len(vae.config.block_out_channels) - 1),
    )


def network_names(parts: Parts) -> Mapping[str, torch.Tensor]:
    """Every tensor of the network by its name, without numbers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network = UNet2DConditionModel.from_config(read_json(parts.unet / "config.json"))
    return cast("Mapping[str, torch.Tensor]", network.state_dict())


def _text_encoder(component: Component, folder: Path) -> torch.nn.Module:
    import transformers

    config = transformers.CLIPTextConfig.from_dict(read_json(folder / "config.json"))
    return cast(torch.nn.Module, getattr(transformers, component.kind)(config))


def _adapter_shapes(layer: nn.Module, lora: Lora) -> Iterator[tuple[int, ...]]:
    """A and B, and for DoRA a magnitude for each output."""
    outputs, *inputs = cast(nn.Parameter, layer.weight).shape
    yield (lora.rank, *inputs)
    yield (outputs, lora.rank, *(1 for _ in inputs[1:]))
    if lora.dora:
        yield (outputs,)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
