"""Stable Diffusion's UNet behind the package's `Denoiser` protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor

from inpo.models.denoiser import NetworkDenoiser
from inpo.models.encoder import POOLED, PROMPT, SIZES
from inpo.types import Condition


class StableDiffusionDenoiser(NetworkDenoiser):
    """An `inpo.types.Denoiser` over a `UNet2DConditionModel`. `condition.tensors["prompt"]`: `[B, tokens, features]`.

    SDXL's UNet reads `text_embeds` `[B, features]` and `time_ids` `[B, 6]` too: original height and width, the crop's upper and left
    edge, target height and width. A condition without `time_ids` is of a whole picture as large as the latents, which makes
    them one constant per run, as published. `pixels_per_latent` says how large that is.
    """

    part: ClassVar[str] = "unet"

    def _reads(self, x_t: Tensor, condition: Condition) -> Mapping[str, Tensor]:
        prompt = {PROMPT: condition.tensors[PROMPT]}
        if self.settings["addition_embed_type"] is None:
            return prompt
        sizes = condition.tensors.get(SIZES)
        if sizes is None:
            height, width = (side * self.pixels_per_latent for side in x_t.shape[-2:])
            sizes = torch.tensor([height, width, 0, 0, height, width]).expand(len(x_t), 6)
        return {**prompt, POOLED: condition.tensors[POOLED], SIZES: sizes}

    def _predict(self, x_t: Tensor, times: Tensor, read: Mapping[str, Tensor]) -> Tensor:
        added = {name: tensor for name, tensor in read.items() if name != PROMPT} or None
        answer = self.network(x_t, times, encoder_hidden_states=read[PROMPT], added_cond_kwargs=added, return_dict=False)
        return cast(Tensor, answer[0])
