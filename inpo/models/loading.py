"""A pipeline folder to a `Model`: components with every weight they need."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from inpo.models.adapted import AdaptedModel
from inpo.models.config import Lora, ModelConfig
from inpo.models.denoiser import HALF, freeze
from inpo.models.families import VAE
from inpo.models.lora import attach, measure_magnitudes, merge_file
from inpo.models.model import Model
from inpo.models.modules import load_module
from inpo.models.parts import Parts, examine
from inpo.models.texts import load_towers
from inpo.models.wiring import WIRING

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def load(
    config: ModelConfig, device: torch.device | str = "cpu", *, lora: Lora | None = None, seed: int = 0, frozen: bool = False
) -> Model:
    """Loads the model that `config` describes, fp32 whatever its files hold; with `lora` set, frozen under adapters drawn from `seed`.

    Where they are not trained, under adapters or because the model is `frozen`, the network's matrices and kernels are kept in the dtype
    that it computes in, which saves half and changes no number. T5 is bf16 where that dtype is a half (`load_towers`).

    Raises `InputError` naming the folder or the key for a family that is not supported, a component that is absent, damaged
    or does not fit the others, and weights that exist as pickles only.
    """
    parts = examine(config)
    network, wiring = load_network(parts), WIRING[parts.family.network.class_name]
    stored = HALF.get(config.dtype, torch.float32)
    if lora:
        attach(network, lora, seed=seed, attention=parts.family.lora_targets, stored=stored)
    elif frozen:
        freeze(network, stored)
    if config.gradient_checkpointing:
        cast(Any, network).enable_gradient_checkpointing()
    vae = cast("AutoencoderKL", load_module(VAE, parts.vae).to(device))
    towers = load_towers(parts, device, dtype=config.dtype)
    encoder = wiring.encoder(vae, towers, parts.family, reading=parts.reading, zero_empty=parts.zero_empty)
    policy = wiring.denoiser(network, parts.schedule, parts.prediction_type, pixels_per_latent=encoder.scale, dtype=config.dtype)
    whole = Model(policy.to(device).eval(), encoder, parts.family, parts.folder, parts.scheduler_config)
    if not lora:
        return whole
    measure_magnitudes(network)
    return AdaptedModel.of(whole, lora, base=config, read_base=functools.partial(load_network, parts))


def load_network(parts: Parts) -> nn.Module:
    """The network that is trained, with the adapters merged that belong to it."""
    network = load_module(parts.family.network, parts.network)
    for folder in parts.adapters:
        merge_file(folder, network, part=parts.family.network.name)
    return network
