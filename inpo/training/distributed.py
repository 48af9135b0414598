"""Ranks: who reads and writes files, how gradients are added up, and how everybody hears of a fault."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NoReturn, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.distributed.distributed_c10d import _get_default_store

from inpo.errors import InputError, RunFault

T = TypeVar("T")

SHARDING = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""What `accelerate launch` sets in the environment for a network that is cut over processes."""

PATIENCE = timedelta(hours=12)
"""How long a collective waits for the slowest process. By default NCCL gives up after 10 minutes, in which the main process cannot
download a model or decode half a million pairs while the others wait (`on_main`). A launcher notices a process that is gone by itself."""

RESCUE_SECONDS = 1800.0
"""The longest that other processes wait for the main one's save of a faulty run. A launcher kills it 30 s after the first of them leaves;
a checkpoint of SDXL is 10 to 30 GB."""

TOLD = "The other processes of this run were told."

BUCKET_NUMBERS = 25_000_000
"""Gradients are added up so many numbers at a time: 100 MB of memory instead of a second copy of all of them."""


def processes() -> PartialState:
    """accelerate's view of the process group, joined on the first call.

    Raises `InputError` where a launcher started several processes that do not find one another, so that each would train alone,
    and where it was told to shard the network, which nothing here does.
    """
    if chosen := [name for key, name in SHARDING.items() if os.environ.get(key, "").lower() in ("1", "true")]:
        raise InputError(
            f"`accelerate launch` is set to {chosen[0]}, but every process here keeps the whole network: choose MULTI_GPU in "
            "`accelerate config`, and lora.rank or optimizer.name=adamw8bit where memory does not suffice"
        )
    # Without being told so, accelerate forms no group on a machine that has CPUs only.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != started:
        raise InputError(f"the launcher started {started} processes, but accelerate sees {state.num_processes}; use `accelerate launch`")
    return state


def on_main(action: Callable[[], T]) -> T:
    """What `action` returns on the main process, on every process. An error there is raised everywhere, so that nobody waits for ever.

    A collective where there are several processes: all of them must come here, and wait for `PATIENCE` at most. What is returned must
    be picklable.
    """
    state = processes()
    if state.num_processes == 1:
        return action()
    outcome: list[object] = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = action()
        except Exception as error:  # whatever it was, the others must not wait for a broadcast that never comes
            outcome[1] = error
    broadcast_object_list(outcome)
    if isinstance(outcome[1], Exception):
        raise outcome[1]
    return cast(T, outcome[0])


def tell_others(word: str) -> None:
    """Ends every `wait_for_main` for this word. Not a collective: the group may be broken."""
    with suppress(RuntimeError, ValueError):
        _get_default_store().set(word, "")


def wait_for_main(word: str, *, until: Callable[[], object]) -> None:
    """Waits for the main process's `tell_others`, at most `RESCUE_SECONDS` and until `until()`. It may be gone: nothing is raised."""
    end = time.monotonic() + RESCUE_SECONDS
    with suppress(RuntimeError, ValueError):
        while time.monotonic() < end and not until() and not _get_default_store().check([word]):
            time.sleep(0.1)


def gather_rows(vector: Tensor, device: torch.device) -> Tensor:
    """One vector from every process, fp64 `[processes, n]`, on the CPU. One collective."""
    count = processes().num_processes
    if count == 1:
        return vector.double()[None]
    local = vector.double().to(device)
    rows = [torch.empty_like(local) for _ in range(count)]
    with _reaching_all():
        torch.distributed.all_gather(rows, local)
        return torch.stack(rows).cpu()


@torch.no_grad()
def add_up_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Makes every `.grad` the sum over processes, the same bits on all of them. One collective per `BUCKET_NUMBERS`."""
    if processes().num_processes == 1:
        return
    for bucket in _buckets([weight.grad for weight in weights if weight.grad is not None]):
        together = torch.cat([gradient.flatten() for gradient in bucket])
        with _reaching_all():
            torch.distributed.all_reduce(together)
        for gradient, total in zip(bucket, torch.split(together, [gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(total.view_as(gradient))


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one kind in a row, as many as fit together."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(each.numel() for each in bucket) + gradient.numel() > BUCKET_NUMBERS
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


@torch.no_grad()
def start_alike(weights: Iterable[nn.Parameter]) -> None:
    """Gives every process the main one's weights: what is drawn at random when it is made differs between them."""
    if processes().num_processes > 1:
        for weight in weights:
            torch.distributed.broadcast(weight.data, src=0)


@contextmanager
def _reaching_all() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RunFault(f"another process of this run is gone or does not answer ({' '.join(str(error).split())[:200]})") from error


def raise_everywhere(failure: Exception | None) -> NoReturn:
    """Raises on every process what some of them met; `failure` is this one's own. A collective for the path of faults only.

    What a user can mend stays an `InputError`, everything else is a `RunFault` to those who did not meet it themselves.
    """
    if failure is not None and processes().num_processes == 1:
        raise failure
    told = gather_lists([] if failure is None else [(isinstance(failure, InputError), _by_whom(failure))])
    if failure is not None and not isinstance(failure, InputError | RunFault):
        failure.add_note(TOLD)
        raise failure
    mendable, message = told[0]
    raise (InputError if mendable else RunFault)(message) from failure


def is_told(fault: Exception) -> bool:
    """Whether the other processes end with this one: by `raise_everywhere`, or because all of them find the same fault."""
    return isinstance(fault, InputError | RunFault) or TOLD in getattr(fault, "__notes__", ())


def _by_whom(failure: Exception) -> str:
    if isinstance(failure, InputError):
        return str(failure)
    what = str(failure) if isinstance(failure, RunFault) else f"{type(failure).__name__}: {failure}"
    return f"process {processes().process_index}: {what}"


def gather_lists(items: list[T]) -> list[T]:
    """Every process's items, in the order of ranks. A collective for the path of faults only."""
    return items if processes().num_processes == 1 else cast(list[T], gather_object(items))


def device() -> torch.device:
    """Where this process computes."""
    return cast(torch.device, processes().device)


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return cast(bool, processes().is_main_process)
