"""Low-rank adapters (LoRA, arXiv:2106.09685), also with their magnitudes apart (DoRA, arXiv:2402.09353), over peft.

The policy is the network with its adapters, the reference the same network with them switched off: one set of weights in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.models.base import ADAPTER_FILE
from inpo.models.config import Lora
from inpo.models.denoiser import freeze
from inpo.models.targets import ATTENTION, target_layers
from inpo.randomness import torch_rng
from inpo.schedule import PredictionType, Schedule
from inpo.types import Condition, Denoiser

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.dora import DoraLinearLayer

_ADAPTER = "default"
METADATA = "lora_adapter_metadata"


def attach(network: nn.Module, lora: Lora, *, seed: int, attention: Sequence[str] = ATTENTION, stored: torch.dtype = torch.float32) -> None:
    """Freezes the network and puts adapters on the layers that `lora.targets` names, in place. They change nothing yet.

    A is drawn from `seed` and the layer's name, B is 0, both fp32; there is no dropout, which would part policy and reference.
    `attention`: what the preset of that name means for this network. `stored`: what the frozen matrices and kernels are kept in;
    under autocast to the same dtype this changes no number. Raises `InputError` for targets that match nothing.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = target_layers(network, lora.target_names, attention=attention)
    freeze(network, stored)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.strength, target_modules=names, use_dora=lora.dora)
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, network, _ADAPTER)
    for name, layer in adapted_layers(network).items():
        _prepare(layer, seed, name)
    measure_magnitudes(network)


@torch.no_grad()
def _prepare(layer: LoraLayer, seed: int, name: str) -> None:
    """peft's initialisation from our seed, and in fp32 whatever the frozen weight is stored in."""
    down, _ = layer.lora_A[_ADAPTER].float(), layer.lora_B[_ADAPTER].float()
    noise = torch.rand(down.weight.shape, generator=torch_rng(seed, "lora", name))
    down.weight.copy_((2 * noise - 1) * down.weight[0].numel() ** -0.5)
    if _ADAPTER not in layer.lora_magnitude_vector:
        # Autocast rounds what it must; peft would widen the input first, for nothing.
        layer.cast_input_dtype_enabled = False
        return
    _measure_in_fp32(layer.lora_magnitude_vector[_ADAPTER])


def measure_magnitudes(network: nn.Module) -> None:
    """Sets each DoRA magnitude to the norm that it is divided by, where the network is now; nothing under LoRA.

    To be called again after a move, before anything is trained: another device adds in another order, and one last bit in every layer
    is a policy that is not its reference.
    """
    for layer in adapted_layers(network).values():
        if _ADAPTER in layer.lora_magnitude_vector:
            down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
            dora, scaling = layer.lora_magnitude_vector[_ADAPTER], layer.scaling[_ADAPTER]
            dora.update_layer(base_layer=layer.get_base_layer(), lora_A=down, lora_B=up, scaling=scaling)


def _measure_in_fp32(dora: DoraLinearLayer) -> None:
    """Keeps autocast out of the norm that DoRA divides by: bf16's 8 bits would scale a layer's whole answer by up to 0.4 %."""
    norm, product = dora.get_weight_norm, dora.get_lora_weight

    def in_fp32() -> torch.autocast:
        return torch.autocast(dora.weight.device.type, enabled=False)

    def get_weight_norm(weight: Tensor, lora_weight: Tensor, scaling: float, adapter_name: str | None = None) -> Tensor:
        with in_fp32():
            return cast(Tensor, norm(weight, lora_weight, scaling))

    def get_lora_weight(lora_A: nn.Module, lora_B: nn.Module, adapter_name: str | None = None) -> Tensor:
        with in_fp32():
            return cast(Tensor, product(lora_A, lora_B))

    dora.get_weight_norm, dora.get_lora_weight = get_weight_norm, get_lora_weight


def adapted_layers(network: nn.Module) -> dict[str, LoraLayer]:
    """The layers that have an adapter, by full name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}


class AdaptersOff:
    """The reference of an adapted policy: the policy's own module, asked while its adapters are off. An `inpo.types.Denoiser`.

    Not peft's switch, which takes `requires_grad` from the adapters that are being trained. They are on again when a call returns:
    gradient checkpointing evaluates the policy anew in the backward pass, and must find it as it was.
    """

    def __init__(self, policy: nn.Module) -> None:
        self._policy = cast(Denoiser, policy)
        self._layers = tuple(adapted_layers(policy).values())

    @property
    def schedule(self) -> Schedule:
        """The policy's."""
        return self._policy.schedule

    @property
    def prediction_type(self) -> PredictionType:
        """The policy's."""
        return self._policy.prediction_type

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """What the base model predicts, `[B,C,H,W]`."""
        with self._off():
            return self._policy(x_t, t, condition)

    @contextmanager
    def _off(self) -> Iterator[None]:
        for layer in self._layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in self._layers:
                layer._disable_adapters = False


def adapter_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' parameters, by the names that peft and diffusers give them in files."""
    return {_name_in_file(name): weight for name, weight in network.named_parameters() if f".{_ADAPTER}." in name}


def _name_in_file(name: str) -> str:
    module, _, rest = name.rpartition(f".{_ADAPTER}.")
    return module if module.endswith("lora_magnitude_vector") else f"{module}.{rest}"


def write_adapter(folder: Path, network: nn.Module, lora: Lora, *, part: str = "unet", portable: bool = False) -> None:
    """The adapters alone, as `load_lora_weights` of diffusers reads them. `part`: what a pipeline calls this network.

    `portable` multiplies alpha/rank into B, so that the file means the same to programs that do not read its metadata; without it
    the weights are kept bit for bit.
    """
    scale = lora.strength / lora.rank if portable else 1.0
    tensors = {
        f"{part}.{name}": (weight.detach() * scale if portable and ".lora_B." in name else weight.detach()).cpu().contiguous()
        for name, weight in adapter_weights(network).items()
    }
    settings = {
        "r": lora.rank,
        "lora_alpha": lora.rank if portable else lora.strength,
        "target_modules": sorted(adapted_layers(network)),
        "use_dora": lora.dora,
    }
    metadata = {f"{part}.{key}": value for key, value in settings.items()}
    # One entry alone: safetensors writes several in an order that changes from call to call, and equal weights are to be equal files.
    save_file(tensors, folder / ADAPTER_FILE, {METADATA: json.dumps(metadata, sort_keys=True)})


def read_adapter(folder: Path, network: nn.Module, *, part: str = "unet") -> None:
    """Puts a file of `write_adapter` into the network's adapters, in place. Raises `InputError` where it is not of these adapters."""
    file = folder / ADAPTER_FILE
    tensors, own = adapter_tensors(file, part), adapter_weights(network)
    shapes, own_shapes = ({(name, tuple(tensor.shape)) for name, tensor in each.items()} for each in (tensors, own))
    if different := sorted(shapes ^ own_shapes):
        name, shape = different[0]
        raise InputError(f"{file} holds other adapters than this network's: they differ in {len(different)} weights, first {name} {shape}")
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(tensors[name])


def merge_file(folder: Path, network: nn.Module, *, part: str = "unet") -> None:
    """Makes a file of `write_adapter` part of the network's weights, in place. Raises `InputError` where it does not fit the network."""
    attach(network, adapter_settings(folder / ADAPTER_FILE, part), seed=0)
    read_adapter(folder, network, part=part)
    merge(network)


def adapter_part(file: Path) -> str:
    """Which component of a pipeline the adapters in a file are on, `unet` or `transformer`: their names begin with it."""
    try:
        with safe_open(file, framework="pt") as opened:
            return str(min(opened.keys())).partition(".")[0]
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file} is no complete safetensors file ({error})") from error


def adapter_settings(file: Path, part: str = "unet") -> Lora:
    """What the file's metadata says about its adapters."""
    try:
        with safe_open(file, framework="pt") as opened:
            found = {key.removeprefix(f"{part}."): value for key, value in json.loads(opened.metadata()[METADATA]).items()}
        return Lora(found["r"], found["lora_alpha"], tuple(found["target_modules"]), found["use_dora"])
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is no complete safetensors file ({error})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} does not say how its adapters were made: its metadata has no usable {METADATA} ({error!r})") from error


def adapter_tensors(file: Path, part: str = "unet") -> Mapping[str, Tensor]:
    """The file's tensors, by their names in the network."""
    try:
        return {name.removeprefix(f"{part}."): tensor for name, tensor in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is no complete safetensors file ({error})") from error


def merge(network: nn.Module) -> None:
    """Makes the adapters part of the weights they were put on, and takes them off, in place: a network as `attach` found one, trainable.

    The weights should be fp32.
    """
    for name, layer in adapted_layers(network).items():
        layer.merge()
        network.set_submodule(name, layer.get_base_layer())
    del network.peft_config
    network.requires_grad_(True)
