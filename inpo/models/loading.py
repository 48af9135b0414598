"""A pipeline folder to a `Model`: components in fp32, with every weight they need."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from inpo.errors import InputError
from inpo.models.adapted import AdaptedModel
from inpo.models.config import Lora, ModelConfig
from inpo.models.encoder import StableDiffusionEncoder
from inpo.models.families import UNET, VAE, Component
from inpo.models.folders import weights_variant
from inpo.models.lora import attach, merge_file
from inpo.models.model import Model
from inpo.models.parts import Parts, examine
from inpo.models.prompts import TextTower
from inpo.models.stable_diffusion import HALF, StableDiffusionDenoiser

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(config: ModelConfig, device: torch.device | str = "cpu", *, lora: Lora | None = None, seed: int = 0) -> Model:
    """Loads the model that `config` describes, fp32 whatever its files hold; with `lora` set, frozen under adapters drawn from `seed`.

    Under adapters the UNet's matrices and kernels are kept in the dtype that it computes in, which saves half and changes no number.

    Raises `InputError` naming the folder or the key for a family that is not supported, a component that is absent, damaged
    or does not fit the others, and weights that exist as pickles only.
    """
    parts = examine(config)
    unet = load_unet(parts)
    if lora:
        attach(unet, lora, seed=seed, attention=parts.family.lora_targets, stored=HALF.get(config.dtype, torch.float32))
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    vae = cast("AutoencoderKL", _load_module(VAE, parts.vae).to(device))
    encoder = StableDiffusionEncoder(vae, _load_towers(parts, device), parts.family, reading=parts.reading, zero_empty=parts.zero_empty)
    policy = StableDiffusionDenoiser(unet, parts.schedule, parts.prediction, pixels_per_latent=encoder.scale, dtype=config.dtype)
    whole = Model(policy.to(device), encoder, parts.family, parts.folder, parts.scheduler_config)
    return AdaptedModel.of(whole, lora, base=config, read_base=functools.partial(load_unet, parts)) if lora else whole


def load_unet(parts: Parts) -> UNet2DConditionModel:
    """The UNet, with the adapters merged that belong to it."""
    unet = _load_module(UNET, parts.unet)
    for folder in parts.adapters:
        merge_file(folder, unet)
    return cast("UNet2DConditionModel", unet)


def _load_towers(parts: Parts, device: torch.device | str) -> tuple[TextTower, ...]:
    pairs = zip(parts.family.text_encoders, parts.family.tokenizers, strict=True)
    return tuple(
        TextTower(cast("PreTrainedModel", _load_module(text, parts.place(text)).to(device)), _load_tokenizer(parts.place(words)))
        for text, words in pairs
    )


def _load_module(component: Component, folder: Path) -> nn.Module:
    """A component in fp32, complete: a weight that the files lack would otherwise be random without a word."""
    import diffusers
    import transformers

    library = transformers if component.library == "transformers" else diffusers
    variant = weights_variant(folder, component.weights)
    maker = getattr(library, component.kind)
    try:
        with _quiet():
            module, found = maker.from_pretrained(
                folder, use_safetensors=True, variant=variant, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{folder} cannot be loaded as a {component.kind}: {_in_one_line(error)}") from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of its {component.kind}'s weights, the first is {missing[0]!r}; copy or download it again"
        )
    return cast(nn.Module, module.float())


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars for files read in a second, and no warnings about what this module reports as errors."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    both = (of_diffusers, of_transformers)
    before = [library.get_verbosity() for library in both]
    bars = of_transformers.is_progress_bar_enabled()
    for library in both:
        library.set_verbosity_error()
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity in zip(both, before, strict=True):
            library.set_verbosity(verbosity)
        if bars:
            of_transformers.enable_progress_bar()


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import CLIPTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise InputError(f"{folder} holds neither tokenizer.json nor vocab.json and merges.txt; copy or download it again")
    try:
        return cast("PreTrainedTokenizerBase", CLIPTokenizer.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder} cannot be loaded as a CLIPTokenizer: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
