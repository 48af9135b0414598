"""Writes a tiny diffusers folder as the single-file checkpoint that it would have come from: the reverse of what is read."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
OPEN_CLIP = {
    "encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj", "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final",
}  # fmt: skip


def place_of(name: str) -> str:
    """Where a block of the tiny UNet (two levels, one layer each) stands in the other layout's count."""
    down = re.match(r"down_blocks\.(\d)\.(resnets|attentions|downsamplers)\.0\.", name)
    up = re.match(r"up_blocks\.(\d)\.(resnets|attentions|upsamplers)\.(\d)\.", name)
    mid = re.match(r"mid_block\.(resnets|attentions)\.(\d)\.", name)
    if down:
        number = 1 + 2 * int(down[1]) + (down[2] == "downsamplers")
        return f"input_blocks.{number}.{int(down[2] == 'attentions')}." + ("op." if down[2] == "downsamplers" else "")
    if up:
        # The upsampler stands behind the last layer of its level, after the attention if there is one: here there is none.
        number = 2 * int(up[1]) + (1 if up[2] == "upsamplers" else int(up[3]))
        return f"output_blocks.{number}.{int(up[2] != 'resnets')}."
    assert mid, name
    return f"middle_block.{1 if mid[1] == 'attentions' else 2 * int(mid[2])}."


def unet_name(name: str) -> str:
    for ours, theirs in UNET.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    rest = re.sub(r"^(down|up)_blocks\.\d\.\w+\.\d\.|^mid_block\.\w+\.\d\.", "", name)
    if "samplers" in name and name.startswith("down"):
        rest = rest.removeprefix("conv.")
    if "resnets" in name:
        kind, _, end = rest.rpartition(".")
        rest = f"{RESNET[kind]}.{end}"
    return place_of(name) + rest


def vae_name(name: str, levels: int = 2) -> str:
    name = (
        name.replace("mid_block.resnets.0", "mid.block_1")
        .replace("mid_block.resnets.1", "mid.block_2")
        .replace("conv_norm_out", "norm_out")
    )
    name = name.replace("conv_shortcut", "nin_shortcut").replace("downsamplers.0.conv", "downsample.conv")
    name = name.replace("upsamplers.0.conv", "upsample.conv").replace("resnets", "block").replace("down_blocks", "down")
    return re.sub(r"up_blocks\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}", name)


def open_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value in one matrix, the projection transposed."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        short = name.removeprefix("text_model.")
        if ".q_proj." in short:
            three = [weights[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            out[short.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat(three)
        elif name == "text_projection.weight":
            out["text_projection"] = tensor.T.contiguous()
        elif not re.search(r"\.[kv]_proj\.", short):
            out[short] = tensor
    for ours, theirs in OPEN_CLIP.items():
        out = {name.replace(ours, theirs): tensor for name, tensor in out.items()}
    return out


def clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of transformers 4, with the buffer that old files hold."""
    named = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in weights.items()}
    return {**named, "text_model.embeddings.position_ids": torch.arange(24)[None]}


def write_single_file(folder: Path, file: Path, **extra: Tensor) -> Path:
    """All weights of a tiny SD or SDXL folder in one file."""
    unet, vae = (load_file(folder / part / "diffusion_pytorch_model.safetensors") for part in ("unet", "vae"))
    tensors = {f"model.diffusion_model.{unet_name(name)}": tensor for name, tensor in unet.items()}
    tensors |= {f"first_stage_model.{vae_name(name)}": tensor for name, tensor in vae.items()}
    first = clip(load_file(folder / "text_encoder" / "model.safetensors"))
    if (folder / "text_encoder_2").is_dir():
        second = open_clip(load_file(folder / "text_encoder_2" / "model.safetensors"))
        tensors |= {f"conditioner.embedders.0.transformer.{name}": tensor for name, tensor in first.items()}
        tensors |= {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in second.items()}
    else:
        tensors |= {f"cond_stage_model.transformer.{name}": tensor for name, tensor in first.items()}
    save_file({**tensors, **extra}, file)
    return file
