"""What is trained: the policy, what it is compared with, and how the model saves and loads itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from inpo.types import Denoiser, Dtype

Component = nn.Module | Mapping[str, object]


@dataclass(frozen=True)
class Subject:
    """A policy (a module that is a `Denoiser`), its reference if the method needs one, and the model's own way to disk and back.

    `save_policy(folder)`, `load_policy(folder)`: into and out of an existing folder, without rounding and without pickle;
    loading is in place. A reference that is no module of its own (an adapter switched off) must ask the policy's module,
    where its evaluations are counted. `dtype`: what both compute in; with "fp16" the loss is scaled. `components`: what else a run's
    numbers depend on, by a name for messages: frozen networks, and settings ready for JSON.
    """

    policy: nn.Module
    reference: Denoiser | None
    save_policy: Callable[[Path], None]
    load_policy: Callable[[Path], None]
    dtype: Dtype = "fp32"
    components: Mapping[str, Component] = field(default_factory=dict)

    def reference_sha256(self) -> str | None:
        """Hex digest of what never changes in a run: the reference's weights, or the policy's frozen ones; None where there are neither.

        A reference that is no module of its own is known by the policy's frozen weights; so is the base of adapters that are trained
        without a reference.
        """
        if isinstance(self.reference, nn.Module):
            return _sha256(self.reference.state_dict())
        frozen = {name: weight for name, weight in self.policy.named_parameters() if not weight.requires_grad}
        return _sha256(frozen) if frozen else None


    def component_sha256(self) -> dict[str, str]:
        """Hex digest of each component. Of a network's, the weights count and not their names, which libraries change."""
        return {name: _of_component(component) for name, component in self.components.items()}


def _of_component(component: Component) -> str:
    if isinstance(component, nn.Module):
        each = sorted(_sha256({"": weight}) for weight in component.parameters())
        return hashlib.sha256("".join(each).encode()).hexdigest()
    return hashlib.sha256(json.dumps(component, sort_keys=True, default=str).encode()).hexdigest()


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
