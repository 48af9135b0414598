"""Pictures and prompts to what a network reads, and back: a VAE and the towers of text encoders. Frozen; fp32, but for T5 in a run
of half precision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from inpo.models.families import Family
from inpo.models.prompts import Absent, Reading, T5Tower, TextTower, Tower
from inpo.types import Condition, LatentDistribution

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

PROMPT = "prompt"
POOLED = "text_embeds"
SIZES = "time_ids"
# A VAE in fp32 takes about 2 KiB a pixel: 2 GiB.
_PIXELS_AT_ONCE = 4 * 512 * 512


@dataclass(frozen=True)
class PipelineEncoder(ABC):
    """An `inpo.types.Encoder` over a VAE and the family's text encoders. Frozen, without gradient.

    A way to read prompts is a subclass. T5, many times as large as all others, waits on the CPU and visits the VAE's device to read.

    `zero_empty`: the empty prompt is zeros, in training and in guidance, because that is what the pipeline's guidance departs from.
    """

    vae: AutoencoderKL
    towers: tuple[Tower, ...]
    family: Family
    reading: Reading
    zero_empty: bool

    def __post_init__(self) -> None:
        for module in self.modules:
            module.eval().requires_grad_(False)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Every frozen network: the VAE, then the text encoders."""
        return self.vae, *(tower.network for tower in self.towers if not isinstance(tower, Absent))

    @property
    def device(self) -> torch.device:
        """Where the networks are, and T5 while it reads."""
        device: torch.device = self.vae.device
        return device

    @property
    def _visitors(self) -> list[nn.Module]:
        return [tower.network for tower in self.towers if isinstance(tower, T5Tower)]

    def move(self, device: torch.device | str) -> None:
        """Takes the networks to `device`, T5 apart. Where they wait on the CPU, they leave the accelerator's memory to training."""
        visitors = self._visitors
        for module in self.modules:
            if module not in visitors:
                module.to(device)

    @contextmanager
    def reading_prompts(self) -> Iterator[None]:
        """Keeps T5 on the device of the other networks during the block, so that it is moved once for several `encode_prompts`."""
        with ExitStack() as stack:
            for module in self._visitors:
                stack.enter_context(_visiting(module, self.device))
            yield

    @contextmanager
    def at_work(self, device: torch.device) -> Iterator[None]:
        """Keeps the networks on `device` during the block and moves them back after it."""
        home = self.device
        self.move(device)
        try:
            yield
        finally:
            self.move(home)

    @property
    def scale(self) -> int:
        """Pixels per latent, along each side."""
        return 1 << (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> LatentDistribution:
        """Mean and deviation of the VAE's posterior, scaled to the UNet's unit. `images`: `[B,3,H,W]` in [−1, 1]."""
        rows = self._rows_at_once(images.shape[-2] * images.shape[-1])
        moments = [self.vae.encode(part.to(self.device)).latent_dist for part in torch.split(images, rows)]
        mean, std = (torch.cat([getattr(each, name) for each in moments]) for name in ("mean", "std"))
        return LatentDistribution((mean - self._shift) * self._factor, std * self._factor)

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """One row per prompt; the empty string is the unconditional prompt."""

    def read_clip(self, tower: TextTower, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """What the family and the user's reading take from a tower of CLIP: states and pooled embedding, as `TextTower.read`."""
        layer = self.family.clip_layers_from_end + self.reading.clip_skip
        return tower.read(prompts, layer=layer, normed=self.family.clip_final_norm, chunks=self.reading.chunks)

    def encode_sizes(self, sizes: Tensor) -> Mapping[str, Tensor]:
        """SDXL's six numbers `[B,6]` as they are: their order is the network's. Raises `InputError` for a family that is told none."""
        self.family.require_sizes()
        return {SIZES: sizes.float()}

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures, uint8 `[B,H,W,3]`, rounded as diffusers does. A picture that is not finite comes out black."""
        rows = self._rows_at_once(latents.shape[-2] * latents.shape[-1] * self.scale**2)
        pictures = [self._decode(part) for part in torch.split(latents.to(self.device), rows)]
        return torch.cat(pictures)

    def _decode(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.vae.decode(latents / self._factor + self._shift, return_dict=False)[0]
        # What NaN becomes as an integer is undefined, so it is made black here; −1 is black.
        finite = pixels.isfinite().flatten(1).all(dim=1).view(-1, 1, 1, 1)
        unit = (pixels.where(finite, -1.0) / 2 + 0.5).clamp(0, 1)
        return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1)

    @staticmethod
    def _rows_at_once(pixels: int) -> int:
        return max(1, _PIXELS_AT_ONCE // pixels)

    @property
    def _factor(self) -> float:
        return float(self.vae.config.scaling_factor)

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)


@contextmanager
def _visiting(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Its numbers are on `device` inside. Nothing is copied back: they are frozen, and those at home have not changed."""
    held = [
        (owner, name, tensor)
        for owner in module.modules()
        for name, tensor in (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False))
    ]
    # Each once: two layers may share one.
    there = {tensor: _guest(tensor, device) for tensor in dict.fromkeys(tensor for _, _, tensor in held) if tensor.device != device}
    try:
        for owner, name, tensor in held:
            setattr(owner, name, there.get(tensor, tensor))
        yield
    finally:
        for owner, name, tensor in held:
            setattr(owner, name, tensor)


def _guest(tensor: Tensor, device: torch.device) -> Tensor:
    data = tensor.data.to(device)
    return nn.Parameter(data, requires_grad=False) if isinstance(tensor, nn.Parameter) else data


class StableDiffusionEncoder(PipelineEncoder):
    """Towers of CLIP, side by side: Stable Diffusion's one and SDXL's two."""

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """The text encoders' states side by side, `[B, tokens, features]`, and the last one's pooled embedding where the UNet wants it."""
        read = [self.read_clip(tower, prompts) for tower in self.towers if isinstance(tower, TextTower)]
        tensors = {PROMPT: torch.cat([states for states, _ in read], dim=-1)}
        pooled = read[-1][1]
        if self.family.addition_embed_type == "text_time" and pooled is not None:
            tensors[POOLED] = pooled
        empty = [row for row, prompt in enumerate(prompts) if prompt == "" and self.zero_empty]
        for tensor in tensors.values():
            tensor[empty] = 0
        return Condition(tensors)
