"""How far bf16 and fp16 runs on the embedded world are from fp32 ones: weights, losses, held-out numbers.

    python benchmarks/precision.py [STEPS] [PAIRS_PER_STEP]

Autocast on the CPU, world-inpo's method and optimiser without the warm-up, the same pairs, times and noise in each precision.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inpo import compose
from inpo.config import load_experiment
from inpo.data.config import DataConfig
from inpo.data.loader import EncodedPairs
from inpo.training import Settings
from inpo.training.stop import Stop
from inpo.training.subject import Subject
from inpo.training.trainer import Trainer
from inpo.types import Dtype
from inpo.world.pairs import WorldPairs


@dataclass(frozen=True)
class Run:
    """`update`: the trained weights less the first ones, as one vector. `lines`: those of metrics.jsonl; `held_out`: the last numbers."""

    update: Tensor
    lines: list[dict[str, object]]
    held_out: dict[str, object]
    seconds: float

    def distance(self, other: Run) -> float:
        """‖Δ − Δ'‖/‖Δ'‖."""
        return float((self.update - other.update).norm() / other.update.norm())

    def loss_distance(self, other: Run) -> float:
        """The largest difference of two losses of the same step."""
        return max(abs(float(str(a["loss"])) - float(str(b["loss"]))) for a, b in zip(self.lines, other.lines, strict=True))


def run(dtype: Dtype, steps: int, pairs: int, *, held_out: int = 0) -> Run:
    """`steps` steps of `pairs` pairs on the world; `held_out` of every hundred pairs are kept apart and evaluated at the end."""
    experiment = load_experiment("world-inpo", [f"model.dtype={dtype}", f"train.pairs_per_step={pairs}", "optimizer.warmup_steps=0"])
    experiment = replace(experiment, train=replace(experiment.train, steps=steps))
    model = compose.load(experiment.model)
    config = DataConfig("world:pairs", resolution=model.default_resolution, validation_fraction=held_out / 100)
    subject = Subject(model.policy, model.policy.reference(), model.save_policy, model.load_policy, dtype=dtype)
    settings = Settings(experiment.train, experiment.optimizer)
    began = time.monotonic()
    with EncodedPairs(WorldPairs(), model.encoder, config=config, seed=0, pairs_per_step=pairs) as loader:
        trainer = Trainer(subject, loader, method=experiment.method, settings=settings, stop=Stop())
        before = _flat(trainer)
        lines = [trainer.step_once(step).line for step in range(steps)]
        validation = trainer.validation() or {}
    return Run(_flat(trainer) - before, lines, validation, time.monotonic() - began)


def _flat(trainer: Trainer) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in trainer.weights.values()])


def main(steps: int, pairs: int) -> None:
    """A row for each precision."""
    print(f"world, InPO, {steps} steps of {pairs} pairs, torch {torch.__version__} on the CPU")
    whole = run("fp32", steps, pairs, held_out=2)
    names = ("implicit_accuracy", "margin")
    print(f"{'dtype':6} {'update':>8} {'loss':>10} {'accuracy':>9} {'margin':>9} {'overflows':>9} {'seconds':>8}")
    for dtype in ("fp32", "bf16", "fp16"):
        found = whole if dtype == "fp32" else run(dtype, steps, pairs, held_out=2)
        held = [float(str(found.held_out[name])) for name in names]
        overflows = sum(int(str(line.get("overflows", 0))) for line in found.lines)
        row = (found.distance(whole), found.loss_distance(whole), *held, overflows, found.seconds)
        print("{:6} {:8.4f} {:10.6f} {:9.4f} {:9.5f} {:9d} {:8.0f}".format(dtype, *row), flush=True)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*(numbers or (100, 16)))
