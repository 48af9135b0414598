"""From diffusers' names of tensors to those of the programs of Stable Diffusion's authors, in which one-file checkpoints are written.

Their UNet counts its blocks through (`input_blocks.4`) where diffusers counts levels and layers (`down_blocks.1`, layer 0); an OpenCLIP
text encoder holds query, key and value in one matrix. `inpo.models.single_file` reads what these rules write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from inpo.errors import InputError

_UNET_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_BLOCK = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE = (
    (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
)
_VAE_UP = re.compile(r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)")
_OPEN_CLIP = (
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.", ".attn."),
)
_QUERY = re.compile(r"(.*\.self_attn\.)q_proj(\.weight|\.bias)")


@dataclass(frozen=True)
class UNetNames:
    """Which of its numbered blocks each layer of a UNet is, counted from the names of all its tensors."""

    downs: tuple[int, ...]
    ups: tuple[int, ...]
    attentive: frozenset[int]

    @classmethod
    def of(cls, names: Iterable[str]) -> UNetNames:
        """`downs`, `ups`: layers a level. `attentive`: levels on the way up that have attention."""
        found = [match.groups() for match in map(_UNET_BLOCK.fullmatch, names) if match]
        layers = {
            side: {int(level): 0 for where, level, *_ in found if where == side} for side in ("down", "up")
        }  # fmt: skip
        for where, level, kind, layer, _ in found:
            if where and kind == "resnets":
                layers[where][int(level)] = max(layers[where][int(level)], int(layer) + 1)
        downs, ups = (tuple(layers[side][level] for level in sorted(layers[side])) for side in ("down", "up"))
        return cls(downs, ups, frozenset(int(level) for where, level, kind, *_ in found if where == "up" and kind == "attentions"))

    def original(self, name: str) -> str:
        """The original name of a tensor. Raises `InputError` for one that has none."""
        for ours, theirs in _UNET_OUTSIDE.items():
            if name.startswith(f"{ours}."):
                return theirs + name.removeprefix(ours)
        found = _UNET_BLOCK.fullmatch(name)
        if not found:
            raise InputError(f"the UNet's {name!r} has no name in the layout of Stable Diffusion 1.x, 2.x and XL: it is another network")
        side, level, kind, layer, rest = found.groups()
        place = self._middle(kind, int(layer)) if side is None else self._place(side, int(level), kind, int(layer))
        if kind == "resnets":
            part, _, end = rest.partition(".")
            return f"{place}.{_RESNET[part]}.{end}"
        return f"{place}.{rest.removeprefix('conv.')}" if kind == "downsamplers" else f"{place}.{rest}"

    def original_layer(self, name: str) -> str:
        """The original name of a layer, as `original`."""
        return self.original(f"{name}.weight").removesuffix(".weight")

    @staticmethod
    def _middle(kind: str, layer: int) -> str:
        return "middle_block.1" if kind == "attentions" else f"middle_block.{2 * layer}"

    def _place(self, side: str, level: int, kind: str, layer: int) -> str:
        if side == "down":
            # Block 0 is conv_in, and each level ends with a block of its own that halves the picture.
            first = 1 + sum(self.downs[:level]) + level
            if kind == "downsamplers":
                return f"input_blocks.{first + self.downs[level]}.0.op"
            return f"input_blocks.{first + layer}.{int(kind == 'attentions')}"
        first = sum(self.ups[:level])
        if kind == "upsamplers":
            return f"output_blocks.{first + self.ups[level] - 1}.{1 + (level in self.attentive)}"
        return f"output_blocks.{first + layer}.{int(kind == 'attentions')}"


def unet_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UNet's tensors under their original names."""
    names = UNetNames.of(weights)
    return {names.original(name): tensor for name, tensor in weights.items()}


def vae_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A VAE's tensors under their original names, levels on the way up counted from the picture's end; its attention in 1×1 kernels."""
    levels = 1 + max(int(found[1]) for found in map(_VAE_UP.search, weights) if found)

    def up(found: re.Match[str]) -> str:
        return f"up.{levels - 1 - int(found[1])}.{'block' if found[2] == 'resnets' else 'upsample'}"

    def named(name: str) -> str:
        return _renamed(_VAE_UP.sub(up, name), _VAE)

    return {
        named(name): tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor
        for name, tensor in weights.items()
    }  # fmt: skip


def clip_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's tensors under the names that transformers 4 gave them."""
    return {name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": each for name, each in weights.items()}


def open_clip_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same as OpenCLIP has them: query, key and value are one matrix, and the projection is transposed."""
    named, out = clip_tensors(weights), {}
    for name, tensor in named.items():
        if query := _QUERY.fullmatch(name):
            three = [named[f"{query[1]}{letter}_proj{query[2]}"] for letter in "qkv"]
            out[_renamed(query[1], _OPEN_CLIP) + f"in_proj_{query[2].removeprefix('.')}"] = torch.cat(three)
        elif name == "text_projection.weight":
            out["text_projection"] = tensor.T
        elif not re.search(r"\.[kv]_proj\.", name):
            out[_renamed(name, _OPEN_CLIP)] = tensor
    return out


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for ours, theirs in rules:
        name = re.sub(ours, theirs, name)
    return name
