"""Which layers of a network get adapters: by a preset, by name, or by a regular expression."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from inpo.errors import InputError, nearest

ADAPTABLE = (nn.Linear, nn.Conv2d)
PRESETS = ("attention", "all-linear", "conv")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The attention projections, as diffusers' own LoRA programs have them."""
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""The same where text and picture attend to each other in one layer, each by projections of its own (MMDiT, arXiv:2403.03206)."""


def target_layers(network: nn.Module, targets: Sequence[str], attention: Sequence[str] = ATTENTION) -> list[str]:
    """Full names, sorted, of the linear and convolution layers that `targets` name.

    A target is a preset (`attention`: the layers whose names end in `attention`; `all-linear`; `conv`), a name or its last parts
    (`to_q`, `attn2.to_k`), or a regular expression over whole names. Raises `InputError` for one that matches nothing, with the
    nearest name.
    """
    modules = dict(network.named_modules())
    layers = {name: module for name, module in modules.items() if isinstance(module, ADAPTABLE)}
    chosen: set[str] = set()
    for target in targets:
        found = {name for each in (attention if target == "attention" else (target,)) for name in _matching(each, layers)}
        if not found:
            raise InputError(_no_match(target, modules, layers))
        chosen |= found
    return sorted(chosen)


def _matching(target: str, layers: Mapping[str, nn.Module]) -> Iterable[str]:
    if target == "all-linear":
        return [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    if target == "conv":
        return [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)]
    return _named(target, layers) or _described(target, layers)


def _named(target: str, modules: Iterable[str]) -> list[str]:
    return [name for name in modules if name == target or name.endswith(f".{target}")]


def _described(target: str, names: Iterable[str]) -> list[str]:
    try:
        pattern = re.compile(target)
    except re.error:
        return []
    return [name for name in names if pattern.fullmatch(name)]


def _no_match(target: str, modules: Mapping[str, nn.Module], layers: Mapping[str, nn.Module]) -> str:
    others = _named(target, modules)
    if others:
        return (
            f"lora.targets: {target!r} is a {type(modules[others[0]]).__name__} ({others[0]}); adapters go on linear and convolution layers"
        )
    names = {_tail(name, target.count(".")) for name in layers}
    parts = [part.strip() for part in target.split(",")]
    hint = f" (several are a list: [{', '.join(parts)}])" if len(parts) > 1 else nearest(target, [*PRESETS, *sorted(names)])
    return (
        f"lora.targets: {target!r} matches no layer of this network{hint}; give a preset ({', '.join(PRESETS)}), the last parts of a name "
        "such as 'to_q', or a regular expression over whole names"
    )


def _tail(name: str, dots: int) -> str:
    """As many last parts of a name as the target has, and one more where the last is a number: `to_out.0`, not `0`."""
    parts = name.split(".")
    return ".".join(parts[-1 - max(dots, parts[-1].isdigit()) :])
