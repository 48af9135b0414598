"""What a launcher may have set up for the processes of a run."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.training import distributed
from inpo.training.distributed import SHARDING, add_up_gradients, device, is_main, processes


@pytest.mark.parametrize(("variable", "name"), SHARDING.items())
def test_a_launcher_that_shards_the_network_is_refused(variable: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run would ignore what the user chose and need several times the memory: it says so at its entrance."""
    monkeypatch.setenv(variable, "true")
    with pytest.raises(InputError, match=rf"{name}.*MULTI_GPU"):
        processes()


def test_a_launcher_that_says_no_to_sharding_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate writes `false` into these variables too."""
    for variable in SHARDING:
        monkeypatch.setenv(variable, "false")
    assert processes().num_processes == 1


@pytest.mark.parametrize("ask", [processes, device, is_main])
def test_processes_that_do_not_find_one_another_are_refused(ask: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes by the launcher's count, one by accelerate's: each would train alone and write into one folder."""
    processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="started 2 processes, but accelerate sees 1"):
        ask()


@pytest.mark.parametrize("ask", [processes, device, is_main])
@pytest.mark.parametrize("accelerator", [False, True])
def test_whoever_asks_first_forms_the_group(ask: Callable[[], object], accelerator: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate's state is one per process and the first call decides it: without `cpu` a machine of CPUs alone would get no group."""
    formed: list[dict[str, object]] = []

    def form(**settings: object) -> SimpleNamespace:
        formed.append(settings)
        return SimpleNamespace(num_processes=1, device=torch.device("cpu"), is_main_process=True)

    monkeypatch.setattr(distributed, "PartialState", form)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    ask()
    assert formed == [{"cpu": not accelerator, "timeout": distributed.PATIENCE}]


def test_gradients_are_added_up_in_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 10 numbers of one dtype at a time, one that is larger by itself, none left out; each sum comes back to its own weight.

    The other process has twice each gradient.
    """
    shapes: list[tuple[tuple[int, ...], torch.dtype]] = [
        ((2, 3), torch.float32), ((4,), torch.float32), ((1,), torch.float32), ((3, 4), torch.float32), ((2,), torch.float32),
        ((2, 2), torch.float64), ((6,), torch.float64), ((5,), torch.float64),
    ]  # fmt: skip
    weights = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in shapes]
    own = [torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(i)) for i, (shape, dtype) in enumerate(shapes)]
    for weight, gradient in zip(weights, own, strict=True):
        weight.grad = gradient.clone()
    sent: list[int] = []

    def all_reduce(together: Tensor) -> None:
        sent.append(together.numel())
        together.mul_(3)

    monkeypatch.setattr(distributed, "BUCKET_NUMBERS", 10)
    monkeypatch.setattr(distributed, "processes", lambda: SimpleNamespace(num_processes=2))
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    add_up_gradients([*weights, nn.Parameter(torch.zeros(7))])
    assert sent == [10, 1, 12, 2, 10, 5]
    for weight, gradient in zip(weights, own, strict=True):
        torch.testing.assert_close(weight.grad, 3 * gradient)
