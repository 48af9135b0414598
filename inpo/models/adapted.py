"""A model of which only adapters are trained: its reference is itself without them, and they are what it saves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn

from inpo.models.base import ADAPTER_FILE, write_base
from inpo.models.config import Lora, ModelConfig
from inpo.models.lora import AdaptersOff, adapter_weights, attach, merge, read_adapter, write_adapter
from inpo.models.model import Model
from inpo.models.saving import replace_folder
from inpo.types import Denoiser


@dataclass(frozen=True)
class AdaptedModel(Model):
    """A `Model` whose policy's network is frozen under adapters. `read_base` reads that network anew, fp32, on the CPU.

    `base`: where the model was loaded from, recorded beside saved adapters.
    """

    lora: Lora
    base: ModelConfig
    read_base: Callable[[], nn.Module]

    @classmethod
    def of(cls, model: Model, lora: Lora, *, base: ModelConfig, read_base: Callable[[], nn.Module]) -> AdaptedModel:
        """A model whose network has its adapters already."""
        parts = {each.name: getattr(model, each.name) for each in fields(Model)}
        return cls(**parts, lora=lora, base=base, read_base=read_base)

    def reference(self) -> Denoiser:
        """The policy's own module with its adapters off: no second network."""
        return AdaptersOff(self.policy)

    def save_policy(self, folder: Path) -> None:
        """The adapters for a checkpoint, bit for bit; diffusers' `load_lora_weights` reads the folder too."""
        with replace_folder(folder, ADAPTER_FILE) as new:
            write_adapter(new, self.policy.network, self.lora, part=self.policy.part)

    def load_policy(self, folder: Path) -> None:
        """Puts adapters of `save_policy` into the policy, in place. Raises `InputError` where they are not this model's."""
        read_adapter(folder, self.policy.network, part=self.policy.part)

    def save_adapter(self, folder: Path) -> None:
        """The result as `load_lora_weights` reads it, with a record of its base. Complete or absent."""
        with replace_folder(folder, ADAPTER_FILE) as new:
            write_adapter(new, self.policy.network, self.lora, part=self.policy.part, portable=True)
            write_base(new, self.base)

    def save_pipeline(self, folder: Path, network: nn.Module | None = None) -> None:
        """As `Model.save_pipeline`, with the adapters merged into the weights."""
        super().save_pipeline(folder, network or self._merged())

    def save_network(self, folder: Path, network: nn.Module | None = None) -> None:
        """As `Model.save_network`, with the adapters merged into the weights."""
        super().save_network(folder, network or self._merged())

    def _merged(self) -> nn.Module:
        """The network's weights are read again: in memory they are adapted, and perhaps stored in half precision."""
        network = self.read_base()
        attach(network, self.lora, seed=0, attention=self.family.lora_targets)
        with torch.no_grad():
            for name, weight in adapter_weights(network).items():
                weight.copy_(adapter_weights(self.policy.network)[name])
        merge(network)
        return network
