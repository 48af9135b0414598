"""The implicit reward of an aligned model as a judge of pictures (M12): r̂ = mean over t of R − L, in the unit of (M9), β left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inpo.implicit import ImplicitReward
from inpo.types import Condition, Encoder

PARTS = 10
"""The path is cut into at most this many parts where rewards are shown by t."""


@dataclass(frozen=True)
class Shown:
    """A picture as the model's encoder reads it: `pixels` fp32 `[3,H,W]` in [−1, 1]; `sizes`: what the network is told of it."""

    pixels: Tensor
    sizes: Sequence[int] | None = None


class ImplicitScorer:
    """A `Scorer` over a policy and its reference. `view` resizes and crops a picture (uint8 `[H,W,3]`) as training did.

    `spec`: all that the numbers depend on. Pictures are looked at one by one, so a score depends on no other picture.
    """

    def __init__(
        self, reward: ImplicitReward, encoder: Encoder, view: Callable[[Tensor], Shown], *, name: str, spec: Mapping[str, object]
    ) -> None:
        self.name = name
        self.spec = spec
        self._reward = reward
        self._encoder = encoder
        self._view = view

    @property
    def t(self) -> tuple[float, ...]:
        """The times that are looked at, in the schedule's unit."""
        return tuple(self._reward.t.tolist())

    @property
    def part_count(self) -> int:
        """Into how many equal parts of the path the times fall."""
        return min(self._reward.times, PARTS)

    def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """r̂, fp32 `[B]`; `images` uint8 `[H,W,3]` of any size."""
        return self.by_time(images, prompts).mean(dim=1).float()

    def score_with_parts(self, images: Sequence[Tensor], prompts: Sequence[str]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """r̂, and r̂ over each of `min(times, 10)` equal parts of the path from data to noise, "k=1" first; all fp32 `[B]`."""
        by_time = self.by_time(images, prompts)
        by_part = in_parts(by_time).float().unbind(dim=1)
        return by_time.mean(dim=1).float(), {f"k={k}": column for k, column in enumerate(by_part, start=1)}

    @torch.no_grad()
    def by_time(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """g (M9) of each picture at each time, fp64 `[B, times]`."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
        # One at a time: an encoder may round differently in another batch.
        with self._encoder.reading_prompts():
            read = {prompt: self._encoder.encode_prompts([prompt]) for prompt in dict.fromkeys(prompts)}
        rows = [self._of(image, read[prompt]) for image, prompt in zip(images, prompts, strict=True)]
        return torch.stack(rows) if rows else torch.empty(0, self._reward.times, dtype=torch.float64)

    def _of(self, image: Tensor, condition: Condition) -> Tensor:
        shown = self._view(image)
        if shown.sizes is not None:
            told = self._encoder.encode_sizes(torch.tensor([list(shown.sizes)]))
            condition = Condition({**condition.tensors, **told})
        x_0 = self._encoder.encode_images(shown.pixels[None]).mean
        return self._reward.by_time(x_0, condition.to(x_0.device))


def in_parts(by_time: Tensor) -> Tensor:
    """Means over `min(times, 10)` equal parts of the path, `[B, parts]` from `[B, times]`. Their mean is the mean over all times."""
    count = min(by_time.shape[1], PARTS)
    return by_time.reshape(len(by_time), count, by_time.shape[1] // count).mean(dim=2)
