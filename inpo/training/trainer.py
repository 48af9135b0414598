"""One optimiser step, from the pairs' positions to moved weights. It knows models and data by protocol alone."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from inpo.errors import InputError, RunFault
from inpo.methods import Method
from inpo.training import checks, tally
from inpo.training.baseline import GainBaseline
from inpo.training.distributed import add_up_gradients, processes, raise_everywhere, start_alike
from inpo.training.gradient import GradientSource, Networks, Points
from inpo.training.memory import told_as_fault
from inpo.training.metrics import ForwardCounter, peak_memory_bytes
from inpo.training.optim import WeightAverage, learning_rate, make_optimizer, trainable
from inpo.training.reading import Reader
from inpo.training.scaling import MAX_OVERFLOWS, LossScale
from inpo.training.settings import Settings
from inpo.training.snapshot import Snapshot
from inpo.training.stop import StepDropped, Stop
from inpo.training.subject import Subject
from inpo.training.validation import Validation
from inpo.types import Denoiser, PairLoader


@dataclass(frozen=True)
class Outcome:
    """A completed step: its line of metrics.jsonl, and the signal (or 0) that any process got meanwhile."""

    line: dict[str, object]
    signal: int


@dataclass(frozen=True)
class _Found:
    """What came out of the attempts at a step's gradient, which is in `.grad` now."""

    points: Points
    summary: tally.Summary
    norm: float
    scale: float
    overflows: int


class Trainer:
    """The state of a run between two optimiser steps, and the step itself: a pure function of that state and the step's number."""

    def __init__(self, subject: Subject, loader: PairLoader, *, method: Method, settings: Settings, stop: Stop) -> None:
        self.subject, self.settings, self.method, self.stop = subject, settings, method, stop
        self.parallel = processes()
        # Dropout would make the policy differ from its reference at step 0 and the run depend on a generator's state.
        policy = subject.policy.eval().to(self.parallel.device)
        self.weights = trainable(policy)
        self._check_size()
        self._check_walks()
        start_alike(self.weights.values())
        self.optimizer = make_optimizer(settings.optimizer, self.weights)
        decay = settings.train.average_decay
        self.average = None if decay is None else WeightAverage(self.weights, decay)
        self.scale = LossScale() if subject.dtype == "fp16" else None
        self.baseline = GainBaseline() if method.objective.needs.baseline else None
        self.snapshot = Snapshot(
            subject, self.optimizer, self.weights, self.average, self.scale, settings.optimizer.name, baseline=self.baseline
        )
        self.networks = Networks(cast(Denoiser, policy), self._placed_reference())
        self.gradient = GradientSource(self.networks, Reader(loader, stop.check), method, settings.train, self.parallel)
        self.validation = Validation(self.networks, loader.validation(), method, settings.train, self.parallel)
        self.torn = False
        """Whether the optimiser failed half-way: some weights may have moved and others not, so nothing of them is worth saving."""
        self._hooks = ExitStack()
        self.counter = ForwardCounter([module for module in (policy, subject.reference) if isinstance(module, nn.Module)])
        self._hooks.callback(self.counter.close)
        self._hooks.callback(policy.register_forward_pre_hook(lambda *_: stop.check()).remove)

    def _check_size(self) -> None:
        pairs, count = self.settings.train.pairs_per_step, self.parallel.num_processes
        if pairs < count:
            raise InputError(f"train.pairs_per_step={pairs} is fewer than the {count} processes; each needs at least one pair")

    def _check_walks(self) -> None:
        try:
            self.method.noising.mean_evaluations(cast(Denoiser, self.subject.policy).schedule)
        except ValueError as error:
            raise InputError(f"method.noising does not suit this model: {error}") from error

    def _placed_reference(self) -> Denoiser | None:
        if isinstance(self.subject.reference, nn.Module):
            self.subject.reference.to(self.parallel.device).eval()
        return self.subject.reference

    def step_once(self, step: int) -> Outcome:
        """Optimiser step `step`, from 0. Raises what stopped it with weights and optimiser as they were, unless `torn`.

        Several processes raise together: what one of them meets, a signal too, is told before anybody waits for gradients.
        """
        began, images = time.perf_counter(), self.counter.images
        try:
            with self.stop.droppable():
                found = self._gradient(step, images)
            self.torn = True
            rate = self._move(step)
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        line = self._line(step, found, rate=rate, seconds=time.perf_counter() - began)
        if self.baseline:
            self.baseline.update(found.summary)
        self.torn = False
        return Outcome(line, found.summary.signal)

    def _z(self) -> float:
        return self.baseline.z if self.baseline else 0.0

    def _gradient(self, step: int, images: int) -> _Found:
        """Attempts until one is finite. In fp16 an overflow is tried again at half the scale: the same pairs, times and noise."""
        points, before = None, self.scale.state() if self.scale else None
        try:
            for overflows in range(MAX_OVERFLOWS):
                points, local, summary = self._attempt(step, points, images)
                self._check(step, local, summary)
                norm = self._norm()
                if self.scale is None or math.isfinite(norm):
                    checks.check_gradient(step + 1, norm)
                    return _Found(points, summary, norm, self._scale(), overflows)
                self.scale.overflowed()
                self.optimizer.zero_grad(set_to_none=True)
            raise checks.too_many_overflows(step + 1, 2 * self._scale())
        except Exception:
            if self.scale:
                # The checkpoint that is saved now is of the last step; its continuation must not begin with a scale that no step had.
                self.scale.load(before)
            raise

    def _attempt(self, step: int, points: Points | None, images: int) -> tuple[Points, tally.Local, tally.Summary]:
        """An attempt that every process has its share of. Raises on all of them what one could not do, or the signal that one left for.

        Whoever leaves for a signal goes straight to this collective, and nobody adds up gradients before it: all take the same part in
        the same collectives, whichever of them a signal reaches, and when.
        """
        points, local = self._share(step, points, images)
        summary = tally.gather(local, self.parallel.device)
        if summary.failed:
            raise_everywhere(None if isinstance(local, tally.Local | StepDropped) else local)
        if summary.dropped or points is None or not isinstance(local, tally.Local):
            raise StepDropped(summary.signal)
        return points, local, summary

    def _scale(self) -> float:
        return self.scale.scale if self.scale else 1.0

    def _share(self, step: int, points: Points | None, images: int) -> tuple[Points | None, tally.Local | Exception]:
        """This process's share of an attempt, with `points` if they are known; or why there is none."""
        try:
            self.stop.check()
            points = points or self.gradient.points(step)
            rows = self.gradient(points, self._scale(), z=self._z())
        except OSError as error:
            return points, RunFault(f"step {step + 1}: the system failed while its pairs were read: {error}")
        except Exception as error:  # also a signal's: whatever it was, the others must hear of it before they wait for gradients
            return points, error
        return points, tally.Local(
            rows, points.times, points.buckets, points.ids, forwards=self.counter.images - images,
            signal=self.stop.signal, peak_memory_bytes=peak_memory_bytes(self.parallel.device),
        )  # fmt: skip

    def _check(self, step: int, local: tally.Local, summary: tally.Summary) -> None:
        checks.check_finite(step + 1, local, summary, dtype=self.subject.dtype)
        if step == 0:
            loss = float(summary.sums[:, 0].sum()) / summary.points
            checks.check_identity(self.method, summary, loss=loss)

    def _norm(self) -> float:
        """Adds gradients up over processes, takes the loss scale out, clips. The norm before clipping; the same on all processes."""
        weights = list(self.weights.values())
        add_up_gradients(weights)
        if self.scale:
            torch._foreach_mul_([weight.grad for weight in weights if weight.grad is not None], 1 / self.scale.scale)
        clip = self.settings.optimizer.clip
        return float(nn.utils.clip_grad_norm_(weights, math.inf if clip is None else clip))

    def _move(self, step: int) -> float:
        rate = learning_rate(self.settings.optimizer, step, self.settings.train.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with told_as_fault("optimiser", self.settings.train, step=step):
            self.optimizer.step()
            if self.average:
                self.average.update(step + 1)
        if self.scale:
            self.scale.moved()
        return rate

    def _line(self, step: int, found: _Found, *, rate: float, seconds: float) -> dict[str, object]:
        pairs, summary = self.settings.train.pairs_per_step, found.summary
        counts = summary.counts.tolist()
        by_bucket = {
            str(k): {"pairs": count, **tally.means(summary.sums[k - 1], count)} for k, count in enumerate(counts, start=1) if count
        }
        scaling = {"loss_scale": found.scale, "overflows": found.overflows} if self.scale else {}
        baseline = {"baseline": self.baseline.z} if self.baseline else {}
        return {
            "step": step + 1,
            **tally.means(summary.sums.sum(0), summary.points),
            "grad_norm": found.norm,
            **scaling,
            **baseline,
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
