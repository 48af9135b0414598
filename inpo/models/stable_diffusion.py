"""Stable Diffusion's UNet behind the package's `Denoiser` protocol.

Latents are fp32 on both sides of the network; the network alone decides what it computes in.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from inpo.models.encoder import POOLED, PROMPT, SIZES
from inpo.schedule import Prediction, VPSchedule
from inpo.types import Condition, Dtype

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class StableDiffusionDenoiser(nn.Module):
    """An `inpo.types.Denoiser` over a `UNet2DConditionModel`. `condition.tensors["prompt"]`: `[B, tokens, features]`.

    SDXL's UNet reads `text_embeds` `[B, features]` and `time_ids` `[B, 6]` too: original height and width, the crop's upper and left
    edge, target height and width. A condition without `time_ids` is of a whole picture as large as the latents, which makes
    them one constant per run, as published. `pixels_per_latent` says how large that is.

    With dtype "bf16" or "fp16" the weights stay fp32 and autocast rounds them on the way into each operation, so that an optimiser
    step of 1e-5 is not lost in bf16's 8 bits or fp16's 11. `reference()` takes the same path: β/2 multiplies the difference of two
    nearly equal errors, and must not meet two different roundings.
    """

    def __init__(
        self, unet: UNet2DConditionModel, schedule: VPSchedule, prediction: Prediction, *, pixels_per_latent: int, dtype: Dtype = "fp32"
    ) -> None:
        super().__init__()
        self.unet = unet
        self.schedule = schedule
        self.prediction = prediction
        self.pixels_per_latent = pixels_per_latent
        self.compute_dtype = dtype

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The UNet's own prediction, `[B,C,H,W]`, in the dtype of `x_t`. `t`: `[B]`, on any device."""
        width = self._width
        prompt = condition.tensors[PROMPT].to(x_t.device, width)
        times = self.schedule.network_time(t).to(x_t.device)
        with torch.autocast(x_t.device.type, HALF.get(self.compute_dtype), enabled=self.compute_dtype in HALF):
            prediction: Tensor = self.unet(
                x_t.to(width), times, encoder_hidden_states=prompt, added_cond_kwargs=self._added(x_t, condition), return_dict=False
            )[0]
        return prediction.to(x_t.dtype)

    @property
    def _width(self) -> torch.dtype:
        # Under autocast the weights may be stored in half precision, of which sizes in pixels would be rounded.
        return torch.float32 if self.compute_dtype in HALF else cast(torch.dtype, self.unet.dtype)

    def _added(self, x_t: Tensor, condition: Condition) -> dict[str, Tensor] | None:
        if self.unet.config.addition_embed_type is None:
            return None
        sizes = condition.tensors.get(SIZES)
        if sizes is None:
            height, width = (side * self.pixels_per_latent for side in x_t.shape[-2:])
            sizes = torch.tensor([height, width, 0, 0, height, width]).expand(len(x_t), 6)
        return {name: tensor.to(x_t.device, self._width) for name, tensor in ((POOLED, condition.tensors[POOLED]), (SIZES, sizes))}

    def reference(self) -> StableDiffusionDenoiser:
        """A frozen copy of the network as it is now: eval mode, no parameter requires a gradient."""
        return copy.deepcopy(self).eval().requires_grad_(False)
