"""A whole pipeline in one `.safetensors` file, as image programs exchange Stable Diffusion 1.x, 2.x and XL."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.models.export.original import clip_tensors, open_clip_tensors, unet_tensors, vae_tensors
from inpo.models.families import Family
from inpo.models.folders import read_json
from inpo.models.model import Model
from inpo.models.parts import Parts
from inpo.types import Dtype

DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_SD2_FEATURES = 1024
_MARKS = {"v_prediction": "v_pred", "rescale_betas_zero_snr": "ztsnr"}


def require_layout(family: Family) -> None:
    """Raises `InputError` for a family whose models are not exchanged so."""
    if not family.checkpoint_prefixes:
        raise InputError(f"format='single-file' is for Stable Diffusion 1.x, 2.x and XL, and this is {family.title}: use format=pipeline")


def needs_settings(parts: Parts) -> bool:
    """Whether diffusers, which knows such a file by the shapes of its tensors alone, would read the network's answer as something else.

    It takes all of SD2 for 2.1, which predicts v, and all of SD1.x and SDXL for ε.
    """
    is_sd2 = read_json(parts.network / "config.json").get("cross_attention_dim") == _SD2_FEATURES
    return is_sd2 or parts.prediction_type != "epsilon"


def write_checkpoint(file: Path, model: Model, dtype: Dtype) -> None:
    """UNet, VAE and text encoders of `model` in `dtype`."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().to("cpu", DTYPES[dtype]).contiguous() for name, tensor in _tensors(model).items()}
    save_file({**tensors, **_marks(model)}, file, {"format": "pt"})


def _tensors(model: Model) -> dict[str, Tensor]:
    out = {_UNET + name: tensor for name, tensor in unet_tensors(model.policy.network.state_dict()).items()}
    out |= {_VAE + name: tensor for name, tensor in vae_tensors(model.encoder.vae.state_dict()).items()}
    for network, prefix in zip(model.encoder.modules[1:], model.family.checkpoint_prefixes, strict=True):
        weights = network.state_dict()
        if _is_open_clip(network):
            out |= {f"{prefix}model.{name}": tensor for name, tensor in open_clip_tensors(weights).items()}
        else:
            out |= {f"{prefix}transformer.{name}": tensor for name, tensor in clip_tensors(weights).items()}
    return out


def _is_open_clip(network: nn.Module) -> bool:
    """SD2's tower and SDXL's second one are OpenCLIP's, with an exact GELU; SD1's and SDXL's first are OpenAI's, with an approximation."""
    return hasattr(network, "text_projection") or getattr(network.config, "hidden_act", None) == "gelu"


def _marks(model: Model) -> dict[str, Tensor]:
    """SDXL files say by empty tensors of these names that the network predicts v, and that its last step is pure noise."""
    if model.family.addition_embed_type is None:
        return {}
    said = {str(model.scheduler_config.get("prediction_type"))}
    said |= {key for key in _MARKS if model.scheduler_config.get(key) is True}
    return {mark: torch.zeros(0) for key, mark in _MARKS.items() if key in said}
