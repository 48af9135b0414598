"""A denoiser of a few hundred parameters and pairs in memory: everything that the trainer needs, in milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.randomness import torch_rng
from inpo.schedule import PredictionType, VPSchedule, vp_from_config
from inpo.training.subject import Subject
from inpo.types import Condition, Denoiser, PairBatch

POLICY_FILE = "policy.safetensors"
LATENT = (4, 4, 4)
TEXT = 6
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


class TinyDenoiser(nn.Module):
    """Two convolutions, with the time and the condition added between them."""

    prediction_type: PredictionType = "epsilon"

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.schedule: VPSchedule = vp_from_config(SD_BETAS, dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.into = nn.Conv2d(LATENT[0], 8, 3, padding=1)
            self.time = nn.Linear(2, 8)
            self.text = nn.Linear(TEXT, 8)
            self.out = nn.Conv2d(8, LATENT[0], 3, padding=1)
        self.to(dtype)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """ε̂, `[B,C,H,W]`."""
        phase = t.to(x_t)[:, None] / 1000
        inner = self.time(torch.cat([phase, phase.square()], dim=1)) + self.text(condition.tensors["text"].to(x_t))
        return self.out(torch.tanh(self.into(x_t) + inner[:, :, None, None]))


@dataclass
class MemoryLoader:
    """`size` random pairs, permuted anew in every epoch; position p is pair p mod size of epoch p div size."""

    size: int = 24
    held_out: int = 0
    dtype: torch.dtype = torch.float32
    seed: int = 3

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """Pure in (seed, position)."""
        return self.pairs([self.index(position) for position in positions])

    def expect(self, positions: Sequence[int]) -> None:
        """Everything is there."""

    def index(self, position: int) -> int:
        """Which pair stands at a position."""
        epoch, place = divmod(position, self.size)
        return int(torch.randperm(self.size, generator=torch_rng(self.seed, epoch, "order"))[place])

    def pairs(self, indices: Sequence[int]) -> PairBatch:
        """The pairs with these numbers."""
        win, lose, text = (self._rows(name, shape, indices) for name, shape in (("win", LATENT), ("lose", LATENT), ("text", (TEXT,))))
        return PairBatch(win, lose, Condition({"text": text}), torch.ones(len(indices)), tuple(f"pair-{i}" for i in indices))

    def _rows(self, name: str, shape: tuple[int, ...], indices: Sequence[int]) -> Tensor:
        rows = [torch.randn(shape, generator=torch_rng(self.seed, i, name), dtype=torch.float64) for i in indices]
        return torch.stack(rows).to(self.dtype)

    def validation(self) -> Sequence[PairBatch]:
        """The held-out pairs, five at a time."""
        rows = range(self.size, self.size + self.held_out)
        return [self.pairs(rows[i : i + 5]) for i in range(0, len(rows), 5)]


def plain_subject(policy: nn.Module, reference: Denoiser | None) -> Subject:
    """A subject whose policy is saved as one safetensors file of its state."""

    def save(folder: Path) -> None:
        save_file({name: value.contiguous() for name, value in policy.state_dict().items()}, folder / POLICY_FILE)

    def load(folder: Path) -> None:
        path = folder / POLICY_FILE
        if not path.is_file():
            raise InputError(f"{path}: missing")
        policy.load_state_dict(load_file(path))

    return Subject(policy, reference, save, load)


def tiny_subject(seed: int = 0, dtype: torch.dtype = torch.float32) -> Subject:
    """A fresh policy and a frozen copy of it."""
    policy = TinyDenoiser(seed, dtype)
    return plain_subject(policy, copy.deepcopy(policy).requires_grad_(False))
