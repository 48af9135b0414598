"""Pictures and prompts through the model's `Encoder`, each once where memory allows, with results that memory does not change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from inpo.data.config import LatentChoice
from inpo.data.transform import Sizes
from inpo.randomness import torch_rng
from inpo.types import Condition, Encoder

Value = TypeVar("Value")


@dataclass(frozen=True)
class Latents:
    """The posterior of a pair, winner then loser, or of one picture: `[P,C,H,W]`, fp32, on the CPU.

    `std` is None where only the mean is used.
    """

    mean: Tensor
    std: Tensor | None

    def draw(self, *, seed: int, position: int) -> Tensor:
        """The mean, or a sample whose noise is pure in (seed, position)."""
        if self.std is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=torch_rng(seed, "posterior", position))
        return self.mean + self.std * noise


class BoundedStore(Generic[Value]):
    """Keeps values until `limit` bytes are used, then what it has.

    Nothing is thrown out: an epoch visits every pair once, so whatever would take a place is as far off as what it replaces.
    """

    def __init__(self, size: Callable[[Value], int], limit: int) -> None:
        self._size = size
        self._left = limit
        self._kept: dict[Hashable, Value] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable) -> Value | None:
        """What was kept under `key`, or None."""
        return self._kept.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Keeps `value` where there is room left for it."""
        size = self._size(value)
        if key not in self._kept and size <= self._left:
            self._left -= size
            self._kept[key] = value


class PairEncoder:
    """The model's encoder, counted: `images_encoded` and `prompts_encoded` say what it was asked for.

    A prompt is encoded by itself, and kept. Batched with whatever else happens to be missing, it could come out different
    in the last bits, and a resumed run, which starts with nothing kept, would drift from the uninterrupted one.
    """

    def __init__(self, encoder: Encoder, *, latents: LatentChoice, prompt_bytes: int) -> None:
        self._encoder = encoder
        self._wants_std = latents == "sample"
        self._prompts: BoundedStore[Condition] = BoundedStore(_condition_bytes, prompt_bytes)
        self.images_encoded = 0
        self.prompts_encoded = 0

    @torch.no_grad()
    def latents(self, pairs: Sequence[Tensor]) -> list[Latents]:
        """Pairs, or all of them single pictures, `[P,3,H,W]` in [−1, 1], to their posteriors by one call of the encoder."""
        pictures = torch.cat(list(pairs))
        posterior = self._encoder.encode_images(pictures)
        self.images_encoded += len(pictures)
        means = _by_pair(posterior.mean, len(pairs))
        stds = _by_pair(posterior.std, len(pairs)) if self._wants_std else [None] * len(means)
        return [Latents(mean, std) for mean, std in zip(means, stds, strict=True)]

    def condition(self, prompts: Sequence[str], sizes: Sequence[Sizes] | None = None) -> Condition:
        """One row for each prompt, on the CPU, and with its picture's sizes where they are told. Raises `InputError` as `encode_sizes`."""
        wanted = dict.fromkeys(prompts)
        with nullcontext() if all(prompt in self._prompts for prompt in wanted) else self._encoder.reading_prompts():
            found = {prompt: self._prompt(prompt) for prompt in wanted}
        condition = Condition.cat([found[prompt] for prompt in prompts])
        return condition if sizes is None else Condition({**condition.tensors, **self._encoder.encode_sizes(torch.tensor(sizes))})

    def keep_prompts(self, prompts: Iterable[str]) -> bool:
        """Encodes these prompts. Whether all of them are kept, so that none of them is asked of the encoder again."""
        with self._encoder.reading_prompts():
            for prompt in sorted(prompts):
                self._prompt(prompt)
                if prompt not in self._prompts:
                    return False
        return True

    @torch.no_grad()
    def _prompt(self, prompt: str) -> Condition:
        kept = self._prompts.get(prompt)
        if kept is None:
            kept = self._encoder.encode_prompts([prompt]).to("cpu")
            self.prompts_encoded += 1
            self._prompts.put(prompt, kept)
        return kept


def latent_bytes(latents: Latents) -> int:
    """Memory of a pair's latents."""
    return latents.mean.nbytes + (0 if latents.std is None else latents.std.nbytes)


def _by_pair(rows: Tensor, count: int) -> list[Tensor]:
    # Copies, because a view would keep the whole batch in memory for as long as one pair of it is kept.
    return [pair.clone() for pair in rows.float().cpu().reshape(count, -1, *rows.shape[1:])]


def _condition_bytes(condition: Condition) -> int:
    return sum(tensor.nbytes for tensor in condition.tensors.values())
