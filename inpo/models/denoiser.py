"""What every network has in common behind the package's `Denoiser` protocol: times, precision, and its frozen copy.

Latents are fp32 on both sides of the network; the network alone decides what it computes in.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from inpo.models.targets import ADAPTABLE
from inpo.schedule import PredictionType, Schedule
from inpo.types import Condition, Dtype

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NetworkDenoiser(nn.Module, ABC):
    """An `inpo.types.Denoiser` over one of diffusers' networks. A kind of network is a subclass: `part`, and what the network reads.

    With dtype "bf16" or "fp16" the weights stay fp32 and autocast rounds them on the way into each operation, so that an optimiser
    step of 1e-5 is not lost in bf16's 8 bits or fp16's 11. `reference()` takes the same path: β/2 multiplies the difference of two
    nearly equal errors, and must not meet two different roundings.
    """

    part: ClassVar[str]
    """What diffusers calls this network in a pipeline; the names of its weights begin with it."""

    def __init__(
        self, network: nn.Module, schedule: Schedule, prediction_type: PredictionType, *, pixels_per_latent: int, dtype: Dtype = "fp32"
    ) -> None:
        super().__init__()
        self.add_module(self.part, network)
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.pixels_per_latent = pixels_per_latent
        self.compute_dtype = dtype

    @property
    def network(self) -> nn.Module:
        """The network itself, as diffusers knows it."""
        return self.get_submodule(self.part)

    @property
    def settings(self) -> Mapping[str, object]:
        """The network's config.json."""
        return cast(Mapping[str, object], self.network.config)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's own prediction, `[B,C,H,W]`, in the dtype of `x_t`. `t`: `[B]`, on any device."""
        times = self.schedule.network_time(t).to(x_t.device)
        read = {name: tensor.to(x_t.device, self._width) for name, tensor in self._reads(x_t, condition).items()}
        with torch.autocast(x_t.device.type, HALF.get(self.compute_dtype), enabled=self.compute_dtype in HALF):
            prediction = self._predict(x_t.to(self._width), times, read)
        return prediction.to(x_t.dtype)

    def _reads(self, x_t: Tensor, condition: Condition) -> Mapping[str, Tensor]:
        """What the network is told besides latents and times."""
        del x_t
        return condition.tensors

    @abstractmethod
    def _predict(self, x_t: Tensor, times: Tensor, read: Mapping[str, Tensor]) -> Tensor:
        """Asks the network. All on its device and in its width."""

    @property
    def _width(self) -> torch.dtype:
        # Under autocast the weights may be stored in half precision, of which sizes in pixels would be rounded.
        return torch.float32 if self.compute_dtype in HALF else cast(torch.dtype, self.network.dtype)

    def reference(self) -> Self:
        """A frozen copy of the network as it is now: eval mode, no parameter requires a gradient.

        Its matrices and kernels are kept in what it computes in, as autocast would round them each time: half the memory, and no number
        is another.
        """
        frozen = copy.deepcopy(self).eval()
        freeze(frozen.network, HALF.get(self.compute_dtype))
        return frozen


def freeze(network: nn.Module, stored: torch.dtype | None) -> None:
    """No weight requires a gradient, and matrices and kernels are kept in `stored`, in place; None leaves them as they are."""
    network.requires_grad_(False)
    for module in network.modules():
        if stored is not None and isinstance(module, ADAPTABLE):
            module.to(stored)
