"""The accumulated gradient of one optimiser step: noise all of a process's pairs, then train on them in micro-batches.

The weights do not change inside a step, so inverting all its pairs first, in groups as large as memory allows, is exact.
The gradient is the mean over `pairs_per_step`, however the step is cut into micro-batches and processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from inpo.methods import Method
from inpo.randomness import PairNoise, stratified_uniform, torch_rng
from inpo.schedule import Schedule
from inpo.training.settings import TrainConfig
from inpo.training.step import preference_step
from inpo.training.tally import BUCKETS, PairRows, measure
from inpo.types import Denoiser, NoisedPairs, PairBatch, PairLoader


class Parallel(Protocol):
    """What a gradient needs to know of the other processes (accelerate's `Accelerator`)."""

    num_processes: int
    process_index: int
    device: torch.device

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]: ...

    def backward(self, loss: Tensor) -> None: ...


@dataclass(frozen=True)
class Networks:
    """`wrapped` synchronises gradients and serves the training forward alone; everything else asks `policy`, the bare module."""

    wrapped: nn.Module
    policy: Denoiser
    reference: Denoiser | None

    def inverter(self, method: Method) -> Denoiser:
        """Whose trajectory the method's noising walks. Forward noising asks it for its schedule only."""
        if method.noising.inverter != "reference":
            return self.policy
        if self.reference is None:
            raise ValueError(f"{method.name} inverts with the reference, but none was given")
        return self.reference


@dataclass(frozen=True)
class Gradient:
    """What a step measured while its gradient accumulated in `.grad`. Rows are this process's pairs."""

    rows: PairRows
    times: Tensor
    buckets: Tensor
    ids: tuple[str, ...]
    bucket_counts: Tensor


def step_times(schedule: Schedule, config: TrainConfig, step: int) -> Tensor:
    """t of every pair of step `step`, `[pairs_per_step]`, stratified over the path; the same on every process."""
    uniform = stratified_uniform(config.pairs_per_step, torch_rng(config.seed, step, "t"))
    return schedule.draw(uniform)


def own_places(times: Tensor, rank: int, processes: int) -> list[int]:
    """Which of the step's pairs this process takes, ascending. Dealt out in order of t, so that all invert about equally long."""
    return sorted(torch.argsort(times, stable=True)[rank::processes].tolist())


@dataclass(frozen=True)
class GradientSource:
    """Everything that the gradient of a step is a function of. Calling it with a step (from 0) leaves its gradient in `.grad`."""

    networks: Networks
    loader: PairLoader
    method: Method
    config: TrainConfig
    parallel: Parallel

    def __call__(self, step: int) -> Gradient:
        """Adds the gradient of the mean loss of step `step` to `.grad`, and tells what was seen on the way."""
        networks, parallel = self.networks, self.parallel
        times = step_times(networks.policy.schedule, self.config, step)
        places = own_places(times, parallel.process_index, parallel.num_processes)
        pairs, noised = self._noised(step, times, places)
        # Gradients are averaged over processes, so each one's share of the sum counts that many times.
        share = parallel.num_processes / self.config.pairs_per_step
        rows = []
        for cut, last in micro_batches(len(pairs), self.config.micro_batch_pairs):
            # Until the last micro-batch nobody needs the others' gradients.
            with nullcontext() if last else parallel.no_sync(networks.wrapped):
                result = preference_step(cast(Denoiser, networks.wrapped), networks.reference, noised[cut], self.method)
                parallel.backward(result.losses.sum() * share)
            rows.append(measure(pairs[range(cut.start, cut.stop)], noised[cut], result, self.method.objective))
        buckets = networks.policy.schedule.bucket(times, BUCKETS).cpu()
        return Gradient(PairRows.cat(rows), times[places], buckets[places], pairs.ids, torch.bincount(buckets - 1, minlength=BUCKETS))

    def _noised(self, step: int, times: Tensor, places: list[int]) -> tuple[PairBatch, NoisedPairs]:
        start = step * self.config.pairs_per_step
        pairs = self.loader.fetch([start + place for place in places]).to(self.parallel.device)
        noise = PairNoise(self.config.seed, step, tuple(places))
        with torch.no_grad():
            return pairs, self.method.noising(
                self.networks.inverter(self.method), pairs, times[places], noise,
                lose=self.method.objective.needs.lose, batch_pairs=self.config.inversion_batch_pairs,
            )  # fmt: skip


def micro_batches(count: int, size: int) -> Iterator[tuple[slice, bool]]:
    """Slices of at most `size`, the remainder last, each with whether it is the last."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count)), start + size >= count
