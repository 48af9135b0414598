"""The nouns that every part of the package shares: conditions, pairs, and the protocols between packages.

Siblings (models, data, evaluation, report) never import one another: they meet here. Shapes are B pairs or examples,
C×H×W latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from inpo.schedule import PredictionType, Schedule

Rows = slice | Sequence[int] | Tensor
Dtype = Literal["fp32", "bf16", "fp16"]
"""What a network computes in."""


@dataclass(frozen=True)
class Condition:
    """Everything a denoiser is conditioned on: named tensors, each with one row per example.

    What the names mean is the model family's business (SD: the prompt's embeddings; SDXL: pooled embedding and sizes too).
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Rows) -> Condition:
        return Condition({name: value[rows] for name, value in self.tensors.items()})

    def to(self, device: torch.device | str) -> Condition:
        """The same condition on another device."""
        return Condition({name: value.to(device) for name, value in self.tensors.items()})

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """Rows of all parts, in order. Every part has the same names and row shapes."""
        return Condition({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})


@runtime_checkable
class Denoiser(Protocol):
    """A network that answers at every time of its schedule.

    `t` is `[B]`, in the schedule's own unit, on the CPU or on the latents' device.
    """

    @property
    def schedule(self) -> Schedule:
        """The path from data to noise that the network was trained on."""

    @property
    def prediction_type(self) -> PredictionType:
        """What the network predicts."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's own prediction (ε, v, velocity or x_0), `[B,C,H,W]`, in the dtype of `x_t`."""


@dataclass(frozen=True)
class PairBatch:
    """B clean pairs that share one condition each, or B single pictures with a label of their own.

    `win`, `lose`: latents `[B,C,H,W]`. `preference`: P(w ≻ l), `[B]`; 1 for a plain label, ½ for a tie that is kept, anything between
    where a reward says how sure it is. Single pictures are `win`; `lose` is None, and `preference` is P(the picture is a desired one).
    `ids`: pair ids (sha256 of image bytes and caption), for error messages.
    """

    win: Tensor
    lose: Tensor | None
    condition: Condition
    preference: Tensor
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.win)

    def __getitem__(self, rows: Sequence[int]) -> PairBatch:
        index, own = (torch.as_tensor(rows, device=device) for device in (self.win.device, self.preference.device))
        lose = None if self.lose is None else self.lose[index]
        return PairBatch(self.win[index], lose, self.condition[index], self.preference[own], tuple(self.ids[i] for i in rows))

    def to(self, device: torch.device | str) -> PairBatch:
        """The same pairs on another device."""
        lose = None if self.lose is None else self.lose.to(device)
        return PairBatch(self.win.to(device), lose, self.condition.to(device), self.preference.to(device), self.ids)


@dataclass(frozen=True)
class PairRecord:
    """One preference pair as its source stores it, or one picture with a label. `win`, `lose`: encoded image bytes (JPEG, PNG, WebP).

    `id`: sha256 over both images' bytes and the caption, so it survives re-sharding. `preference`: P(w ≻ l), in [0, 1]. A single
    picture is `win`; `lose` is None, and `preference` is 1 for a desired picture and 0 for another.
    `row`: where it stands, for messages ("pairs.parquet, row 12").
    """

    id: str
    caption: str
    win: bytes
    lose: bytes | None
    preference: float
    row: str


class PairSource(Protocol):
    """Valid pairs by index, from a file, a folder or a generator. `size` is None where pairs never end.

    `singles`: its records are single labelled pictures, none of them a pair. `fingerprint` (hex) changes whenever any pair does;
    `block` is how many neighbouring pairs are cheap to read together.
    """

    @property
    def size(self) -> int | None: ...

    @property
    def singles(self) -> bool: ...

    @property
    def block(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def __getitem__(self, index: int) -> PairRecord:
        """The pair at `index`, from 0. Pure: the same index gives the same record in every process."""


@dataclass(frozen=True)
class LatentDistribution:
    """The VAE's posterior for B images, already scaled: `mean` and `std`, `[B,C,H,W]`, fp32."""

    mean: Tensor
    std: Tensor


class Encoder(Protocol):
    """Pictures and prompts to what the denoiser reads, and back."""

    def encode_images(self, images: Tensor) -> LatentDistribution:
        """`images`: `[B,3,H,W]`, fp32 in [−1, 1]."""

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """One row per prompt; the empty string is the unconditional prompt."""

    def reading_prompts(self) -> AbstractContextManager[None]:
        """Context for several calls of `encode_prompts`: text encoders kept off the device are moved there once. Changes no result."""

    def encode_sizes(self, sizes: Tensor) -> Mapping[str, Tensor]:
        """Condition tensors for image sizes (SDXL's `time_ids`), one row each, on the device of `sizes`. Left out, images are whole ones.

        `sizes`: `[B,6]`, pixels: original height and width, the crop's upper and left edge in the resized image, height and width of the
        target. Raises `InputError` for a denoiser that reads no sizes.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B,C,H,W]` to pictures, uint8 `[B,H,W,3]`."""


class PairLoader(Protocol):
    """Encoded pairs by their position in the run: position = step · pairs_per_step + place in the step, from 0 for ever."""

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """The pairs at these positions, on the CPU. Pure in (seed, position)."""

    def expect(self, positions: Sequence[int]) -> None:
        """These will be fetched next, so that work may begin on them. Changes no result."""

    def validation(self) -> Sequence[PairBatch]:
        """The held-out pairs in fixed batches, on the CPU; empty where nothing is held out."""


class Scorer(Protocol):
    """A reward model. `spec` holds everything that changes its numbers, for the results file."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> Mapping[str, object]: ...

    def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """fp32 `[B]`, higher is better; `images` are uint8 `[H,W,3]`."""
