"""What is measured on the pairs of one optimiser step, and the collective of it: sums, faults and signals travel together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inpo.objectives import Objective
from inpo.points import Noised, NoisedPairs
from inpo.training.distributed import gather_lists, gather_rows
from inpo.training.step import StepResult
from inpo.training.stop import StepDropped
from inpo.types import PairBatch

BUCKETS = 10
"""Tenths of the path from data to noise. For the paper's N = 10 a pair's tenth is its number of inversion steps, k(t)."""

LABELLED = "labelled"
COLUMNS = (
    "loss", "implicit_accuracy", "margin", "win_error", "lose_error", "ref_win_error", "ref_lose_error", "tau_rms_win", "tau_rms_lose",
    LABELLED,
)  # fmt: skip
"""What is added up over pairs. The last counts those with a preferred picture, and is no number of a line: the accuracy is of them."""
CHECKED = ("clean latent", "noised latent", "target", "policy's prediction", "reference's prediction", "loss")
"""In the order of cause and effect: the first that is not finite is the one to look at."""

_OWN = 8
"""Numbers of a process besides its sums: failed, dropped, bad pairs, largest margin and gain, forwards, signal, memory."""


@dataclass(frozen=True)
class PairRows:
    """One row per pair of this process. `values`: fp64 `[n, COLUMNS]` (NaN: there is no such value); `bad`: bool `[n, CHECKED]`."""

    values: Tensor
    bad: Tensor

    @staticmethod
    def cat(parts: list[PairRows]) -> PairRows:
        """All parts, on the CPU: where the device is a GPU, this is the step's one wait for it."""
        both = torch.cat([torch.cat([part.values, part.bad.to(part.values.dtype)], dim=1) for part in parts]).cpu()
        return PairRows(both[:, : len(COLUMNS)].double(), both[:, len(COLUMNS) :] > 0)


@torch.no_grad()
def measure(pairs: PairBatch, noised: NoisedPairs, result: StepResult, objective: Objective) -> PairRows:
    """Statistics and finiteness of each pair of a micro-batch, without waiting for the device."""
    win, lose = result.win, result.lose
    absent = torch.full_like(result.losses.detach(), math.nan)
    u = objective.margin(win, lose)
    # Of a tie that is kept, the winner is only whichever picture is stored as such.
    decided = noised.preference.to(absent) != 0.5
    values = {
        "loss": result.losses.detach(),
        "implicit_accuracy": absent if u is None else decided * ((u > 0) + 0.5 * (u == 0)),
        "margin": absent if u is None else u,
        "win_error": win.error,
        "lose_error": absent if lose is None else lose.error,
        "ref_win_error": absent if win.reference is None else win.ref_error,
        "ref_lose_error": absent if lose is None or lose.reference is None else lose.ref_error,
        # Mean squares until the step is averaged: the root of a mean is what an rms over pairs is.
        "tau_rms_win": _mean_square(noised.win.tau),
        "tau_rms_lose": absent if noised.lose is None else _mean_square(noised.lose.tau),
        LABELLED: decided,
    }
    return PairRows(torch.stack([values[name].to(absent) for name in COLUMNS], dim=1), _not_finite(pairs, noised, result))


def _mean_square(tau: Tensor) -> Tensor:
    return tau.square().mean(dim=(1, 2, 3))


def _not_finite(pairs: PairBatch, noised: NoisedPairs, result: StepResult) -> Tensor:
    sides: list[tuple[Tensor, Noised, Tensor, Tensor | None]] = [(pairs.win, noised.win, result.win.prediction, result.win.reference)]
    if pairs.lose is not None and noised.lose is not None and result.lose is not None:
        sides.append((pairs.lose, noised.lose, result.lose.prediction, result.lose.reference))
    columns = [
        torch.stack([_bad(clean), _bad(point.x_t), _bad(point.target), _bad(prediction), _bad(prediction if ref is None else ref)], dim=1)
        for clean, point, prediction, ref in sides
    ]
    return torch.cat([torch.stack(columns).any(0), _bad(result.losses)[:, None]], dim=1)


def _bad(values: Tensor) -> Tensor:
    return ~values.detach().isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.detach().isfinite()


def bucket_sums(values: Tensor, buckets: Tensor) -> Tensor:
    """Sums over the pairs of each bucket, fp64 `[BUCKETS, COLUMNS]`; a column that is absent (NaN) is so everywhere.

    `values`: `[n, COLUMNS]`; `buckets`: `[n]` in 1…BUCKETS.
    """
    member = torch.nn.functional.one_hot(buckets - 1, BUCKETS).double()
    # A product and not a scattered addition: on a GPU the latter has no fixed order.
    return torch.stack([(member * column[:, None]).sum(0) for column in values.T], dim=1)


@dataclass(frozen=True)
class Local:
    """One process's share of a step: its rows, their times and ids, and what the process itself has to say."""

    rows: PairRows
    times: Tensor
    buckets: Tensor
    ids: tuple[str, ...]
    forwards: int
    signal: int
    peak_memory_bytes: int


@dataclass(frozen=True)
class Summary:
    """The step as all processes know it. `sums`: fp64 `[BUCKETS, COLUMNS]`, over so many training points: `counts`, `[BUCKETS]`.
    `signal`: 0 or the signal that any process got.

    `failed`: how many processes could not do their share; `dropped`: how many left it for a signal. If there is one, nothing else than
    `signal` means anything. `largest_gain`: of any picture, |R − L|, negative where there is no reference.
    """

    sums: Tensor
    counts: Tensor
    failed: int
    dropped: int
    bad_pairs: int
    largest_margin: float
    largest_gain: float
    forwards: int
    signal: int
    peak_memory_bytes: int

    @property
    def points(self) -> int:
        """Training points of the whole step."""
        return int(self.counts.sum())

    def gains(self) -> list[float]:
        """The mean gain R − L (M9) over the winners of the step, and over its losers if it had any."""
        mean = dict(zip(COLUMNS, (self.sums.sum(0) / self.points).tolist(), strict=True))
        both = [mean[f"ref_{side}_error"] - mean[f"{side}_error"] for side in ("win", "lose")]
        return [gain for gain in both if not math.isnan(gain)]


def gather(local: Local | Exception, device: torch.device) -> Summary:
    """The one metrics collective of an optimiser step, before gradients are added up. An exception: why this process has no share."""
    everybody = gather_rows(_vector(local) if isinstance(local, Local) else _without_share(local), device)
    failed, dropped, bad, margin, gain, forwards, signal, memory = everybody[:, :_OWN].T
    return Summary(
        sums=everybody[:, _OWN + BUCKETS :].sum(0).view(BUCKETS, len(COLUMNS)),
        counts=everybody[:, _OWN : _OWN + BUCKETS].sum(0).long(),
        failed=int(failed.sum()),
        dropped=int(dropped.sum()),
        bad_pairs=int(bad.sum()),
        largest_margin=float(margin.max()),
        largest_gain=float(gain.max()),
        forwards=int(forwards.sum()),
        signal=int(signal.max()),
        peak_memory_bytes=int(memory.max()),
    )


def _without_share(reason: Exception) -> Tensor:
    own = torch.zeros(_OWN + BUCKETS * (1 + len(COLUMNS)), dtype=torch.float64)
    if isinstance(reason, StepDropped):
        own[1], own[6] = 1, reason.signal
    else:
        own[0] = 1
    return own


def _vector(local: Local) -> Tensor:
    sums = bucket_sums(local.rows.values, local.buckets)
    column = dict(zip(COLUMNS, local.rows.values.T, strict=True))
    gains = torch.stack([column[f"ref_{side}_error"] - column[f"{side}_error"] for side in ("win", "lose")]).abs()
    largest = [column["margin"].abs().max().item(), gains.nan_to_num(nan=-1.0).max().item()]
    own = [0, 0, local.rows.bad.any(1).sum().item(), *largest, local.forwards, local.signal, local.peak_memory_bytes]
    return torch.cat([torch.tensor(own, dtype=torch.float64), torch.bincount(local.buckets - 1, minlength=BUCKETS), sums.flatten()])


def first_not_finite(local: Local) -> tuple[str, list[tuple[str, float]]]:
    """Which tensor went wrong first, and the (id, t) of its pairs on all processes. A collective: call it on all or none."""
    found = [
        (int(row.int().argmax()), pair, float(t))
        for row, pair, t in zip(local.rows.bad, local.ids, local.times.tolist(), strict=True)
        if bool(row.any())
    ]
    everywhere = gather_lists(found)
    first = min(stage for stage, _, _ in everywhere)
    return CHECKED[first], [(pair, t) for stage, pair, t in everywhere if stage == first]


def labelled(sums: Tensor) -> int:
    """How many of the pairs that were added up have a preferred picture. `sums`: `[COLUMNS]`."""
    return round(float(sums[COLUMNS.index(LABELLED)]))


def means(sums: Tensor, count: int) -> dict[str, float | None]:
    """Averages over `count` pairs by name, None where the method has no such value. `sums`: `[COLUMNS]`.

    The accuracy is over the labelled ones, and None where all are ties.
    """
    values, pairs = dict(zip(COLUMNS, (sums / count).tolist(), strict=True)), labelled(sums)
    del values[LABELLED]
    values["implicit_accuracy"] = float(sums[COLUMNS.index("implicit_accuracy")]) / pairs if pairs else math.nan
    for name in ("tau_rms_win", "tau_rms_lose"):
        values[name] = math.sqrt(values[name])
    return {name: None if math.isnan(value) else value for name, value in values.items()}
