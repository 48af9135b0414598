"""Which of our classes stands between one of diffusers' networks and the rest of the package, and which one reads its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inpo.models.denoiser import NetworkDenoiser
from inpo.models.encoder import PipelineEncoder, StableDiffusionEncoder
from inpo.models.pixart import PixArtDenoiser, PixArtEncoder
from inpo.models.stable_diffusion import StableDiffusionDenoiser
from inpo.models.stable_diffusion_3 import StableDiffusion3Denoiser, StableDiffusion3Encoder


@dataclass(frozen=True)
class Wiring:
    """What serves a class of network."""

    denoiser: type[NetworkDenoiser]
    encoder: type[PipelineEncoder]


WIRING: Mapping[str, Wiring] = {
    "UNet2DConditionModel": Wiring(StableDiffusionDenoiser, StableDiffusionEncoder),
    "SD3Transformer2DModel": Wiring(StableDiffusion3Denoiser, StableDiffusion3Encoder),
    "PixArtTransformer2DModel": Wiring(PixArtDenoiser, PixArtEncoder),
}
"""By `Component.class_name` of a family's network."""
