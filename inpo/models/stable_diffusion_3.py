"""Stable Diffusion 3 and 3.5 (arXiv:2403.03206): a transformer on a rectified flow, and three text encoders, of which any may be absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from inpo.models.denoiser import NetworkDenoiser
from inpo.models.encoder import POOLED, PROMPT, PipelineEncoder
from inpo.models.prompts import Absent, T5Tower, TextTower
from inpo.types import Condition


class StableDiffusion3Denoiser(NetworkDenoiser):
    """An `inpo.types.Denoiser` over an `SD3Transformer2DModel`, which predicts the velocity ε − x_0 and is shown 1000 t.

    `condition.tensors`: `prompt` `[B, tokens, features]` and `text_embeds`, the pooled embeddings, `[B, features]`.
    """

    part: ClassVar[str] = "transformer"

    def _predict(self, x_t: Tensor, times: Tensor, read: Mapping[str, Tensor]) -> Tensor:
        answer = self.network(x_t, read[PROMPT], pooled_projections=read[POOLED], timestep=times, return_dict=False)
        return cast(Tensor, answer[0])


class StableDiffusion3Encoder(PipelineEncoder):
    """CLIP's two towers side by side, widened with zeros to T5's features, then T5's tokens after theirs; both pooled embeddings.

    An absent tower is zeros in its place, as diffusers' pipeline has it for T5.
    """

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """`prompt` `[B, CLIP's tokens + T5's tokens, features]` and `text_embeds` `[B, features]`."""
        first, second, t5 = self.towers
        read = [self._clip(tower, prompts) for tower in (first, second)]
        clip, pooled = (torch.cat(parts, dim=-1) for parts in zip(*read, strict=True))
        assert isinstance(t5, T5Tower | Absent)
        with self.reading_prompts():
            long, _ = t5.read(prompts) if isinstance(t5, T5Tower) else (self._zeros(prompts, t5), None)
        wide = functional.pad(clip, (0, long.shape[-1] - clip.shape[-1]))
        return Condition({PROMPT: torch.cat([wide, long], dim=-2), POOLED: pooled})

    def _clip(self, tower: object, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        if isinstance(tower, Absent):
            states = self._zeros(prompts, tower)
            return states, states[:, 0]
        states, pooled = self.read_clip(cast(TextTower, tower), prompts)
        assert pooled is not None
        return states, pooled

    def _zeros(self, prompts: Sequence[str], tower: Absent) -> Tensor:
        return torch.zeros(len(prompts), tower.tokens, tower.features, device=self.device)
