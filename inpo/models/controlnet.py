"""A ControlNet (arXiv:2302.05543) beside a UNet: it reads a picture, edges or depth say, and adds to the UNet's inner layers.

It was trained beside the base model, and its residuals suit the aligned UNet as well: aligning moves the weights little.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.models.denoiser import NetworkDenoiser
from inpo.models.families import Component
from inpo.models.folders import component_folder, read_json
from inpo.models.model import Model
from inpo.models.modules import load_module
from inpo.models.stable_diffusion import StableDiffusionDenoiser

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

CONTROLNET = Component("controlnet", "diffusers", "ControlNetModel")
_SHARED = ("addition_embed_type", "cross_attention_dim", "block_out_channels", "layers_per_block", "in_channels")
"""What a ControlNet and its UNet must have in common, the family first."""


def load_controlnet(path: str, model: Model, key: str) -> ControlNetModel:
    """The ControlNet in a folder or of a hub id, fp32, on the model's device.

    Raises `InputError` that names `key` where it is none, or belongs beside another kind of UNet.
    """
    folder = component_folder(path, CONTROLNET.name, key)
    _require_kind(folder, path, model, key)
    network = cast("ControlNetModel", load_module(CONTROLNET, folder)).eval().requires_grad_(False)
    _require_fit(network, path, model, key)
    return network.to(model.device)


def _require_kind(folder: Path, path: str, model: Model, key: str) -> None:
    if not isinstance(model.policy, StableDiffusionDenoiser):
        raise InputError(f"{key}={path!r}: a {CONTROLNET.class_name} goes beside a UNet, and {model.family.title} has none: leave it out")
    found = read_json(folder / "config.json")
    if found.get("_class_name") != CONTROLNET.class_name:
        raise InputError(f"{key}={path!r} is a {found.get('_class_name')}; a {CONTROLNET.class_name} is expected")
    if found.get("global_pool_conditions"):
        raise InputError(f"{key}={path!r} averages its residuals over the picture (global_pool_conditions), which is not supported")


def _require_fit(network: ControlNetModel, path: str, model: Model, key: str) -> None:
    """Against the complete configuration: a file may leave out what is a default."""
    for name in _SHARED:
        ours, theirs = (_plain(config.get(name)) for config in (network.config, model.policy.settings))
        if ours != theirs:
            raise InputError(
                f"{key}={path!r} belongs beside another kind of model: {name} is {ours} in it and {theirs} in the UNet of this "
                f"{model.family.title}; give one that was trained for this base"
            )
    shrinks = 1 << (len(network.config.conditioning_embedding_out_channels) - 1)
    if shrinks != model.encoder.scale:
        raise InputError(
            f"{key}={path!r} makes pictures {shrinks} times smaller, and this model's VAE {model.encoder.scale} times: they do not fit"
        )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


class ControlledUNet(nn.Module):
    """The UNet, called as ever, with what the ControlNet makes of the same inputs and of `pictures` added.

    `pictures`: `[B,3,H,W]` in [0, 1], of latents `[B,…]`; or of `[2B,…]`, where guidance asks for both halves at once. `scale`
    multiplies the residuals.
    """

    def __init__(self, unet: UNet2DConditionModel, controlnet: nn.Module, pictures: Tensor, scale: float) -> None:
        super().__init__()
        self.unet, self.controlnet, self.pictures, self.scale = unet, controlnet, pictures, scale

    @property
    def config(self) -> Any:
        """The UNet's."""
        return self.unet.config

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's."""
        return cast(torch.dtype, self.unet.dtype)

    def forward(
        self, sample: Tensor, timestep: Tensor, *, encoder_hidden_states: Tensor, added_cond_kwargs: dict[str, Tensor] | None,
        return_dict: bool,
    ) -> Any:  # fmt: skip
        """As `UNet2DConditionModel`'s."""
        inputs = {"encoder_hidden_states": encoder_hidden_states, "added_cond_kwargs": added_cond_kwargs, "return_dict": return_dict}
        pictures = self.pictures.to(sample).repeat(len(sample) // len(self.pictures), 1, 1, 1)
        down, mid = self.controlnet(sample, timestep, controlnet_cond=pictures, conditioning_scale=self.scale, **inputs)
        return self.unet(sample, timestep, down_block_additional_residuals=down, mid_block_additional_residual=mid, **inputs)


def controlled(policy: NetworkDenoiser, network: nn.Module, pictures: Tensor, scale: float) -> StableDiffusionDenoiser:
    """A denoiser whose UNet is steered; the policy's own is not changed. `pictures`, `scale`: as `ControlledUNet`."""
    both = ControlledUNet(cast("UNet2DConditionModel", policy.network), network, pictures, scale)
    steered = StableDiffusionDenoiser(
        both, policy.schedule, policy.prediction_type, pixels_per_latent=policy.pixels_per_latent, dtype=policy.compute_dtype
    )
    return steered.train(policy.training)
