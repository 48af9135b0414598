"""The accumulated gradient of one optimiser step: noise all of a process's pairs, then train on them in micro-batches.

The weights do not change inside a step, so inverting all its pairs first, in groups as large as memory allows, is exact.
Between the two, its pairs, prompts and points are on the CPU, so that a device's memory does not limit how many pairs a step has.
The gradient is the sum over this process's training points, divided by how many the step has: added over processes it is the step's
mean, however the step is cut into micro-batches and processes. Nothing here waits for another process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from inpo.methods import Method
from inpo.points import NoisedPairs
from inpo.randomness import PairNoise, stratified_uniform, torch_rng
from inpo.schedule import WHOLE_PATH, Schedule, Span
from inpo.training.memory import told_as_fault
from inpo.training.settings import TrainConfig
from inpo.training.step import preference_step
from inpo.training.tally import BUCKETS, PairRows, measure
from inpo.types import Denoiser, PairBatch, PairLoader


class Parallel(Protocol):
    """What a gradient needs to know of the other processes (accelerate's `PartialState`)."""

    @property
    def num_processes(self) -> int: ...

    @property
    def process_index(self) -> int: ...

    @property
    def device(self) -> torch.device: ...


@dataclass(frozen=True)
class Networks:
    """`policy` is trained and inverts; `reference` is what it was at step 0, or None where the method does without."""

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
class HostPairs(PairBatch):
    """Pairs on the CPU. Rows taken from them are on `device`."""

    device: torch.device

    def __getitem__(self, rows: Sequence[int]) -> PairBatch:
        return super().__getitem__(rows).to(self.device)


@dataclass(frozen=True)
class Points:
    """Where this process's pairs of a step are trained, on the CPU: all that an attempt at the gradient starts from.

    `step`: from 0. `noised`, `times`, `buckets`: one row per training point, of which a pair may have several.
    """

    step: int
    pairs: PairBatch
    noised: NoisedPairs
    times: Tensor
    buckets: Tensor

    @property
    def ids(self) -> tuple[str, ...]:
        """The pair's id of each training point."""
        return tuple(self.pairs.ids[pair] for pair in self.noised.owners(slice(None)))


def step_times(schedule: Schedule, config: TrainConfig, step: int, span: Span = WHOLE_PATH) -> Tensor:
    """t of every pair of step `step`, `[pairs_per_step]`, stratified over the path or a part of it; the same on every process."""
    uniform = stratified_uniform(config.pairs_per_step, torch_rng(config.seed, step, "t"))
    return schedule.draw(uniform, span)


def own_places(times: Tensor, rank: int, processes: int) -> list[int]:
    """Which of the step's pairs this process takes, ascending. Dealt out in order of t, so that all invert about equally long."""
    return sorted(torch.argsort(times, stable=True)[rank::processes].tolist())


@dataclass(frozen=True)
class GradientSource:
    """Everything that the gradient of a step is a function of: `points` of a step (from 0), then the call that fills `.grad`."""

    networks: Networks
    loader: PairLoader
    method: Method
    config: TrainConfig
    parallel: Parallel

    def points(self, step: int) -> Points:
        """Reads this process's pairs of the step and finds their training points. Raises `RunFault` where memory does not suffice."""
        schedule, noising = self.networks.policy.schedule, self.method.noising
        places, times = self._own(step)
        with torch.no_grad(), told_as_fault("inversion", self.config, step=step):
            pairs = HostPairs(**vars(self.loader.fetch(self._positions(step, places))), device=self.parallel.device)
            # Other places of the step than in this one, since they go by its times.
            self.loader.expect(self._positions(step + 1, self._own(step + 1)[0]) if step + 1 < self.config.steps else [])
            noised = noising(
                self.networks.inverter(self.method), pairs, times, PairNoise(self.config.seed, step, tuple(places)),
                lose=self.method.objective.needs.lose, batch_pairs=self.config.inversion_batch_pairs,
            )  # fmt: skip
        trained = noised.win.t.cpu()
        return Points(step, pairs, noised, trained, schedule.bucket(trained, BUCKETS))

    def _own(self, step: int) -> tuple[list[int], Tensor]:
        """Which of a step's pairs this process takes, and their times."""
        times = step_times(self.networks.policy.schedule, self.config, step, self.method.noising.t_range)
        places = own_places(times, self.parallel.process_index, self.parallel.num_processes)
        return places, times[places]

    def _positions(self, step: int, places: Sequence[int]) -> list[int]:
        """Where in the run these pairs of a step stand."""
        return [step * self.config.pairs_per_step + place for place in places]

    def __call__(self, points: Points, scale: float = 1.0, *, z: float = 0.0) -> PairRows:
        """Adds this process's share of the step's gradient, times `scale`, to `.grad`; returns what was measured on the way.

        `z`: the step's baseline (M9), the same for all its micro-batches. Raises `RunFault` where memory does not suffice.
        """
        pairs, noised, rows = points.pairs, points.noised, []
        share = scale / (self.config.pairs_per_step * self.method.noising.points_per_pair)
        with told_as_fault("gradient", self.config, step=points.step):
            for cut in micro_batches(len(noised), self.config.micro_batch_pairs):
                here = noised[cut].to(self.parallel.device)
                result = preference_step(self.networks.policy, self.networks.reference, here, self.method, z=z)
                torch.autograd.backward(result.losses.sum() * share)
                rows.append(measure(pairs[noised.owners(cut)], here, result, self.method.objective))
            return PairRows.cat(rows)


def micro_batches(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size`, the remainder last."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
