"""A loaded model: what is trained, what is frozen around it, and its ways back to disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from inpo.errors import InputError
from inpo.models.encoder import StableDiffusionEncoder
from inpo.models.families import UNET, Family
from inpo.models.folders import INDEX, weights_variant
from inpo.models.prompts import Reading
from inpo.models.saving import read_weights, replace_folder, write_network, write_pipeline, write_reading
from inpo.models.stable_diffusion import StableDiffusionDenoiser
from inpo.types import Denoiser


@dataclass(frozen=True)
class Model:
    """A loaded pipeline: the `policy` that is trained, and the frozen `encoder` between it and pictures and prompts.

    `source` is the pipeline folder that everything but the UNet is saved from again.
    """

    policy: StableDiffusionDenoiser
    encoder: StableDiffusionEncoder
    family: Family
    source: Path
    scheduler_config: Mapping[str, object]

    @property
    def device(self) -> torch.device:
        """Where the policy is. The encoder may wait elsewhere (`StableDiffusionEncoder.move`)."""
        return next(self.policy.parameters()).device

    @property
    def default_resolution(self) -> int:
        """The side in pixels that the UNet was made for."""
        size = self.policy.unet.config.sample_size
        return int(size if isinstance(size, int) else size[0]) * self.encoder.scale

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        """(C, H, W) of a square picture's latents. Raises `InputError` where the VAE cannot halve the side often enough."""
        pixels = self.default_resolution if resolution is None else resolution
        side, rest = divmod(pixels, self.encoder.scale)
        if rest or side < 1:
            raise InputError(f"resolution {pixels} is not a positive multiple of {self.encoder.scale}, by which this VAE shrinks pictures")
        return int(self.policy.unet.config.in_channels), side, side

    def reference(self) -> Denoiser:
        """What the policy is compared with: a frozen copy of it as it is now."""
        return self.policy.reference()

    def fingerprint(self) -> str:
        """32 hex digits that change whenever a weight, the schedule, the precision or the reading of prompts does."""
        digest = hashlib.blake2b(digest_size=16)
        settings: list[object] = [dict(self.scheduler_config), self.policy.compute_dtype]
        if self.encoder.reading != Reading():
            settings.append(dataclasses.asdict(self.encoder.reading))
        if self.encoder.zero_empty != self.family.zero_empty:
            settings.append({"zero_empty": self.encoder.zero_empty})
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        for module in (self.policy.unet, *self.encoder.modules):
            for name, tensor in module.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def save_pipeline(self, folder: Path, unet: nn.Module | None = None) -> None:
        """A folder that the family's diffusers pipeline loads without this package; `unet` None saves the policy's.

        Complete or absent: it is written beside `folder` and renamed. Raises `InputError` where `folder` holds anything but a
        pipeline.
        """
        with replace_folder(folder, INDEX) as new:
            write_pipeline(new, self.source, self.family, unet=unet or self.policy.unet, vae=self.encoder.vae)
            write_reading(new, self.encoder.reading)

    def save_unet(self, folder: Path, unet: nn.Module | None = None) -> None:
        """The UNet alone (config.json and safetensors), as `model.unet` and diffusers read it. Complete or absent."""
        with replace_folder(folder, "config.json") as new:
            write_network(new, unet or self.policy.unet)

    def save_policy(self, folder: Path) -> None:
        """The policy's weights for a checkpoint, bit for bit; the folder is also usable as `model.unet`."""
        self.save_unet(folder)

    def load_policy(self, folder: Path) -> None:
        """Puts weights of `save_policy` into the policy, in place. Raises `InputError` where they are not this network's."""
        weights_variant(folder, UNET.weights)
        weights, own = read_weights(folder), self.policy.unet.state_dict()
        shapes, own_shapes = ({(name, tuple(tensor.shape)) for name, tensor in each.items()} for each in (weights, own))
        # Compared first: torch copies every tensor that fits before it complains about the ones that do not.
        if different := sorted(shapes ^ own_shapes):
            name, shape = different[0]
            raise InputError(
                f"{folder} holds another network than {self.source / 'unet'}: they differ in {len(different)} weights, first {name} {shape}"
            )
        self.policy.unet.load_state_dict(weights)
