"""Held-out implicit accuracy: the same pairs, times and noise every time, so that the curve moves only because the policy does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inpo.methods import Method
from inpo.randomness import PairNoise, seed_for, stratified_uniform, torch_rng
from inpo.training.distributed import gather_rows
from inpo.training.gradient import Networks, Parallel, micro_batches
from inpo.training.settings import TrainConfig
from inpo.training.step import preference_step
from inpo.types import PairBatch


@dataclass(frozen=True)
class Validation:
    """Calling it evaluates the policy on the held-out batches, shared out over the processes. All of them must call it."""

    networks: Networks
    batches: Sequence[PairBatch]
    method: Method
    config: TrainConfig
    parallel: Parallel

    @torch.no_grad()
    def __call__(self) -> dict[str, float | int | None] | None:
        """{implicit_accuracy, margin, n}; None where nothing is held out, and null numbers for an objective without a margin."""
        count = sum(len(batch) for batch in self.batches)
        if count == 0:
            return None
        seed = seed_for(self.config.seed, "validation")
        times = self.networks.policy.schedule.draw(stratified_uniform(count, torch_rng(seed, "t")))
        total = torch.zeros(3, dtype=torch.float64)
        start = 0
        for index, batch in enumerate(self.batches):
            places = range(start, start + len(batch))
            start += len(batch)
            if index % self.parallel.num_processes == self.parallel.process_index:
                total += self._sums(batch.to(self.parallel.device), times[places.start : places.stop], PairNoise(seed, 0, tuple(places)))
        right, margin, n = gather_rows(total, self.parallel.device).sum(0).tolist()
        return {"implicit_accuracy": right / n if n else None, "margin": margin / n if n else None, "n": count}

    def _sums(self, batch: PairBatch, times: Tensor, noise: PairNoise) -> Tensor:
        objective, size = self.method.objective, self.config.inversion_batch_pairs
        inverter = self.networks.inverter(self.method)
        noised = self.method.noising(inverter, batch, times, noise, lose=objective.needs.lose, batch_pairs=size)
        total = torch.zeros(3, dtype=torch.float64)
        for cut, _ in micro_batches(len(batch), size):
            result = preference_step(self.networks.policy, self.networks.reference, noised[cut], self.method)
            u = objective.margin(result.win, result.lose)
            if u is not None:
                u = u.cpu().double()
                total += torch.stack([((u > 0) + 0.5 * (u == 0)).sum(), u.sum(), torch.tensor(float(len(u)), dtype=torch.float64)])
        return total
