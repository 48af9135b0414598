"""Ranks: who reads and writes files, and how everybody hears of a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

T = TypeVar("T")


def on_main(action: Callable[[], T]) -> T:
    """What `action` returns on the main process, on every process. An error there is raised everywhere, so that nobody waits for ever.

    A collective where there are several processes: all of them must come here. What is returned must be picklable.
    """
    state = PartialState()
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
    if PartialState().num_processes == 1:
        return vector.double()[None]
    local = vector.double().to(device)
    rows = [torch.empty_like(local) for _ in range(PartialState().num_processes)]
    torch.distributed.all_gather(rows, local)
    return torch.stack(rows).cpu()


def gather_lists(items: list[T]) -> list[T]:
    """Every process's items, in the order of ranks. A collective for the path of faults only."""
    return items if PartialState().num_processes == 1 else gather_object(items)
