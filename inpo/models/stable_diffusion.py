"""Stable Diffusion's UNet behind the package's `Denoiser` protocol.

Latents are fp32 on both sides of the network; the network alone decides what it computes in.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from inpo.models.config import Dtype
from inpo.models.encoder import PROMPT
from inpo.schedule import Prediction, VPSchedule
from inpo.types import Condition

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


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
