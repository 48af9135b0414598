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
from inpo.models.denoiser import NetworkDenoiser
from inpo.models.encoder import PipelineEncoder
from inpo.models.families import Family
from inpo.models.folders import weights_variant
from inpo.models.prompts import Absent, Reading
from inpo.models.saving import read_weights, save_network, save_pipeline, without_origins
from inpo.models.sides import check_side, latent_side
from inpo.types import Denoiser, Dtype


@dataclass(frozen=True)
class Model:
    """A loaded pipeline: the `policy` that is trained, and the frozen `encoder` between it and pictures and prompts.

    `source` is the pipeline folder that everything but the network is saved from again.
    """

    policy: NetworkDenoiser
    encoder: PipelineEncoder
    family: Family
    source: Path
    scheduler_config: Mapping[str, object]

    @property
    def device(self) -> torch.device:
        """Where the policy is. The encoder may wait elsewhere (`PipelineEncoder.move`)."""
        return next(self.policy.parameters()).device

    @property
    def dtype(self) -> Dtype:
        """What the network computes in."""
        return self.policy.compute_dtype

    @property
    def default_resolution(self) -> int:
        """The side in pixels that the network was made for."""
        return latent_side(self.policy.settings) * self.encoder.scale

    @property
    def absent(self) -> frozenset[str]:
        """Names of the text encoders that the pipeline has none of."""
        towers = zip(self.family.text_encoders, self.encoder.towers, strict=True)
        return frozenset(component.name for component, tower in towers if isinstance(tower, Absent))

    @property
    def guidance(self) -> float:
        """What its family's pictures are sampled with unless told otherwise."""
        return self.family.guidance

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        """(C, H, W) of a square picture's latents. Raises `InputError` for a side that the VAE and the network cannot have."""
        pixels = self.default_resolution if resolution is None else resolution
        check_side(pixels, self.policy.settings, pixels_per_latent=self.encoder.scale)
        side = pixels // self.encoder.scale
        return int(str(self.policy.settings["in_channels"])), side, side

    def reference(self) -> Denoiser:
        """What the policy is compared with: a frozen copy of it as it is now."""
        return self.policy.reference()

    def fingerprint(self) -> str:
        """32 hex digits that change whenever a weight, the schedule, the precision or the reading of prompts does."""
        digest = hashlib.blake2b(digest_size=16)
        settings: list[object] = [without_origins(dict(self.scheduler_config)), self.policy.compute_dtype]
        if self.encoder.reading != Reading():
            settings.append(dataclasses.asdict(self.encoder.reading))
        if self.encoder.zero_empty != self.family.zero_empty:
            settings.append({"zero_empty": self.encoder.zero_empty})
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        for module in (self.policy.network, *self.encoder.modules):
            for name, tensor in module.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def save_pipeline(self, folder: Path, network: nn.Module | None = None) -> None:
        """As `inpo.models.saving.save_pipeline`; `network` None saves the policy's."""
        own, encoder = network or self.policy.network, self.encoder
        save_pipeline(folder, self.source, self.family, network=own, vae=encoder.vae, reading=encoder.reading)

    def save_network(self, folder: Path, network: nn.Module | None = None) -> None:
        """As `inpo.models.saving.save_network`; `network` None saves the policy's."""
        save_network(folder, network or self.policy.network)

    def save_policy(self, folder: Path) -> None:
        """The policy's weights for a checkpoint, bit for bit; the folder is also usable as `save_network`'s."""
        self.save_network(folder)

    def load_policy(self, folder: Path) -> None:
        """Puts weights of `save_policy` into the policy, in place. Raises `InputError` where they are not this network's."""
        weights_variant(folder, self.family.network.weights)
        weights, own = read_weights(folder), self.policy.network.state_dict()
        shapes, own_shapes = ({(name, tuple(tensor.shape)) for name, tensor in each.items()} for each in (weights, own))
        # Compared first: torch copies every tensor that fits before it complains about the ones that do not.
        if different := sorted(shapes ^ own_shapes):
            name, shape = different[0]
            raise InputError(
                f"{folder} holds another network than {self.source / self.family.network.name}: they differ in {len(different)} weights, "
                f"first {name} {shape}"
            )
        self.policy.network.load_state_dict(weights)
