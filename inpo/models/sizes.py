"""How large a model is, from its configuration alone: no weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from inpo.models.config import Lora
from inpo.models.families import Component
from inpo.models.folders import read_json
from inpo.models.parts import Outline, Parts
from inpo.models.sides import latent_side
from inpo.models.targets import target_layers


@dataclass(frozen=True)
class ModelSizes:
    """Parameters of the network, with the shape of each, and of what is frozen: VAE and CLIP together, and T5, which is kept in another
    precision; the network's own picture side in latents, and scale. `title`: what the network is called.

    `adapted_layers`, `adapter_shapes`: how many layers have adapters, and the adapters' parameters; none where all weights are trained.
    """

    title: str
    network: int
    network_shapes: tuple[tuple[int, ...], ...]
    adapted_layers: int
    adapter_shapes: tuple[tuple[int, ...], ...]
    frozen: int
    t5: int
    latent_side: int
    latent_channels: int
    pixels_per_latent: int


def model_sizes(parts: Parts, lora: Lora | None = None) -> ModelSizes:
    """Builds the networks on the meta device and counts. Raises `InputError` for `lora.targets` that match nothing."""
    from diffusers import AutoencoderKL

    network = _network(parts)
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(read_json(parts.vae / "config.json"))
        there = [tower for tower in parts.family.text_encoders if tower.name not in parts.absent]
        counts = {tower: _count(_text_encoder(tower, parts.place(tower))) for tower in there}
    layers = target_layers(network, lora.target_names, parts.family.lora_targets) if lora else []
    return ModelSizes(
        title=parts.family.network.title,
        network=_count(network),
        network_shapes=tuple(tuple(parameter.shape) for parameter in network.parameters()),
        adapted_layers=len(layers),
        adapter_shapes=tuple(shape for name in layers for shape in _adapter_shapes(network.get_submodule(name), lora)) if lora else (),
        frozen=_count(vae) + sum(count for tower, count in counts.items() if tower in parts.family.clip_encoders),
        t5=sum(count for tower, count in counts.items() if tower not in parts.family.clip_encoders),
        latent_side=latent_side(network.config),
        latent_channels=network.config.in_channels,
        pixels_per_latent=1 << (len(vae.config.block_out_channels) - 1),
    )


def network_names(parts: Parts | Outline) -> Mapping[str, torch.Tensor]:
    """Every tensor of the network by its name, without numbers."""
    return cast("Mapping[str, torch.Tensor]", _network(parts).state_dict())


def _network(parts: Parts | Outline) -> Any:
    import diffusers

    with torch.device("meta"):
        return getattr(diffusers, parts.family.network.class_name).from_config(read_json(parts.network / "config.json"))


def _text_encoder(component: Component, folder: Path) -> torch.nn.Module:
    import transformers

    kind = getattr(transformers, component.class_name)
    return cast(torch.nn.Module, kind(kind.config_class.from_dict(read_json(folder / "config.json"))))


def _adapter_shapes(layer: nn.Module, lora: Lora) -> Iterator[tuple[int, ...]]:
    """A and B, and for DoRA a magnitude for each output."""
    outputs, *inputs = cast(nn.Parameter, layer.weight).shape
    yield (lora.rank, *inputs)
    yield (outputs, lora.rank, *(1 for _ in inputs[1:]))
    if lora.dora:
        yield (outputs,)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
