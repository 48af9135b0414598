"""What is decoded ahead is what the next step asks for, on every process."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

import pytest
import torch

from inpo.data.config import DataConfig
from inpo.data.loader import EncodedPairs
from inpo.methods import method
from inpo.training.gradient import GradientSource, Networks
from inpo.training.reading import Reader
from inpo.types import PairSource
from tests.tiny_denoiser import TinyDenoiser
from tests.training_runs import settings
from tests.unit.data.making import SIDE, MadePairs, SmallEncoder
from tests.unit.data.test_loader import same

STEPS, CPU = 4, torch.device("cpu")
USE = settings(steps=STEPS, pairs_per_step=64)


@dataclass(frozen=True)
class Rank:
    """One of several processes that are not there."""

    process_index: int
    num_processes: int
    device: torch.device = CPU


class Counting(EncodedPairs):
    """Remembers what is decoded, and what of it was decoded ahead and then fetched."""

    def __init__(self, pairs: PairSource, config: DataConfig) -> None:
        super().__init__(pairs, SmallEncoder(), config=config, seed=0, pairs_per_step=64)
        self.decoded: list[int] = []
        self.foreseen: list[int] = []

    def _show(self, position: int) -> object:
        self.decoded.append(position)
        return super()._show(position)

    def _submit(self, position: int) -> Future[object]:
        if position in self._waiting:
            self.foreseen.append(position)
        return super()._submit(position)


@pytest.mark.parametrize("crop", ["center", "random"])
def test_pairs_read_a_few_at_a_time_are_the_same(crop: str) -> None:
    """Also to the encoder: as many go through it together, so that no last bit moves."""
    config = DataConfig("made", resolution=SIDE, validation_fraction=0.0, crop=crop)
    encoders = SmallEncoder(), SmallEncoder()
    whole, loader = (EncodedPairs(MadePairs(40), each, config=config, seed=0, pairs_per_step=20) for each in encoders)
    with whole, loader:
        reader = Reader(loader, lambda: None)
        assert all(same(reader.fetch(range(i, i + 20)), whole.fetch(range(i, i + 20))) for i in (0, 20, 40))
    assert encoders[0].image_calls == encoders[1].image_calls


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_every_pair_after_the_first_step_is_foreseen(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of a step's pairs a process takes goes by that step's times: no pair is decoded in vain or twice, however many they are."""
    monkeypatch.setattr("inpo.data.loader.AHEAD", 64)
    config = DataConfig("made", resolution=SIDE, validation_fraction=0.0, crop="random")
    seen: list[str] = []
    for rank in range(ranks):
        with Counting(MadePairs(256), config) as loader:
            # The forward process asks no network, so the pictures' size does not matter.
            source = GradientSource(Networks(TinyDenoiser(), None), loader, method("diffusion-dpo"), USE.train, Rank(rank, ranks))
            seen += [name for step in range(STEPS) for name in source.points(step).pairs.ids]
        each = 64 // ranks
        assert (len(loader.decoded), len(loader.foreseen)) == (STEPS * each, (STEPS - 1) * each)
    assert len(set(seen)) == len(seen) == 256
