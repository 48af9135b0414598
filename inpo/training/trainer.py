"""One optimiser step, from the pairs' positions to moved weights. It knows models and data by protocol alone."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import cast

from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from inpo.errors import InputError
from inpo.methods import Method
from inpo.training import checks, tally
from inpo.training.distributed import processes
from inpo.training.gradient import Gradient, GradientSource, Networks
from inpo.training.metrics import ForwardCounter, peak_memory_bytes
from inpo.training.optim import WeightAverage, learning_rate, make_optimizer, trainable
from inpo.training.settings import Settings
from inpo.training.snapshot import Snapshot
from inpo.training.stop import Stop
from inpo.training.subject import Subject
from inpo.training.validation import Validation
from inpo.types import Denoiser, PairLoader


@dataclass(frozen=True)
class Outcome:
    """A completed step: its line of metrics.jsonl, and the signal (or 0) that any process got meanwhile."""

    line: dict[str, object]
    signal: int


class Trainer:
    """The state of a run between two optimiser steps, and the step itself: a pure function of that state and the step's number."""

    def __init__(self, subject: Subject, loader: PairLoader, *, method: Method, settings: Settings, stop: Stop) -> None:
        self.subject, self.settings, self.method, self.stop = subject, settings, method, stop
        # Dropout would make the policy differ from its reference at step 0 and the run depend on a generator's state.
        policy = subject.policy.eval()
        self.weights = trainable(policy)
        optimizer = make_optimizer(settings.optimizer, self.weights)
        processes()
        self.accelerator = Accelerator(mixed_precision="no")
        self._check_size()
        self._check_walks()
        wrapped, self.optimizer = self.accelerator.prepare(policy, optimizer)
        if isinstance(wrapped, DistributedDataParallel):
            # Buffers never change here, so there is nothing to broadcast before each forward pass.
            wrapped.forward_sync_buffers = False
        decay = settings.train.average_decay
        self.average = None if decay is None else WeightAverage(self.weights, decay)
        self.snapshot = Snapshot(subject, optimizer, self.weights, self.average)
        self.networks = Networks(wrapped, cast(Denoiser, policy), self._placed_reference())
        self.gradient = GradientSource(self.networks, loader, method, settings.train, self.accelerator)
        self.validation = Validation(self.networks, loader.validation(), method, settings.train, self.accelerator)
        self._hooks = ExitStack()
        self.counter = ForwardCounter([module for module in (policy, subject.reference) if isinstance(module, nn.Module)])
        self._hooks.callback(self.counter.close)
        if self.accelerator.num_processes == 1:
            # With several processes a step can only end together, at its collective.
            self._hooks.callback(policy.register_forward_pre_hook(lambda *_: stop.check()).remove)

    def _check_size(self) -> None:
        pairs, count = self.settings.train.pairs_per_step, self.accelerator.num_processes
        if pairs < count:
            raise InputError(f"train.pairs_per_step={pairs} is fewer than the {count} processes; each needs at least one pair")

    def _check_walks(self) -> None:
        try:
            self.method.noising.mean_evaluations(cast(Denoiser, self.subject.policy).schedule)
        except ValueError as error:
            raise InputError(f"method.noising does not suit this model: {error}") from error

    def _placed_reference(self) -> Denoiser | None:
        if isinstance(self.subject.reference, nn.Module):
            self.subject.reference.to(self.accelerator.device).eval()
        return self.subject.reference

    def step_once(self, step: int) -> Outcome:
        """Optimiser step `step`, from 0. Raises `StepDropped` or `RunFault` with weights and optimiser as they were."""
        began, images = time.perf_counter(), self.counter.images
        try:
            with self.droppable():
                self.stop.check()
                gradient = self.gradient(step)
            local = self._local(gradient, self.counter.images - images)
            summary = tally.gather(local, self.accelerator.device)
            self._check(step, local, summary)
            rate = self._move(step)
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        return Outcome(self._line(step, gradient, summary, rate=rate, seconds=seconds), summary.signal)

    def droppable(self) -> AbstractContextManager[None]:
        """Inside, an interruption ends at once what is under way. Several processes can only end together, at a step's collective."""
        return self.stop.droppable() if self.accelerator.num_processes == 1 else nullcontext()

    def _local(self, gradient: Gradient, images: int) -> tally.Local:
        clip = self.settings.optimizer.clip
        norm = self.accelerator.clip_grad_norm_(self.weights.values(), math.inf if clip is None else clip)
        return tally.Local(
            gradient.rows, gradient.times, gradient.buckets, gradient.ids, float(norm),
            forwards=images, signal=self.stop.signal, peak_memory_bytes=peak_memory_bytes(self.accelerator.device),
        )  # fmt: skip

    def _check(self, step: int, local: tally.Local, summary: tally.Summary) -> None:
        checks.check_finite(step + 1, local, summary)
        if step == 0:
            loss = float(summary.sums[:, 0].sum()) / self.settings.train.pairs_per_step
            checks.check_identity(self.method, summary, loss=loss, tolerance=self.subject.identity_tolerance)
        checks.check_gradient(step + 1, summary)

    def _move(self, step: int) -> float:
        rate = learning_rate(self.settings.optimizer, step, self.settings.train.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average:
            self.average.update(step + 1)
        return rate

    def _line(self, step: int, gradient: Gradient, summary: tally.Summary, *, rate: float, seconds: float) -> dict[str, object]:
        pairs = self.settings.train.pairs_per_step
        counts = gradient.bucket_counts.tolist()
        by_bucket = {
            str(k): {"pairs": count, **tally.means(summary.sums[k - 1], count)} for k, count in enumerate(counts, start=1) if count
        }
        return {
            "step": step + 1,
            **tally.means(summary.sums.sum(0), pairs),
            "grad_norm": summary.grad_norm,
            "lr": rate,
            "pairs_per_second": pairs / seconds,
            "unet_forwards_per_pair": summary.forwards / pairs,
            "peak_memory_bytes": summary.peak_memory_bytes,
            "by_bucket": by_bucket,
        }

    def as_result(self) -> AbstractContextManager[None]:
        """Inside, the policy answers with the weights that are the run's result: the averaged ones, if an average is kept."""
        return self.average.in_place() if self.average else nullcontext()

    def close(self) -> None:
        """Takes the hooks off the networks."""
        self._hooks.close()
