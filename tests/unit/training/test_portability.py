"""Nothing here takes CUDA or POSIX for granted: MPS has no fp64, Windows has two signals, and the device is whatever there is."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import inpo
from inpo.training import distributed
from inpo.types import Condition
from tests.tiny_denoiser import MemoryLoader, TinyDenoiser, plain_subject, tiny_subject
from tests.training_runs import settings, trainer

SOURCES = sorted(Path(inpo.__file__).parent.rglob("*.py"))
POSIX_MODULES = {"fcntl", "grp", "pwd", "resource", "syslog", "termios", "tty"}
WINDOWS_SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIGBREAK"}


class Moves(TorchFunctionMode):
    """Remembers the dtype of every tensor that is moved to a device."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_function__(
        self, func: Callable[..., object], types: Sequence[type], args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        """Calls it, and looks at what came out."""
        result = func(*args, **(kwargs or {}))
        to_device = "device" in (kwargs or {}) or any(isinstance(each, torch.device) for each in args[1:])
        if func is Tensor.to and to_device and isinstance(result, Tensor):
            self.dtypes.append(result.dtype)
        return result


class Curious(TinyDenoiser):
    """Remembers the dtypes that it is asked with."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[torch.dtype] = set()

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """As it is."""
        self.asked |= {x_t.dtype, t.dtype, *(tensor.dtype for tensor in condition.tensors.values())}
        return super().forward(x_t, t, condition)


@pytest.mark.parametrize("name", ["inpo", "diffusion-dpo", "sft"])
def test_no_fp64_reaches_a_device(name: str) -> None:
    """Times, tables and metrics may be fp64 on the CPU, never where they are moved or where a network is asked."""
    policy = Curious()
    made = trainer(MemoryLoader(held_out=5), plain_subject(policy, tiny_subject().policy), name=name, use=settings(average_decay=0.9))
    with Moves() as moves:
        made.step_once(0)
        made.validation()
    assert moves.dtypes
    assert torch.float64 not in {*moves.dtypes, *policy.asked}
    state = [value for entries in made.optimizer.state.values() for value in entries.values() if isinstance(value, Tensor)]
    assert {value.dtype for value in state} == {torch.float32}


def test_the_device_is_whatever_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerator of any kind is used; accelerate is told of the CPU only where there is none."""
    for available in (True, False):
        told: list[bool] = []

        def state(*, cpu: bool, timeout: timedelta, told: list[bool] = told) -> SimpleNamespace:
            assert timeout == distributed.PATIENCE
            told.append(cpu)
            return SimpleNamespace(num_processes=1)

        monkeypatch.setattr(distributed, "PartialState", state)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda available=available: available)
        distributed.processes()
        assert told == [not available]


def imports(tree: ast.AST) -> set[str]:
    """Modules that are imported below a node."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in names | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_for_posix_alone(path: Path) -> None:
    """Modules that Windows lacks are imported under `try`; signals are those that it has."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    guarded = set().union(*(imports(node) for node in ast.walk(tree) if isinstance(node, ast.Try)))
    assert imports(tree) & POSIX_MODULES <= guarded
    assert set(re.findall(r"\bsignal\.(SIG[A-Z0-9]+)", source)) <= WINDOWS_SIGNALS
    assert not re.search(r"\bos\.(fork|setsid|getuid|geteuid|nice)\b", source)
