"""Stable Diffusion 1.x and 2.x behind the package's protocols: a UNet conditioned on a prompt's embeddings, a VAE, a CLIP text encoder.

Latents are fp32 on both sides of the network; the network alone decides what it computes in.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from inpo.models.config import Dtype
from inpo.schedule import Prediction, VPSchedule
from inpo.types import Condition, LatentDistribution

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, PreTrainedTokenizerBase

PROMPT = "prompt"
_PIXELS_AT_ONCE = 8 * 512 * 512


class StableDiffusionDenoiser(nn.Module):
    """An `inpo.types.Denoiser` over a `UNet2DConditionModel`. `condition.tensors["prompt"]`: `[B, tokens, features]`.

    With dtype "bf16" the weights stay fp32 and autocast rounds them on the way into each operation, so that an optimiser
    step of 1e-5 is not lost in bf16's 8 bits. `reference()` takes the very same path: β/2 multiplies the difference of two
    nearly equal errors, and must not meet two different roundings.
    """

    def __init__(self, unet: UNet2DConditionModel, schedule: VPSchedule, prediction: Prediction, *, dtype: Dtype = "fp32") -> None:
        super().__init__()
        self.unet = unet
        self.schedule = schedule
        self.prediction = prediction
        self.compute_dtype = dtype

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The UNet's own prediction, `[B,C,H,W]`, in the dtype of `x_t`. `t`: `[B]`, on any device."""
        width = self.unet.dtype
        prompt = condition.tensors[PROMPT].to(x_t.device, width)
        times = self.schedule.network_time(t).to(x_t.device)
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.compute_dtype == "bf16"):
            prediction: Tensor = self.unet(x_t.to(width), times, encoder_hidden_states=prompt, return_dict=False)[0]
        return prediction.to(x_t.dtype)

    def reference(self) -> StableDiffusionDenoiser:
        """A frozen copy of the network as it is now: eval mode, no parameter requires a gradient."""
        return copy.deepcopy(self).eval().requires_grad_(False)


@dataclass(frozen=True)
class StableDiffusionEncoder:
    """An `inpo.types.Encoder` over Stable Diffusion's VAE and CLIP text encoder. Frozen, fp32, without gradient."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        for module in (self.vae, self.text_encoder):
            module.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where both networks are."""
        device: torch.device = self.vae.device
        return device

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

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """The text encoder's last hidden state, `[B, tokens, features]`; tokens past the model's length are cut off."""
        ids = self.tokenizer(list(prompts), padding="max_length", max_length=self._tokens, truncation=True, return_tensors="pt")
        return Condition({PROMPT: self.text_encoder(ids.input_ids.to(self.device))[0]})

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
    def _tokens(self) -> int:
        # A tokenizer saved without a length says 10^30.
        return min(int(self.tokenizer.model_max_length), int(self.text_encoder.config.max_position_embeddings))

    @property
    def _factor(self) -> float:
        return float(self.vae.config.scaling_factor)

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)
