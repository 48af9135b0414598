"""The held-out pairs: the same pairs, times and noise every time and in every run, so that a curve moves only because the policy does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inpo.intervals import wilson
from inpo.methods import Method
from inpo.randomness import PairNoise, seed_for, stratified_uniform, torch_rng
from inpo.training.distributed import gather_rows, raise_everywhere
from inpo.training.gradient import Networks, Parallel, micro_batches
from inpo.training.memory import told_as_fault
from inpo.training.settings import TrainConfig
from inpo.training.step import preference_step
from inpo.training.stop import StepDropped
from inpo.training.tally import BUCKETS, COLUMNS, PairRows, bucket_sums, labelled, means, measure
from inpo.types import PairBatch

Row = dict[str, float | int | None]


@dataclass(frozen=True)
class Validation:
    """Calling it evaluates the policy on the held-out batches, shared out over the processes. All of them must call it.

    Times are stratified over the path and, like the noise, a function of the pair's place alone: not of the run's seed or its method.
    """

    networks: Networks
    batches: Sequence[PairBatch]
    method: Method
    config: TrainConfig
    parallel: Parallel

    @property
    def count(self) -> int:
        """How many pairs are held out and looked at."""
        return sum(len(batch) for batch in self.batches)

    @property
    def singles(self) -> bool:
        """Whether they are single pictures, which are compared with nothing."""
        return any(batch.lose is None for batch in self.batches)

    @torch.no_grad()
    def __call__(self) -> dict[str, object] | None:
        """The entry `validation` of metrics.jsonl; None where nothing is held out. A method with a baseline (M9) is asked at z = 0.

        {n, the means of a training line, implicit_accuracy_low and _high, win_drift and lose_drift (the policy's error minus the
        reference's), by_bucket: {k: {pairs, …}}}. What the objective does not have, or what is not finite, is None.
        """
        if self.count == 0:
            return None
        seed, schedule = seed_for("validation"), self.networks.policy.schedule
        times = schedule.draw(stratified_uniform(self.count, torch_rng(seed, "t")))
        buckets = schedule.bucket(times, BUCKETS).cpu()
        sums = self._everybodys(lambda: self._own_sums(seed, times, buckets))
        counts = torch.bincount(buckets - 1, minlength=BUCKETS).tolist()
        by_bucket = {str(k): {"pairs": n, **_row(sums[k - 1], n)} for k, n in enumerate(counts, start=1) if n}
        return {"n": self.count, **_row(sums.sum(0), self.count), "by_bucket": by_bucket}

    def _own_sums(self, seed: int, times: Tensor, buckets: Tensor) -> Tensor:
        """What this process's batches add up to, by tenth of the path: `[BUCKETS, COLUMNS]`."""
        sums, start = torch.zeros(BUCKETS, len(COLUMNS), dtype=torch.float64), 0
        for index, batch in enumerate(self.batches):
            places = range(start, start + len(batch))
            start += len(batch)
            if index % self.parallel.num_processes == self.parallel.process_index:
                own = slice(places.start, places.stop)
                rows = self._rows(batch.to(self.parallel.device), times[own], PairNoise(seed, 0, tuple(places)))
                sums += bucket_sums(rows.values, buckets[own])
        return sums

    def _everybodys(self, measured: Callable[[], Tensor]) -> Tensor:
        """The sum of what all processes measured. What one of them meets instead is raised by all: nobody waits for ever."""
        sums, failure, signal = torch.zeros(BUCKETS, len(COLUMNS), dtype=torch.float64), None, 0
        try:
            with told_as_fault("validation", self.config):
                sums = measured()
        except StepDropped as dropped:
            signal = dropped.signal
        except Exception as error:  # whatever it was, the others must hear of it
            failure = error
        told = gather_rows(torch.cat([sums.flatten(), torch.tensor([float(failure is not None), signal])]), self.parallel.device)
        if told[:, -2].any():
            raise_everywhere(failure)
        if told[:, -1].any():
            raise StepDropped(int(told[:, -1].max()))
        return told[:, :-2].sum(0).view_as(sums)

    def _rows(self, batch: PairBatch, times: Tensor, noise: PairNoise) -> PairRows:
        objective, size = self.method.objective, self.config.inversion_batch_pairs
        inverter = self.networks.inverter(self.method)
        noised = self.method.noising.at_one_time()(inverter, batch, times, noise, lose=objective.needs.lose, batch_pairs=size)
        rows = []
        for cut in micro_batches(len(noised), size):
            result = preference_step(self.networks.policy, self.networks.reference, noised[cut], self.method)
            rows.append(measure(batch[noised.owners(cut)], noised[cut], result, objective))
        return PairRows.cat(rows)


def _row(sums: Tensor, count: int) -> Row:
    row: Row = {name: value if value is not None and math.isfinite(value) else None for name, value in means(sums, count).items()}
    accuracy = row["implicit_accuracy"]
    low, high = (None, None) if accuracy is None else wilson(accuracy, labelled(sums))
    drifts = {f"{side}_drift": _difference(row, f"{side}_error", f"ref_{side}_error") for side in ("win", "lose")}
    return {**row, "implicit_accuracy_low": low, "implicit_accuracy_high": high, **drifts}


def _difference(row: Mapping[str, float | int | None], a: str, b: str) -> float | None:
    first, second = row[a], row[b]
    return None if first is None or second is None else first - second
