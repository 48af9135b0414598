"""LoRA in the two layouts that are exchanged: diffusers', and that of kohya's programs, which ComfyUI and A1111 read too.

Both hold for each layer a matrix that goes down to the rank and one that goes up again, and for DoRA the magnitudes of its outputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from inpo.errors import InputError
from inpo.models.base import ADAPTER_FILE
from inpo.models.export.original import UNetNames
from inpo.models.families import SD, SDXL, Family
from inpo.models.lora import METADATA, adapter_settings, adapter_tensors

_KOHYA = "lora_unet_"


@dataclass(frozen=True)
class Layer:
    """W becomes W + up·down; with `magnitude` `[out]` each output is scaled to have that norm.

    `down`: `[r, in]` or `[r, in, k, k]`; `up`: `[out, r]` or `[out, r, 1, 1]`.
    """

    down: Tensor
    up: Tensor
    magnitude: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Layer:
        """The same in another dtype."""
        magnitude = None if self.magnitude is None else self.magnitude.to(dtype)
        return Layer(self.down.to(dtype).contiguous(), self.up.to(dtype).contiguous(), magnitude)


@dataclass(frozen=True)
class Adapters:
    """Layers by their names in the diffusers network. All have the same rank; α is the rank, so that nothing is scaled."""

    rank: int
    layers: Mapping[str, Layer]

    @property
    def dora(self) -> bool:
        """Whether magnitudes are apart."""
        return any(layer.magnitude is not None for layer in self.layers.values())


def read_adapters(folder: Path, *, part: str = "unet") -> Adapters:
    """A folder of `inpo.models.lora.write_adapter` for a pipeline's `part`. Raises `InputError` where its file is damaged."""
    file = folder / ADAPTER_FILE
    settings, tensors = adapter_settings(file, part), adapter_tensors(file, part)
    scale = settings.strength / settings.rank
    return Adapters(settings.rank, {name: _layer(name, tensors, scale) for name in settings.target_names})


def _layer(name: str, tensors: Mapping[str, Tensor], scale: float) -> Layer:
    magnitude = tensors.get(f"{name}.lora_magnitude_vector")
    return Layer(
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] * scale, None if magnitude is None else magnitude.flatten()
    )


def write_diffusers(file: Path, adapters: Adapters, dtype: torch.dtype, *, part: str) -> None:
    """As `load_lora_weights` of diffusers reads it. `part`: what the pipeline calls the network."""
    from safetensors.torch import save_file

    prefix = f"{part}."
    tensors: dict[str, Tensor] = {}
    for name, layer in adapters.layers.items():
        half = layer.to(dtype)
        tensors |= {f"{prefix}{name}.lora_A.weight": half.down, f"{prefix}{name}.lora_B.weight": half.up}
        if half.magnitude is not None:
            # peft keeps a convolution's magnitudes with the axes that they scale.
            shape = (1, -1, 1, 1) if half.down.ndim == 4 else (-1,)
            tensors[f"{prefix}{name}.lora_magnitude_vector"] = half.magnitude.reshape(shape)
    settings = {"r": adapters.rank, "lora_alpha": adapters.rank, "target_modules": sorted(adapters.layers), "use_dora": adapters.dora}
    save_file(tensors, file, {METADATA: json.dumps({prefix + key: value for key, value in settings.items()}, sort_keys=True)})


def write_kohya(file: Path, adapters: Adapters, dtype: torch.dtype, *, naming: Callable[[str], str]) -> None:
    """As kohya's programs, ComfyUI and A1111 read it. `naming`: a layer's name there, from `kohya_naming`."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, layer in adapters.layers.items():
        key, half = _KOHYA + naming(name).replace(".", "_"), layer.to(dtype)
        tensors |= {f"{key}.lora_down.weight": half.down, f"{key}.lora_up.weight": half.up}
        tensors[f"{key}.alpha"] = torch.tensor(float(adapters.rank))
        if half.magnitude is not None:
            # One number an output, with as many axes as the weight: so LyCORIS tells it from one number an input.
            tensors[f"{key}.dora_scale"] = half.magnitude.reshape(-1, *(1 for _ in half.down.shape[1:]))
    save_file(tensors, file)


def kohya_naming(family: Family, unet_names: Mapping[str, Tensor]) -> Callable[[str], str]:
    """What kohya's programs call the layers of a family's UNet: SD's as diffusers does, SDXL's as its authors do.

    `unet_names`: all tensors of the UNet, whose values are not looked at. Raises `InputError` for another family.
    """
    namings: Mapping[str, Callable[[str], str]] = {SD.name: str, SDXL.name: UNetNames.of(unet_names).original_layer}
    if family.name not in namings:
        raise InputError(f"format='lora-kohya' is for Stable Diffusion 1.x, 2.x and XL, and this is {family.title}: use format=lora")
    return namings[family.name]
