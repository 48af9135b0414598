"""Pictures that follow another picture beside the prompt: `inpo generate --controlnet … --control-image …`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from inpo.checking import number
from inpo.errors import InputError
from inpo.files import file_sha256
from inpo.models.model import Model
from inpo.types import Denoiser, Dtype, Encoder

if TYPE_CHECKING:
    from inpo.generation import Shot

OPTION, IMAGE_OPTION = "--controlnet", "--control-image"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Control:
    """A ControlNet (a folder or a hub id), and what it reads: a picture for all prompts, or a folder with one for each, by name.

    `scale` multiplies what it adds. Raises `InputError` for a scale below 0.
    """

    network: str
    image: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        number("--control-scale", self.scale, low=0)

    def files(self, prompts: int) -> tuple[Path, ...]:
        """One file, or as many as there are prompts. Every one is decoded. Raises `InputError` naming what is wrong."""
        from inpo.data.images import BrokenImage

        found = [self.image]
        if self.image.is_dir():
            found = sorted(file for file in self.image.iterdir() if file.suffix.lower() in PICTURES)
            if len(found) != prompts:
                raise InputError(
                    f"{IMAGE_OPTION} {self.image} holds {len(found)} pictures for {prompts} prompts: one for each, in the order of their "
                    "names; or give a single file for all"
                )
        elif not self.image.is_file():
            raise InputError(f"{IMAGE_OPTION} {self.image}: there is no such file or folder")
        for file in found:
            try:
                read_picture(file, 8)
            except BrokenImage as error:
                raise InputError(f"{IMAGE_OPTION} {file}: {error}") from error
        return tuple(found)


def read_picture(file: Path, side: int) -> Tensor:
    """`[3,side,side]` in [0, 1], stretched as diffusers does. Raises `BrokenImage` for a file that is no picture."""
    from PIL import Image

    from inpo.data.images import decode

    picture = decode(file.read_bytes()).resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)


@dataclass(frozen=True)
class ControlledModel:
    """A model for generation whose pictures follow `files`, each prompt its own or all the only one."""

    model: Model
    network: nn.Module
    files: tuple[Path, ...]
    scale: float

    @property
    def policy(self) -> Denoiser:
        """The network without its ControlNet."""
        return self.model.policy

    @property
    def encoder(self) -> Encoder:
        """The model's."""
        return self.model.encoder

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.model.device

    @property
    def dtype(self) -> Dtype:
        """The model's."""
        return self.model.dtype

    @property
    def scheduler_config(self) -> Mapping[str, object]:
        """The model's."""
        return self.model.scheduler_config

    @property
    def guidance(self) -> float:
        """The model's."""
        return self.model.guidance

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        """The model's."""
        return self.model.latent_shape(resolution)

    def fingerprint(self) -> str:
        """The model's: what steers it stands in `control`."""
        return self.model.fingerprint()

    @cached_property
    def control(self) -> Mapping[str, object]:
        """Weights of the ControlNet, its scale, and the bytes of every picture."""
        weights = hashlib.blake2b(digest_size=16)
        for name, tensor in self.network.state_dict().items():
            weights.update(name.encode())
            weights.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        pictures = hashlib.sha256("".join(map(file_sha256, self.files)).encode()).hexdigest()
        return {"controlnet": weights.hexdigest(), "scale": self.scale, "images": pictures}

    def denoiser(self, batch: Sequence[Shot], resolution: int | None = None) -> Denoiser:
        """The network with its ControlNet, which reads these shots' pictures at the size that is made."""
        from inpo.models.controlnet import controlled

        side = self.latent_shape(resolution)[-1] * self.model.encoder.scale
        files = [self.files[shot.prompt_index if len(self.files) > 1 else 0] for shot in batch]
        read = {file: read_picture(file, side) for file in dict.fromkeys(files)}
        pictures = torch.stack([read[file] for file in files]).to(self.device)
        return controlled(self.model.policy, self.network, pictures, self.scale)
