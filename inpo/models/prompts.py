"""Prompts to embeddings: windows of tokens, one text encoder, and the layer that is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reading:
    """How prompts are read, by training and generation alike.

    `chunks`: a prompt is so many windows of the text encoder's length (75 tokens between start and end for CLIP), whose embeddings are
    concatenated; what is longer is cut off. `clip_skip`: layers left out before the one that the family reads, as diffusers counts.
    """

    chunks: int = 1
    clip_skip: int = 0


@dataclass(frozen=True)
class TextTower:
    """A text encoder and the tokenizer that it was trained with."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def read(self, prompts: Sequence[str], *, layer: int, normed: bool, chunks: int) -> tuple[Tensor, Tensor | None]:
        """Hidden states `layer` layers before the last, `[B, chunks · tokens, features]`, and the first window's pooled embedding.

        The pooled embedding `[B, features]` is None for an encoder without a projection.
        """
        ids = self.windows(prompts, chunks).flatten(0, 1).to(self.network.device)
        answer = self.network(ids, output_hidden_states=True)
        states: Tensor = answer.hidden_states[-1 - layer]
        if normed:
            states = _inner(self.network).final_layer_norm(states)
        pooled: Tensor | None = getattr(answer, "text_embeds", None)
        # Later windows of a short prompt are empty: the first one alone is always about the prompt.
        return states.reshape(len(prompts), -1, states.shape[-1]), None if pooled is None else pooled[::chunks]

    def windows(self, prompts: Sequence[str], chunks: int) -> Tensor:
        """Token ids, `[B, chunks, tokens]`: each window starts and ends as a prompt of its own does."""
        room = self.length - 2
        words: list[list[int]] = self.tokenizer(
            list(prompts), add_special_tokens=False, truncation=True, max_length=chunks * room
        ).input_ids
        rows = [[self._window(ids[start : start + room]) for start in range(0, chunks * room, room)] for ids in words]
        return torch.tensor(rows)

    def _window(self, words: list[int]) -> list[int]:
        first, last, pad = (getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
        return [first, *words, last, *[pad] * (self.length - 2 - len(words))]

    @property
    def length(self) -> int:
        """How many tokens a window has."""
        # A tokenizer saved without a length says 10^30.
        return min(int(self.tokenizer.model_max_length), int(_inner(self.network).config.max_position_embeddings))


@dataclass(frozen=True)
class T5Tower:
    """A T5 encoder and its tokenizer, which read `tokens` of a prompt; what is longer is cut off, what is shorter filled up."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tokens: int

    def read(self, prompts: Sequence[str], *, masked: bool = False) -> tuple[Tensor, Tensor]:
        """Last hidden states, fp32 `[B, tokens, features]`, and the mask of the prompt's own tokens, fp32 `[B, tokens]`.

        `masked`: whether the encoder itself passes over what fills a prompt up.
        """
        read = self.tokenizer(list(prompts), padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt")
        ids, mask = (read[name].to(self.network.device) for name in ("input_ids", "attention_mask"))
        states: Tensor = self.network(ids, attention_mask=mask if masked else None)[0]
        return states.float(), mask.float()


@dataclass(frozen=True)
class Absent:
    """The place of a text encoder that a pipeline has none of: zeros of this shape."""

    tokens: int
    features: int


Tower = TextTower | T5Tower | Absent


def _inner(network: PreTrainedModel) -> Any:
    """The transformer itself: a projection wraps it, and so did transformers 4."""
    return getattr(network, "text_model", network)
