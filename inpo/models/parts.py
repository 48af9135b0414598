"""Where a pipeline's components lie, and everything that can be refused before a weight is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inpo.errors import InputError
from inpo.models.base import BASE_FILE, RECORDED_PLACES, AdapterFolder, find_adapters
from inpo.models.config import ModelConfig
from inpo.models.families import FAMILIES, SCHEDULER, UNET, UNSUPPORTED, VAE, Component, Family, family_of
from inpo.models.folders import INDEX, READING, component_folder, pipeline_folder, read_json, weights_variant
from inpo.models.prompts import Reading
from inpo.models.single_file import unpack
from inpo.schedule import Prediction, VPSchedule, vp_from_config


@dataclass(frozen=True)
class Parts:
    """Where a pipeline's components lie and what they say about themselves.

    `adapters`: folders of adapters that belong to the UNet's weights, in the order in which they are merged.
    """

    folder: Path
    family: Family
    unet: Path
    vae: Path
    scheduler_config: Mapping[str, object]
    schedule: VPSchedule
    prediction: Prediction
    reading: Reading
    zero_empty: bool
    adapters: tuple[Path, ...] = ()

    def place(self, component: Component) -> Path:
        """The component's folder."""
        return {UNET: self.unet, VAE: self.vae}.get(component, self.folder / component.name)


def examine(config: ModelConfig) -> Parts:
    """Everything that `load` can refuse without reading weights. Raises `InputError` as `load` does."""
    adapters = find_adapters(config)
    return _examine(config) if adapters is None else _examine_base(adapters, config)


def _examine_base(adapters: AdapterFolder, config: ModelConfig) -> Parts:
    try:
        parts = examine(adapters.base)
    except InputError as error:
        said = str(error)
        for key in RECORDED_PLACES:
            # What stands in the file must not be said of the option that the user typed.
            said = said.replace(f"model.{key}=", f"{key}=") if key == "path" or getattr(config, key) is None else said
        raise InputError(
            f"model.path={config.path!r} holds adapters, and the base that {adapters.folder / BASE_FILE} names cannot be used: {said}"
        ) from error
    return dataclasses.replace(parts, adapters=(*parts.adapters, adapters.folder))


def _examine(config: ModelConfig) -> Parts:
    folder = _opened(config)
    family = _family(config, folder)
    unet_folder = component_folder(config.unet, UNET.name, "model.unet") if config.unet else folder / UNET.name
    vae_folder = component_folder(config.vae, VAE.name, "model.vae") if config.vae else folder / VAE.name
    _check_fit(unet_folder, vae_folder, folder, family)
    for part in (unet_folder, vae_folder):
        weights_variant(part, UNET.weights)
    scheduler_config = read_json(folder / SCHEDULER.name / "scheduler_config.json")
    schedule, prediction = _schedule(scheduler_config, folder / SCHEDULER.name, asserted=config.prediction)
    zero_empty = bool(read_json(folder / INDEX).get("force_zeros_for_empty_prompt", family.zero_empty))
    reading = _reading(config, folder, family)
    return Parts(folder, family, unet_folder, vae_folder, scheduler_config, schedule, prediction, reading, zero_empty)


def _opened(config: ModelConfig) -> Path:
    file = Path(config.path).expanduser()
    if file.is_file():
        return unpack(file, config.config)
    if config.config is not None:
        raise InputError(f"model.config={config.config!r} goes with a single-file checkpoint, and model.path={config.path!r} is none")
    return pipeline_folder(config.path)


def _family(config: ModelConfig, folder: Path) -> Family:
    """The family that model_index.json names, once every component is there in a class that this family has."""
    index = read_json(folder / INDEX)
    name = str(index.get("_class_name"))
    named = family_of(name)
    family = FAMILIES[config.family] if config.family else named
    if named and family is not named:
        raise InputError(
            f"model.family={config.family!r}, but model.path={config.path!r} is a pipeline of {named.title} ({name}): "
            f"use a recipe for {named.name}, or set model.family={named.name}"
        )
    if family is None:
        known = f"{UNSUPPORTED[name]} ({name})" if name in UNSUPPORTED else name
        supported = ", ".join(each.pipeline for each in FAMILIES.values())
        raise InputError(
            f"model.path={config.path!r} is a pipeline of {known}, which is not supported yet; supported: {supported}. "
            f"A pipeline class of your own with the components of one of them loads with model.family={' or '.join(FAMILIES)}"
        )
    replaced = {UNET: config.unet, VAE: config.vae}
    for component in family.components:
        if not replaced.get(component):
            _check_component(folder, component, index.get(component.name), family)
    return family


def _check_component(folder: Path, component: Component, entry: object, family: Family) -> None:
    part, expected = component.name, component.kind
    found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if found is None:
        raise InputError(f"{folder / INDEX} names no {part}: the pipeline is incomplete (expected a {expected})")
    if not (folder / part).is_dir():
        raise InputError(f"{folder} has no {part}/ folder, though its {INDEX} names a {found}; copy or download it again")
    # Tokenizers have fast variants and schedulers many names; a text encoder is what it says it is.
    if found != expected and (component in family.text_encoders or expected not in str(found)):
        raise InputError(f"{folder / part} is a {found}; {family.title}'s {part} must be a {expected}")


def _check_fit(unet_folder: Path, vae_folder: Path, folder: Path, family: Family) -> None:
    """Compares the shapes that configurations promise, before gigabytes are read."""
    unet, vae = (read_json(part / "config.json") for part in (unet_folder, vae_folder))
    for part, config, component in ((unet_folder, unet, UNET), (vae_folder, vae, VAE)):
        if config.get("_class_name", component.kind) != component.kind:
            raise InputError(f"{part} is a {config['_class_name']}; a {component.kind} is expected (model.{component.name})")
    if unet.get("addition_embed_type") != family.added:
        owner = next((each.title for each in FAMILIES.values() if each.added == unet.get("addition_embed_type")), "another family")
        raise InputError(
            f"{unet_folder} is the UNet of {owner} (addition_embed_type={unet.get('addition_embed_type')!r}), "
            f"but {folder} is a pipeline of {family.title}"
        )
    channels = vae.get("latent_channels", 4)
    for key in ("in_channels", "out_channels"):
        if unet.get(key, 4) != channels:
            raise InputError(f"{unet_folder}: {key}={unet.get(key, 4)}, but the VAE in {vae_folder} makes latents of {channels} channels")
    _check_width(unet, unet_folder, [folder / tower.name for tower in family.text_encoders])
    if family.added:
        _check_added(unet, unet_folder, folder / family.text_encoders[-1].name)


def _check_width(unet: Mapping[str, object], unet_folder: Path, towers: list[Path]) -> None:
    widths = [read_json(tower / "config.json").get("hidden_size") for tower in towers]
    if unet.get("cross_attention_dim") != sum(width for width in widths if isinstance(width, int)):
        made = " + ".join(map(str, widths))
        raise InputError(
            f"{unet_folder}: cross_attention_dim={unet.get('cross_attention_dim')}, but the text encoders in {', '.join(map(str, towers))} "
            f"make embeddings of hidden_size={made}: the UNet belongs to another base model"
        )


def _check_added(unet: Mapping[str, object], unet_folder: Path, tower: Path) -> None:
    """Six sizes and the pooled embedding: SDXL's refiner, with five, is another network."""
    per_size, total = unet.get("addition_time_embed_dim"), unet.get("projection_class_embeddings_input_dim")
    pooled = read_json(tower / "config.json").get("projection_dim")
    if not (isinstance(per_size, int) and isinstance(pooled, int) and total == 6 * per_size + pooled):
        raise InputError(
            f"{unet_folder}: projection_class_embeddings_input_dim={total!r} is not 6 · addition_time_embed_dim={per_size!r} + "
            f"projection_dim={pooled!r} of {tower}: the UNet belongs to another base model (SDXL's refiner is not supported)"
        )


def _reading(config: ModelConfig, folder: Path, family: Family) -> Reading:
    """What the configuration says, else what the model was trained with, else the pipeline's own."""
    kept = read_json(folder / READING) if (folder / READING).is_file() else {}
    chunks, skip = (
        kept.get(key, default) if asked is None else asked
        for key, asked, default in (("prompt_chunks", config.prompt_chunks, 1), ("clip_skip", config.clip_skip, 0))
    )
    if not (isinstance(chunks, int) and isinstance(skip, int) and chunks >= 1 and skip >= 0):
        raise InputError(f"{folder / READING}: prompt_chunks={chunks!r} and clip_skip={skip!r} must be whole numbers from 1 and 0 up")
    for tower in family.text_encoders:
        layers = read_json(folder / tower.name / "config.json").get("num_hidden_layers")
        if isinstance(layers, int) and skip + family.layer > layers:
            raise InputError(f"model.clip_skip={skip} leaves nothing of {folder / tower.name}, which has {layers} layers")
    return Reading(chunks, skip)


def _schedule(config: Mapping[str, object], folder: Path, *, asserted: str | None) -> tuple[VPSchedule, Prediction]:
    file = folder / "scheduler_config.json"
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise InputError(f"{file}: prediction_type={prediction!r} is not supported; expected epsilon or v_prediction")
    if asserted not in (None, prediction):
        raise InputError(
            f"model.prediction={asserted!r}, but {file} says prediction_type={prediction!r}: use a recipe for such a model, "
            "or mend that file if the network was trained otherwise (results are saved with it)"
        )
    try:
        schedule = vp_from_config(config)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error
    if prediction == "epsilon" and not bool(schedule.alphas_cumprod.all()):
        cause = "rescale_betas_zero_snr" if config.get("rescale_betas_zero_snr") else "a beta of 1"
        raise InputError(f"{file}: {cause} needs prediction_type v_prediction: at α_T = 0 an ε says nothing about x_0")
    return schedule, prediction
