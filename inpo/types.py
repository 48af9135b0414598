"""The nouns that every part of the package shares: conditions, pairs, noised latents, and the protocols between packages.

Siblings (models, data, evaluation, report) never import one another: they meet here. Shapes are B pairs or examples,
C×H×W latents. A *pair* is a type and not a layout: that winners are stacked before losers is known to this file alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from inpo.schedule import Prediction, Schedule

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
    """A network that answers at every time of its schedule. `t` is `[B]`, in the schedule's own unit."""

    @property
    def schedule(self) -> Schedule:
        """The path from data to noise that the network was trained on."""

    @property
    def prediction(self) -> Prediction:
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
class Noised:
    """A training point for each example: the latent, its time, and what the network should predict there.

    `x_t`, `target`: `[B,C,H,W]`; `t`: `[B]`; `tau`: the noise τ that takes x_0 exactly to x_t (M5), `[B,C,H,W]`.
    """

    x_t: Tensor
    t: Tensor
    target: Tensor
    tau: Tensor

    def __getitem__(self, rows: Rows) -> Noised:
        return Noised(self.x_t[rows], self.t[rows], self.target[rows], self.tau[rows])


@dataclass(frozen=True)
class NoisedPairs:
    """Training points of B pairs, `lose` absent where the objective asks for winners only.

    `condition`, `preference`: a row a pair, each of which serves the `points_per_pair` points that stand together. Taking rows gives a
    row to each point: of some of them only, as a text encoder's tokens take more room than all latents of a step.
    """

    win: Noised
    lose: Noised | None
    condition: Condition
    preference: Tensor
    points_per_pair: int = 1

    def __len__(self) -> int:
        return len(self.win.t)

    def __getitem__(self, rows: slice | Tensor) -> NoisedPairs:
        own = rows if self.points_per_pair == 1 else self.owners(rows)
        return NoisedPairs(self.win[rows], self.lose and self.lose[rows], self.condition[own], self.preference[own])

    def owners(self, rows: slice | Tensor) -> list[int]:
        """Which pair each of these points is of."""
        return [point // self.points_per_pair for point in torch.arange(len(self))[rows].tolist()]

    def both(self) -> tuple[Noised, Condition]:
        """Winners, then losers (if any), as one batch: `[2B]` or `[B]`."""
        if self.points_per_pair > 1:
            return self[:].both()
        if self.lose is None:
            return self.win, self.condition
        w, l = self.win, self.lose
        stacked = Noised(*(torch.cat(pair) for pair in ((w.x_t, l.x_t), (w.t, l.t), (w.target, l.target), (w.tau, l.tau))))
        return stacked, Condition.cat([self.condition, self.condition])

    def split(self, stacked: Denoising) -> tuple[Denoising, Denoising | None]:
        """Undoes `both` for what the networks made of it."""
        return stacked[: len(self)], None if self.lose is None else stacked[len(self) :]


@dataclass(frozen=True)
class Denoising:
    """What the policy, and the reference if the objective asks for one, predicted at a training point. All `[B,C,H,W]`."""

    target: Tensor
    prediction: Tensor
    reference: Tensor | None = None

    def __getitem__(self, rows: slice) -> Denoising:
        return Denoising(self.target[rows], self.prediction[rows], None if self.reference is None else self.reference[rows])

    @property
    def error(self) -> Tensor:
        """L of the policy (M7), `[B]`: the mean over C, H, W that published β presuppose."""
        return self.residual.square().mean(dim=(1, 2, 3))

    @property
    def ref_error(self) -> Tensor:
        """L of the reference (M7), `[B]`. Raises `ValueError` where no reference was evaluated."""
        return _difference(self._evaluated, self.target).square().mean(dim=(1, 2, 3))

    @property
    def gain(self) -> Tensor:
        """g = R − L (M9), `[B]`: how much smaller the policy's error is than the reference's."""
        return self.ref_error - self.error

    @property
    def residual(self) -> Tensor:
        """The policy's prediction less its target, `[B,C,H,W]`."""
        return _difference(self.prediction, self.target)

    @property
    def departure(self) -> Tensor:
        """The policy's prediction less the reference's, `[B,C,H,W]`. Raises `ValueError` where no reference was evaluated."""
        return _difference(self.prediction, self._evaluated)

    @property
    def _evaluated(self) -> Tensor:
        if self.reference is None:
            raise ValueError("this objective reads the reference's error, but no reference was evaluated")
        return self.reference


def _difference(a: Tensor, b: Tensor) -> Tensor:
    # At least fp32: the logit is β/2 times a difference of nearly equal errors, and β is in the thousands.
    wide = torch.promote_types(a.dtype, torch.float32)
    return a.to(wide) - b.to(wide)


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
        """Around several calls of `encode_prompts`: what would be brought for each of them is brought once. Changes no number."""

    def encode_sizes(self, sizes: Tensor) -> Mapping[str, Tensor]:
        """What joins the condition where the denoiser is told sizes, one row each, on their device; without it whole pictures are assumed.

        `sizes`: `[B,6]`, pixels: original height and width, the crop's upper and left edge in the resized picture, height and width of what
        is shown. Raises `InputError` where the denoiser is told none.
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


def scorer_kind(name: str) -> str:
    """A scorer's name without the place: with its `spec` it says which scorer it is, wherever the DIR of `pickscore:DIR` is mounted."""
    kind = name.partition(":")[0]
    return kind if kind in ("pickscore", "implicit") else name
