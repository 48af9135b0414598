"""A pipeline folder to a `Model` and back: family, components that fit together, weights that are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from inpo.errors import InputError
from inpo.models.config import FAMILIES, ModelConfig
from inpo.models.folders import INDEX, component_folder, pipeline_folder, read_json, weights_variant
from inpo.models.saving import read_weights, replace_folder, write_network, write_pipeline
from inpo.models.stable_diffusion import StableDiffusionDenoiser, StableDiffusionEncoder
from inpo.schedule import Prediction, VPSchedule, vp_from_config

if TYPE_CHECKING:
    from transformers import CLIPTextModel, PreTrainedTokenizerBase

PIPELINES = {"StableDiffusionPipeline": "sd"}
UNSUPPORTED = {
    "StableDiffusionXLPipeline": "SDXL",
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "FluxPipeline": "FLUX",
    "PixArtAlphaPipeline": "PixArt-α",
    "PixArtSigmaPipeline": "PixArt-Σ",
    "SanaPipeline": "Sana",
}
COMPONENTS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "scheduler": "Scheduler",
}
_DIFFUSERS_STEM = "diffusion_pytorch_model"


@dataclass(frozen=True)
class Model:
    """A loaded pipeline: the `policy` that is trained, and the frozen `encoder` between it and pictures and prompts.

    `source` is the pipeline folder that everything but the UNet is saved from again.
    """

    policy: StableDiffusionDenoiser
    encoder: StableDiffusionEncoder
    family: str
    source: Path
    scheduler_config: Mapping[str, object]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.encoder.device

    @property
    def default_resolution(self) -> int:
        """The side in pixels that the UNet was made for."""
        size = self.policy.unet.config.sample_size
        return int(size if isinstance(size, int) else size[0]) * self.encoder.scale

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        """(C, H, W) of a square picture's latents. Raises `InputError` where the VAE cannot halve the side often enough."""
        pixels = self.default_resolution if resolution is None else resolution
        side, rest = divmod(pixels, self.encoder.scale)
        if rest or side < 1:
            raise InputError(f"resolution {pixels} is not a positive multiple of {self.encoder.scale}, by which this VAE shrinks pictures")
        return int(self.policy.unet.config.in_channels), side, side

    def fingerprint(self) -> str:
        """32 hex digits that change whenever a weight, the schedule or the precision does."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([dict(self.scheduler_config), self.policy.compute_dtype], sort_keys=True, default=str).encode())
        for module in (self.policy.unet, self.encoder.vae, self.encoder.text_encoder):
            for name, tensor in module.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def save_pipeline(self, folder: Path, unet: nn.Module | None = None) -> None:
        """A folder that `StableDiffusionPipeline.from_pretrained` loads without this package; `unet` None saves the policy's.

        Complete or absent: it is written beside `folder` and renamed. Raises `InputError` where `folder` holds anything but a
        pipeline.
        """
        with replace_folder(folder, INDEX) as new:
            write_pipeline(new, self.source, unet or self.policy.unet, self.encoder.vae)

    def save_unet(self, folder: Path, unet: nn.Module | None = None) -> None:
        """The UNet alone (config.json and safetensors), as `model.unet` and diffusers read it. Complete or absent."""
        with replace_folder(folder, "config.json") as new:
            write_network(new, unet or self.policy.unet)

    def save_policy(self, folder: Path) -> None:
        """The policy's weights for a checkpoint, bit for bit; the folder is also usable as `model.unet`."""
        self.save_unet(folder)

    def load_policy(self, folder: Path) -> None:
        """Puts weights of `save_policy` into the policy, in place. Raises `InputError` where they are not this network's."""
        weights_variant(folder, _DIFFUSERS_STEM)
        weights, own = read_weights(folder), self.policy.unet.state_dict()
        shapes, own_shapes = ({(name, tuple(tensor.shape)) for name, tensor in each.items()} for each in (weights, own))
        # Compared first: torch copies every tensor that fits before it complains about the ones that do not.
        if different := sorted(shapes ^ own_shapes):
            name, shape = different[0]
            raise InputError(
                f"{folder} holds another network than {self.source / 'unet'}: they differ in {len(different)} weights, first {name} {shape}"
            )
        self.policy.unet.load_state_dict(weights)


@dataclass(frozen=True)
class Parts:
    """Where a pipeline's components lie and what they say about themselves, before any weight is read."""

    folder: Path
    family: str
    unet: Path
    vae: Path
    scheduler_config: Mapping[str, object]
    schedule: VPSchedule
    prediction: Prediction

    @property
    def text_encoder(self) -> Path:
        """The text encoder's folder."""
        return self.folder / "text_encoder"


def examine(config: ModelConfig) -> Parts:
    """Everything that `load` can refuse without reading weights. Raises `InputError` as `load` does."""
    folder = pipeline_folder(config.path)
    family = _family(config, folder)
    unet_folder = component_folder(config.unet, "unet", "model.unet") if config.unet else folder / "unet"
    vae_folder = component_folder(config.vae, "vae", "model.vae") if config.vae else folder / "vae"
    _check_fit(unet_folder, vae_folder, folder / "text_encoder")
    for part in (unet_folder, vae_folder):
        weights_variant(part, _DIFFUSERS_STEM)
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    return Parts(folder, family, unet_folder, vae_folder, scheduler_config, *_schedule(scheduler_config, folder))


def load(config: ModelConfig, device: torch.device | str = "cpu") -> Model:
    """Loads the model that `config` describes, fp32 whatever its files hold.

    Raises `InputError` naming the folder or the key for a family that is not supported, a component that is absent, damaged
    or does not fit the others, and weights that exist as pickles only.
    """
    parts = examine(config)
    unet = _load_module("unet", parts.unet)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()  # type: ignore[operator]
    vae, text_encoder = _load_module("vae", parts.vae), cast("CLIPTextModel", _load_module("text_encoder", parts.text_encoder))
    policy = StableDiffusionDenoiser(unet, parts.schedule, parts.prediction, dtype=config.dtype).to(device)
    encoder = StableDiffusionEncoder(vae.to(device), text_encoder.to(device), _load_tokenizer(parts.folder / "tokenizer"))
    return Model(policy, encoder, parts.family, parts.folder, parts.scheduler_config)


def _family(config: ModelConfig, folder: Path) -> str:
    """The family that model_index.json names, once every component is there in a class that this family has."""
    index = read_json(folder / INDEX)
    name = str(index.get("_class_name"))
    family = config.family or PIPELINES.get(name)
    if family is None:
        known = f"{UNSUPPORTED[name]} ({name})" if name in UNSUPPORTED else name
        raise InputError(
            f"model.path={config.path!r} is a pipeline of {known}, which is not supported yet; supported: {', '.join(sorted(PIPELINES))}. "
            f"A pipeline class of your own with Stable Diffusion's components loads with model.family={FAMILIES[0]}"
        )
    replaced = {"unet": config.unet, "vae": config.vae}
    for part, expected in COMPONENTS.items():
        if not replaced.get(part):
            _check_component(folder, part, index.get(part), expected)
    return family


def _check_component(folder: Path, part: str, entry: object, expected: str) -> None:
    found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if found is None:
        raise InputError(f"{folder / INDEX} names no {part}: the pipeline is incomplete (expected a {expected})")
    if not (folder / part).is_dir():
        raise InputError(f"{folder} has no {part}/ folder, though its {INDEX} names a {found}; copy or download it again")
    if expected not in str(found):
        raise InputError(f"{folder / part} is a {found}; Stable Diffusion's {part} must be a {expected}")


def _check_fit(unet_folder: Path, vae_folder: Path, text_folder: Path) -> None:
    """Compares the shapes that configurations promise, before gigabytes are read."""
    unet, vae, text = (read_json(folder / "config.json") for folder in (unet_folder, vae_folder, text_folder))
    for folder, config, part in ((unet_folder, unet, "unet"), (vae_folder, vae, "vae")):
        if config.get("_class_name", COMPONENTS[part]) != COMPONENTS[part]:
            raise InputError(f"{folder} is a {config['_class_name']}; a {COMPONENTS[part]} is expected (model.{part})")
    if unet.get("addition_embed_type") is not None:
        raise InputError(f"{unet_folder} is SDXL's UNet (addition_embed_type={unet['addition_embed_type']!r}), which is not supported yet")
    channels = vae.get("latent_channels", 4)
    for key in ("in_channels", "out_channels"):
        if unet.get(key, 4) != channels:
            raise InputError(f"{unet_folder}: {key}={unet.get(key, 4)}, but the VAE in {vae_folder} makes latents of {channels} channels")
    if unet.get("cross_attention_dim") != text.get("hidden_size"):
        raise InputError(
            f"{unet_folder}: cross_attention_dim={unet.get('cross_attention_dim')}, but the text encoder in {text_folder} "
            f"makes embeddings of hidden_size={text.get('hidden_size')}: the UNet belongs to another base model"
        )


def _schedule(config: Mapping[str, object], folder: Path) -> tuple[VPSchedule, Prediction]:
    file = folder / "scheduler" / "scheduler_config.json"
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise InputError(f"{file}: prediction_type={prediction!r} is not supported; expected epsilon or v_prediction")
    if prediction == "epsilon" and config.get("rescale_betas_zero_snr"):
        raise InputError(f"{file}: rescale_betas_zero_snr needs prediction_type v_prediction: at α_T = 0 an ε says nothing about x_0")
    try:
        return vp_from_config(config), prediction
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error


def _load_module(part: str, folder: Path) -> nn.Module:
    """A component in fp32, complete: a weight that the files lack would otherwise be random without a word."""
    import diffusers
    import transformers

    library = transformers if part == "text_encoder" else diffusers
    variant = weights_variant(folder, "model" if part == "text_encoder" else _DIFFUSERS_STEM)
    maker = getattr(library, COMPONENTS[part])
    try:
        with _quiet():
            module, found = maker.from_pretrained(
                folder, use_safetensors=True, variant=variant, local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{folder} cannot be loaded as a {COMPONENTS[part]}: {_in_one_line(error)}") from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of its {COMPONENTS[part]}'s weights, the first is {missing[0]!r}; copy or download it again"
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
