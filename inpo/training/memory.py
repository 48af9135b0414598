"""Memory that does not suffice: recognised on every kind of device, and told with the settings that lower it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from inpo.errors import RunFault
from inpo.training.settings import TrainConfig

Phase = Literal["loading", "inversion", "gradient", "optimiser", "validation", "sampling"]
_SIGNS = ("out of memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is what was missing. CUDA and ROCm have an error of their own for it; MPS and the CPU say it in words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def told_as_fault(phase: Phase, config: TrainConfig, *, step: int | None = None) -> Iterator[None]:
    """Inside, memory that does not suffice becomes a `RunFault` of one line, which says what to lower. `step`: whose it is, from 0."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # The traceback holds every activation of the pass that failed; without it they are free when the step is saved.
        where = "" if step is None else f"step {step + 1}: "
        raise RunFault(f"{where}{_message(error, phase, config)}") from error.with_traceback(None)


def _message(error: BaseException, phase: Phase, config: TrainConfig) -> str:
    said = ". ".join(" ".join(str(error).split()).split(". ")[:2]).rstrip(".") or type(error).__name__
    free = {
        "loading": "model.dtype=bf16 keeps what is frozen in half the memory, T5 too",
        "inversion": f"lower train.inversion_batch_pairs (now {config.inversion_batch_pairs}) and continue with --resume latest",
        "gradient": f"lower train.micro_batch_pairs (now {config.micro_batch_pairs}) or set model.gradient_checkpointing=true, "
        "and continue with --resume latest",
        "validation": f"lower train.inversion_batch_pairs (now {config.inversion_batch_pairs}) and continue with --resume latest",
        "sampling": f"lower train.inversion_batch_pairs (now {config.inversion_batch_pairs}), of which as many pictures are made at once, "
        "or set train.sample_every_steps=null, and continue with --resume latest",
        "optimiser": "optimizer.name=adamw8bit keeps a quarter of AdamW's state",
    }[phase]
    return f"out of memory in the {phase} ({said}): {free}; a new run with a lora or a smaller data.resolution needs less"
