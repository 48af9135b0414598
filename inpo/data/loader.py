"""Encoded pairs or single pictures by their position in the run (`inpo.types.PairLoader`): pure in (seed, position), decoded ahead."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from inpo.data.config import DataConfig
from inpo.data.derived import origin
from inpo.data.encode import BoundedStore, Latents, PairEncoder, latent_bytes
from inpo.data.images import BrokenImage, decode
from inpo.data.lookahead import in_order
from inpo.data.order import BlockShuffle, endless_pair, first_held_out, held_rows, ids_of
from inpo.data.transform import CENTER, Sizes, View, show_pair, sizes_of, view_of
from inpo.errors import InputError
from inpo.randomness import seed_for
from inpo.types import Encoder, PairBatch, PairRecord, PairSource

CACHE_BYTES = 2 << 30
"""Memory for latents that later epochs come back to; prompts may take as much again."""

AHEAD = 32
"""Pairs decoded ahead of the encoder: 200 MB at 512²."""

MAX_VALIDATION_PAIRS = 512
VALIDATION_BATCH = 32

# Pairs that no later epoch asks for again are encoded this many at a time. See `EncodedPairs` for why others are not.
_FRESH_TOGETHER = 8


@dataclass(frozen=True)
class _Facts:
    """What a pair is besides its pictures. `sizes` are the winner's, under the view that is shown."""

    id: str
    caption: str
    preference: float
    sizes: Sizes


@dataclass(frozen=True)
class _Shown:
    """A pair, or one picture, decoded and cropped: `pixels` `[P,3,H,W]` in [−1, 1], P = 2 or 1."""

    facts: _Facts
    pixels: Tensor


@dataclass(frozen=True)
class _Encoded:
    facts: _Facts
    latents: Latents


def require_a_step(config: DataConfig, *, train: int, held: int, pairs_per_step: int, singles: bool = False) -> None:
    """Raises `InputError` for a set whose training pairs, or single pictures, do not fill one optimiser step."""
    if train < max(1, pairs_per_step):
        raise InputError(
            f"data.path={config.path}: {train} {'single pictures' if singles else 'pairs'} to train on ({held} more are held out by "
            f"data.validation_fraction={config.validation_fraction:g}), fewer than train.pairs_per_step={pairs_per_step}: "
            "give more, or lower one of the two"
        )


class EncodedPairs:
    """The loader: pairs of `source`, shuffled, cropped and encoded, for ever.

    config: `resolution` must be set (the caller fills in the model's). seed: of order, crops, posterior noise and dropout.
    pairs_per_step: pairs of one optimiser step over all processes; a set with fewer training pairs is refused with an `InputError`.
    cache_bytes: memory for latents. Every result is the same whatever it is: a pair that may be kept is encoded by itself,
    because the encoder may round differently in another batch, and a resumed run starts with nothing kept.

    The source is read by one thread at a time. A source without end gives its pairs in its own order, each once.
    """

    def __init__(
        self, source: PairSource, encoder: Encoder, *, config: DataConfig, seed: int, pairs_per_step: int, cache_bytes: int = CACHE_BYTES
    ) -> None:
        if config.resolution is None:
            raise InputError("data.resolution is not set, and no model has filled it in: set it to the model's picture size in pixels")
        self._source, self._config, self._seed = source, config, seed
        self._resolution = config.resolution
        self._ids = ids_of(source)
        held = held_rows(source, config.validation_fraction)
        self._held_rows = np.flatnonzero(held)
        self._order = None if source.size is None else BlockShuffle(np.flatnonzero(~held), source.block, seed)
        if self._order is not None:
            counts = {"train": len(self._order), "held": len(self._held_rows)}
            require_a_step(config, **counts, pairs_per_step=pairs_per_step, singles=source.singles)
        self._comes_back = self._order is not None and config.crop == "center"
        self._cache_bytes = cache_bytes if self._comes_back else 0
        self._cache: BoundedStore[_Encoded] = BoundedStore(lambda pair: latent_bytes(pair.latents), self._cache_bytes)
        self._encoder = PairEncoder(encoder, latents=config.latents, prompt_bytes=cache_bytes)
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode")
        self._waiting: dict[int, Future[_Shown]] = {}
        self._reading = threading.Lock()
        self._validation: list[PairBatch] | None = None

    @property
    def train_pairs(self) -> int | None:
        """Pairs in an epoch, without the held-out ones; None for a source without end."""
        return None if self._order is None else len(self._order)

    @property
    def images_encoded(self) -> int:
        """Pictures given to the image encoder so far."""
        return self._encoder.images_encoded

    @property
    def prompts_encoded(self) -> int:
        """Prompts given to the text encoder so far."""
        return self._encoder.prompts_encoded

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """The training pairs at these positions, on the CPU: the prompts of a step may take more memory than a device can spare."""
        keys = {position: self._key(position) for position in positions}
        fresh = dict(self._encode_and_keep([position for position, key in keys.items() if key not in self._cache]))
        return self._batch(positions, [fresh.get(position) or self._kept(keys[position]) for position in positions])

    def expect(self, positions: Sequence[int]) -> None:
        """Decodes the first `AHEAD` of these in the background, and forgets whatever else was decoded."""
        for stale in self._waiting.keys() - set(positions):
            self._waiting.pop(stale).cancel()
        for position in positions:
            if len(self._waiting) >= AHEAD:
                return
            if position not in self._waiting and self._key(position) not in self._cache:
                self._waiting[position] = self._pool.submit(self._show, position)

    def encode_ahead(self, positions: range) -> bool:
        """Encodes all that these positions and the held-out pairs will ask for, once, if memory can keep it.

        Returns whether the encoder is done then: until other positions are asked for, it may leave its device. Pairs that do not
        come back are never encoded ahead: from a source without end, or under random crops. No result depends on it.
        """
        if not self._comes_back or not positions:
            return False
        size = sum(latent_bytes(pair.latents) for _, pair in self._encode_and_keep(positions[:1]))
        first = self._first_positions(positions, most=self._cache_bytes // size)
        if first is None:
            return False
        for _ in self._encode_and_keep(list(first.values())[1:]):
            pass
        self.validation()
        pairs = [self._cache.get(key) for key in first]
        prompts = {pair.facts.caption for pair in pairs if pair} | ({""} if self._config.prompt_dropout > 0 else set())
        return all(pairs) and self._encoder.keep_prompts(prompts)

    def validation(self) -> Sequence[PairBatch]:
        """The held-out pairs, at most `MAX_VALIDATION_PAIRS`: centre crop, never mirrored, posterior mean, prompt never dropped."""
        if self._validation is None:
            shown = in_order(self._submit_validation, self._validation_pairs(), AHEAD)
            pairs = list(self._encode(shown)) if self._config.validation_fraction > 0 else []
            starts = range(0, len(pairs), VALIDATION_BATCH)
            self._validation = [self._validation_batch(pairs[start : start + VALIDATION_BATCH]) for start in starts]
        return self._validation

    def close(self) -> None:
        """Stops the decoding threads; what they had prepared is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()

    def __enter__(self) -> EncodedPairs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _encode_and_keep(self, positions: Sequence[int]) -> Iterator[tuple[int, _Encoded]]:
        for position, pair in zip(positions, self._encode(in_order(self._submit, positions, AHEAD)), strict=True):
            self._cache.put(self._key(position), pair)
            yield position, pair

    def _first_positions(self, positions: range, *, most: int) -> dict[object, int] | None:
        """Where each pair's latents are asked for first; None if they are more than `most`. A run has millions of positions."""
        found: dict[object, int] = {}
        every = (self.train_pairs or 0) * (1 + self._config.flip)
        for position in positions:
            found.setdefault(self._key(position), position)
            if len(found) > most:
                return None
            if len(found) == every:
                break
        return found

    def _key(self, position: int) -> object:
        """Positions with equal keys have equal latents."""
        if self._order is None or not self._comes_back:
            return position
        epoch, row = self._order.locate(position)
        return row, self._view(self._ids[row], epoch).flip

    def _view(self, pair_id: str, epoch: int) -> View:
        return view_of(pair_id, seed=self._seed, epoch=epoch, crop=self._config.crop, flip=self._config.flip)

    def _read(self, row: int) -> PairRecord:
        with self._reading:
            return self._source[row]

    def _show(self, position: int) -> _Shown:
        if self._order is None:
            epoch, pair = 0, endless_pair(self._read, position, self._config.validation_fraction)
        else:
            epoch, row = self._order.locate(position)
            pair = self._read(row)
        return self._show_pair(pair, self._view(pair.id, epoch))

    def _show_pair(self, pair: PairRecord, view: View) -> _Shown:
        images = []
        sides = [("single", pair.win)] if pair.lose is None else [("winning", pair.win), ("losing", pair.lose)]
        for side, data in sides:
            try:
                images.append(decode(data))
            except BrokenImage as error:
                advice = "data.verify=full leaves such pairs out before training"
                raise InputError(f"{pair.row}: cannot decode the {side} image: {error}; {advice}") from error
        sizes = sizes_of(images[0].size, view, self._resolution)
        return _Shown(_Facts(pair.id, pair.caption, pair.preference, sizes), show_pair(images, view, self._resolution))

    def _submit(self, position: int) -> Future[_Shown]:
        return self._waiting.pop(position, None) or self._pool.submit(self._show, position)

    def _encode(self, shown: Iterator[_Shown]) -> Iterator[_Encoded]:
        together = 1 if self._comes_back else _FRESH_TOGETHER
        while group := list(islice(shown, together)):
            for pair, latents in zip(group, self._encoder.latents([pair.pixels for pair in group]), strict=True):
                yield _Encoded(pair.facts, latents)

    def _kept(self, key: object) -> _Encoded:
        pair = self._cache.get(key)
        assert pair is not None
        return pair

    def _batch(self, positions: Sequence[int], pairs: Sequence[_Encoded]) -> PairBatch:
        latents = [pair.latents.draw(seed=self._seed, position=position) for position, pair in zip(positions, pairs, strict=True)]
        prompts = ["" if self._drops_prompt(position) else pair.facts.caption for position, pair in zip(positions, pairs, strict=True)]
        return self._assemble(pairs, latents, prompts)

    def _drops_prompt(self, position: int) -> bool:
        return self._config.prompt_dropout > 0 and seed_for(self._seed, "dropout", position) < self._config.prompt_dropout * 2.0**63

    def _validation_pairs(self) -> Iterator[PairRecord]:
        if self._order is None:
            # A scorer is not asked about the many that are not held out.
            stored = origin(self._source)
            glance = None if stored is self._source else stored.__getitem__
            return islice(first_held_out(self._read, self._config.validation_fraction, stored=glance), MAX_VALIDATION_PAIRS)
        return (self._read(int(row)) for row in self._held_rows[:MAX_VALIDATION_PAIRS])

    def _submit_validation(self, pair: PairRecord) -> Future[_Shown]:
        return self._pool.submit(self._show_pair, pair, CENTER)

    def _validation_batch(self, pairs: Sequence[_Encoded]) -> PairBatch:
        return self._assemble(pairs, [pair.latents.mean for pair in pairs], [pair.facts.caption for pair in pairs])

    def _assemble(self, pairs: Sequence[_Encoded], latents: Sequence[Tensor], prompts: Sequence[str]) -> PairBatch:
        stacked = torch.stack(list(latents), dim=1)
        lose = stacked[1] if len(stacked) > 1 else None
        preference = torch.tensor([pair.facts.preference for pair in pairs])
        # The winner's for both: the loss is of two pictures under one condition, and the winner is then a true sample of it.
        sizes = [pair.facts.sizes for pair in pairs] if self._config.sizes == "original" else None
        return PairBatch(stacked[0], lose, self._encoder.condition(prompts, sizes), preference, tuple(pair.facts.id for pair in pairs))
