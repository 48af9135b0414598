"""A LoRA of what full fine-tuning changed: the best approximation of each layer's update that its rank allows (Eckart and Young, 1936)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.models.export.adapters import Adapters, Layer
from inpo.models.targets import ADAPTABLE

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Extracted:
    """`kept`: the share of the update's energy Σ ‖ΔW‖² over *all* of the network's weights, norms and biases too, that the LoRA has."""

    adapters: Adapters
    kept: float


def extract(trained: nn.Module, base: nn.Module, rank: int, *, device: torch.device, progress: Progress | None = None) -> Extracted:
    """Every linear and convolution layer that moved, at `rank`; the work is done on `device`.

    A layer too small for the rank is filled up with zeros, so that one rank holds for the file. Raises `InputError` for networks
    that are not of one architecture, and where nothing moved.
    """
    before, after = base.state_dict(), trained.state_dict()
    _require_same_shapes(before, after)
    energy = sum(float((after[name] - tensor).double().square().sum()) for name, tensor in before.items() if tensor.is_floating_point())
    if energy == 0:
        raise InputError("the trained network equals its base: there is no update to extract a LoRA from; is the base the right one?")
    layers, found, kept = {}, _layers(trained), 0.0
    for done, name in enumerate(found, start=1):
        update = (after[f"{name}.weight"] - before[f"{name}.weight"]).to(device)
        if update.any():
            down, up = low_rank(update.flatten(1), rank)
            kept += float((up.double() @ down.double()).square().sum())
            layers[name] = _shaped(down, up, rank, update.shape)
        if progress is not None:
            progress(done, len(found))
    return Extracted(Adapters(rank, layers), kept / energy)


def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(down, up), fp32: up·down is the nearest matrix of that rank. Both have about the same size, so that halves can hold them.

    From the eigenvectors of the smaller Gram matrix, in fp64: the singular vectors at a fraction of their cost.
    """
    if matrix.shape[0] > matrix.shape[1]:
        down, up = low_rank(matrix.T, rank)
        return up.T, down.T
    wide = matrix.double()
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    most = vectors[:, -rank:].flip(1)
    # √σ_max on either side.
    balance = max(float(squares[-1].clamp(min=0)) ** 0.25, torch.finfo(torch.float32).tiny)
    return (most.T @ wide / balance).float(), (most * balance).float()


def _shaped(down: Tensor, up: Tensor, rank: int, shape: torch.Size) -> Layer:
    missing = rank - len(down)
    down, up = nn.functional.pad(down, (0, 0, 0, missing)), nn.functional.pad(up, (0, missing))
    return Layer(down.reshape(rank, *shape[1:]).cpu(), up.reshape(*up.shape, *(1 for _ in shape[2:])).cpu())


def _layers(network: nn.Module) -> list[str]:
    """Layers that LoRA can be put on: a grouped convolution is none."""
    return [
        name for name, module in network.named_modules() if isinstance(module, ADAPTABLE) and getattr(module, "groups", 1) == 1
    ]  # fmt: skip


def _require_same_shapes(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    ours, theirs = ({(name, tuple(tensor.shape)) for name, tensor in each.items()} for each in (after, before))
    if different := sorted(ours ^ theirs):
        name, shape = different[0]
        raise InputError(
            f"the trained network and the base differ in {len(different)} weights, first {name} {shape}: give the right one as --base"
        )
