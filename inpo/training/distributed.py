"""Ranks: who reads and writes files, and how everybody hears of a fault."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from inpo.errors import InputError

T = TypeVar("T")


def processes() -> PartialState:
    """accelerate's view of the process group, joined on the first call.

    Raises `InputError` where a launcher started several processes that do not find one another: each would train alone.
    """
    # Without being told so, accelerate forms no group on a machine that has CPUs only.
    state = PartialState(cpu=not torch.accelerator.is_available())
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != started:
        raise InputError(f"the launcher started {started} processes, but accelerate sees {state.num_processes}; use `accelerate launch`")
    return state


def on_main(action: Callable[[], T]) -> T:
    """What `action` returns on the main process, on every process. An error there is raised everywhere, so that nobody waits for ever.

    A collective where there are several processes: all of them must come here. What is returned must be picklable.
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


def gather_rows(vector: Tensor, device: torch.device) -> Tensor:
    """One vector from every process, fp64 `[processes, n]`, on the CPU. One collective."""
    count = processes().num_processes
    if count == 1:
        return vector.double()[None]
    local = vector.double().to(device)
    rows = [torch.empty_like(local) for _ in range(count)]
    torch.distributed.all_gather(rows, local)
    return torch.stack(rows).cpu()


def gather_lists(items: list[T]) -> list[T]:
    """Every process's items, in the order of ranks. A collective for the path of faults only."""
    return items if processes().num_processes == 1 else cast(list[T], gather_object(items))


def device() -> torch.device:
    """Where this process computes."""
    return cast(torch.device, PartialState().device)


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return cast(bool, PartialState().is_main_process)
