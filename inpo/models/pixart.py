"""PixArt-α and PixArt-Σ (arXiv:2310.00426, arXiv:2403.04692): a transformer that predicts ε and reads T5, told which tokens are words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor

from inpo.models.denoiser import NetworkDenoiser
from inpo.models.encoder import PROMPT, PipelineEncoder
from inpo.models.prompts import T5Tower
from inpo.types import Condition

MASK = "mask"
SIDES, RATIO = "resolution", "aspect_ratio"


class PixArtDenoiser(NetworkDenoiser):
    """An `inpo.types.Denoiser` over a `PixArtTransformer2DModel`.

    `condition.tensors`: `prompt` `[B, tokens, features]`, and `mask` `[B, tokens]`, 1 for a token of the prompt and 0 for filling.
    Networks of 1024 pixels of PixArt-α are told height and width, and their ratio: those of the latents, as sampling does.
    The network answers ε and the logarithm of a variance that only ancestral samplers read. ε is the first half.
    """

    part: ClassVar[str] = "transformer"

    def _reads(self, x_t: Tensor, condition: Condition) -> Mapping[str, Tensor]:
        if not self.network.use_additional_conditions:
            return condition.tensors
        height, width = (side * self.pixels_per_latent for side in x_t.shape[-2:])
        sides, ratio = (torch.tensor([values]).expand(len(x_t), -1) for values in ((height, width), (height / width,)))
        return {**condition.tensors, SIDES: sides, RATIO: ratio}

    def _predict(self, x_t: Tensor, times: Tensor, read: Mapping[str, Tensor]) -> Tensor:
        answer = self.network(
            x_t, read[PROMPT], timestep=times, added_cond_kwargs={name: read.get(name) for name in (SIDES, RATIO)},
            encoder_attention_mask=read[MASK], return_dict=False,
        )  # fmt: skip
        return cast(Tensor, answer[0])[:, : x_t.shape[1]]


class PixArtEncoder(PipelineEncoder):
    """T5's states of a prompt in lower case, without spaces around it, as diffusers' pipelines prepare it."""

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """`prompt` `[B, tokens, features]`, and `mask` `[B, tokens]`: 1 where there is a token of the prompt, 0 after its end."""
        with self.reading_prompts():
            states, mask = cast(T5Tower, self.towers[0]).read([prompt.lower().strip() for prompt in prompts], masked=True)
        return Condition({PROMPT: states, MASK: mask})
