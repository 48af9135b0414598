"""Randomness as an argument: every draw is a pure function of named parts, so resuming needs no generator state.

Nothing depends on how many devices, workers or micro-batches a step is cut into, because noise is keyed by a pair's
position in the step and never by the order in which it happens to be drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def seed_for(*parts: int | str) -> int:
    """A 63-bit seed from any parts; different parts give independent streams."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def torch_rng(*parts: int | str) -> torch.Generator:
    """A CPU generator at `seed_for(*parts)`. CPU, so that every kind of device sees the same numbers."""
    return torch.Generator(device="cpu").manual_seed(seed_for(*parts))


@dataclass(frozen=True)
class PairNoise:
    """Standard normal noise for some pairs of one optimiser step, keyed by (seed, step, position in the step, stream)."""

    seed: int
    step: int
    positions: tuple[int, ...]

    def __getitem__(self, rows: Sequence[int]) -> PairNoise:
        return PairNoise(self.seed, self.step, tuple(self.positions[i] for i in rows))

    def normal(self, stream: str, like: Tensor) -> Tensor:
        """N(0, I) in the shape, dtype and device of `like`, whose rows are these pairs."""
        rows = [
            torch.randn(like.shape[1:], generator=torch_rng(self.seed, self.step, position, stream), dtype=like.dtype)
            for position in self.positions
        ]
        return torch.stack(rows).to(like.device)


def stratified_uniform(count: int, generator: torch.Generator) -> Tensor:
    """`count` numbers in [0, 1), fp64: each is uniform by itself, and together there is one in every [i/count, (i+1)/count)."""
    strata = torch.randperm(count, generator=generator)
    inside = torch.rand(count, generator=generator, dtype=torch.float64)
    # The sum may round up to 1 for the last stratum; the half-open interval is what makes t stay below T.
    return ((strata + inside) / count).clamp(max=1 - 2**-53)
