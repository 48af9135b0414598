"""Adapters learn the world's preferences: the loss against their own base falls far below what a policy that equals its reference has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from inpo import compose
from inpo.config import load_experiment
from inpo.data.config import DataConfig
from inpo.data.loader import EncodedPairs
from inpo.training.settings import Settings
from inpo.training.stop import Stop
from inpo.training.subject import Subject
from inpo.training.trainer import Trainer
from inpo.types import PairBatch
from inpo.world.pairs import WorldPairs

STEPS, PAIRS = 15, 8
CHANGES = [
    "lora.rank=8", "lora.targets=[all-linear,conv]", "train.pairs_per_step=4", "optimizer.warmup_steps=0", "optimizer.schedule=constant",
    "optimizer.lr=1e-3", "method.objective.beta=500",
]  # fmt: skip


@dataclass(frozen=True)
class FewPairs:
    """The same eight pairs over and over; as validation they are asked at other times and noise than in training."""

    whole: EncodedPairs

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """Pairs of the first eight positions."""
        return self.whole.fetch([position % PAIRS for position in positions])

    def expect(self, positions: Sequence[int]) -> None:
        """They are all encoded."""

    def validation(self) -> Sequence[PairBatch]:
        """All eight."""
        return [self.whole.fetch(range(PAIRS))]


def test_adapters_learn_the_worlds_pairs() -> None:
    """Fifteen steps of four pairs: from ln 2 to under ½, at points that were not trained on. Against itself it would stay there."""
    experiment = load_experiment("world-inpo", CHANGES)
    model = compose.load(experiment.model, experiment.lora)
    subject = Subject(model.policy, model.reference(), model.save_policy, model.load_policy)
    config = DataConfig("world:pairs", resolution=model.default_resolution, validation_fraction=0)
    settings = Settings(replace(experiment.train, steps=STEPS), experiment.optimizer)
    with EncodedPairs(WorldPairs(), model.encoder, config=config, seed=0, pairs_per_step=4) as pairs:
        trainer = Trainer(subject, FewPairs(pairs), method=experiment.method, settings=settings, stop=Stop())
        before = trainer.validation() or {}
        for step in range(STEPS):
            trainer.step_once(step)
        after = trainer.validation() or {}
    assert math.isclose(float(str(before["loss"])), math.log(2), rel_tol=1e-6)
    assert float(str(after["loss"])) < 0.5
    assert float(str(after["implicit_accuracy"])) > 0.7
