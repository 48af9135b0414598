"""Where a pipeline's components lie, and everything that can be refused before a weight is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inpo.errors import InputError
from inpo.models.base import BASE_FILE, RECORDED_PLACES, AdapterFolder, find_adapters
from inpo.models.config import ModelConfig
from inpo.models.families import FAMILIES, SCHEDULER, UNSUPPORTED, VAE, Component, Family, family_of
from inpo.models.fit import check_fit
from inpo.models.folders import (
    INDEX,
    READING,
    component_folder,
    pipeline_folder,
    read_json,
    weights_variant,
)
from inpo.models.hub import is_hub_id, settings_folder
from inpo.models.prompts import Reading
from inpo.models.schedules import read_schedule
from inpo.models.sides import check_side
from inpo.models.single_file import unpack
from inpo.schedule import PredictionType, Schedule


@dataclass(frozen=True)
class Parts:
    """Where a pipeline's components lie and what they say about themselves.

    `adapters`: folders of adapters that belong to the network's weights, in the order in which they are merged. `absent`: names of the
    text encoders that the pipeline has none of.
    """

    folder: Path
    family: Family
    network: Path
    vae: Path
    scheduler_config: Mapping[str, object]
    schedule: Schedule
    prediction_type: PredictionType
    reading: Reading
    zero_empty: bool
    absent: frozenset[str] = frozenset()
    adapters: tuple[Path, ...] = ()

    def place(self, component: Component) -> Path:
        """The component's folder."""
        return {self.family.network: self.network, VAE: self.vae}.get(component, self.folder / component.name)

    def require_side(self, pixels: int) -> None:
        """Raises `InputError` for a picture's side that the VAE and the network cannot have."""
        blocks = read_json(self.vae / "config.json").get("block_out_channels", [0])
        scale = 1 << (len(blocks) - 1 if isinstance(blocks, list) else 0)
        check_side(pixels, read_json(self.network / "config.json"), pixels_per_latent=scale)


def examine(config: ModelConfig) -> Parts:
    """Everything that `load` can refuse without reading weights. Raises `InputError` as `load` does."""
    adapters = find_adapters(config)
    return _examine(config) if adapters is None else _examine_base(adapters, config)


@dataclass(frozen=True)
class Outline:
    """What a model is and which adapters belong to it: of a base on the hub its settings are read, and no weights. As in `Parts`."""

    config: ModelConfig
    folder: Path
    family: Family
    absent: frozenset[str]
    adapters: tuple[Path, ...] = ()

    @property
    def network(self) -> Path:
        """The network's folder; one of the hub that replaces the pipeline's own is fetched with its weights."""
        return _network(self.config, self.folder, self.family)


def outline(config: ModelConfig) -> Outline:
    """Raises `InputError` as `load` does for a folder that is not there and a family that is not supported."""
    adapters = find_adapters(config)
    if adapters is not None:
        with _said_of_base(adapters, config):
            base = outline(adapters.base)
        return dataclasses.replace(base, adapters=(*base.adapters, adapters.folder))
    folder = settings_folder(config.path, "model.path") if is_hub_id(config.path) else _opened(config)
    family = _known_family(config, folder)
    return Outline(config, folder, family, _absent_towers(folder, family))


def _examine_base(adapters: AdapterFolder, config: ModelConfig) -> Parts:
    with _said_of_base(adapters, config):
        parts = examine(adapters.base)
    return dataclasses.replace(parts, adapters=(*parts.adapters, adapters.folder))


@contextmanager
def _said_of_base(adapters: AdapterFolder, config: ModelConfig) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        said = str(error)
        for key in RECORDED_PLACES:
            # What stands in the file must not be said of the option that the user typed.
            said = said.replace(f"model.{key}=", f"{key}=") if key == "path" or getattr(config, key) is None else said
        raise InputError(
            f"model.path={config.path!r} holds adapters, and the base that {adapters.folder / BASE_FILE} names cannot be used: {said}"
        ) from error


def _examine(config: ModelConfig) -> Parts:
    folder = _opened(config)
    family = _family(config, folder)
    absent = _absent_towers(folder, family)
    network, vae = (
        _network(config, folder, family),
        component_folder(config.vae, VAE.name, "model.vae") if config.vae else folder / VAE.name,
    )
    check_fit(network, vae, folder, family, absent=absent)
    for part in (network, vae):
        weights_variant(part, VAE.weights)
    file = folder / SCHEDULER.name / "scheduler_config.json"
    scheduler_config = read_json(file)
    schedule, prediction_type = read_schedule(scheduler_config, file, family, asserted=config.prediction)
    zero_empty = bool(read_json(folder / INDEX).get("force_zeros_for_empty_prompt", family.zero_empty))
    reading = _reading(config, folder, family, absent)
    return Parts(folder, family, network, vae, scheduler_config, schedule, prediction_type, reading, zero_empty, absent)


def _network(config: ModelConfig, folder: Path, family: Family) -> Path:
    part = family.network.name
    if config.network is None:
        return folder / part
    key, path = config.network
    if key != part:
        raise InputError(f"model.{key}={path!r}: the network of {family.title} is its {family.network.title}: give it as model.{part}")
    return component_folder(path, part, f"model.{part}")


def _opened(config: ModelConfig) -> Path:
    file = Path(config.path).expanduser()
    if file.is_file():
        return unpack(file, config.config)
    if config.config is not None:
        raise InputError(f"model.config={config.config!r} goes with a single-file checkpoint, and model.path={config.path!r} is none")
    return pipeline_folder(config.path)


def _family(config: ModelConfig, folder: Path) -> Family:
    """The family that model_index.json names, once every component is there in a class that this family has."""
    family, index = _known_family(config, folder), read_json(folder / INDEX)
    replaced = {family.network: config.network, VAE: config.vae}
    absent = _absent_towers(folder, family)
    for component in family.components:
        if not replaced.get(component) and component.name.replace("tokenizer", "text_encoder") not in absent:
            _check_component(folder, component, index.get(component.name), family)
    return family


def _known_family(config: ModelConfig, folder: Path) -> Family:
    """The family that model_index.json names, or that a pipeline class of one's own is said to be."""
    name = str(read_json(folder / INDEX).get("_class_name"))
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
    return family


def _absent_towers(folder: Path, family: Family) -> frozenset[str]:
    """Names of the text encoders that the folder has none of, where the family allows it. Raises `InputError` where it has none at all."""
    if not family.optional_towers:
        return frozenset()
    index, names = read_json(folder / INDEX), [tower.name for tower in family.text_encoders]
    absent = frozenset(name for name in names if index.get(name) in (None, [None, None]) or not (folder / name).is_dir())
    if len(absent) == len(names):
        raise InputError(f"{folder} has none of {', '.join(names)}: without a text encoder a prompt says nothing; copy one at least")
    return absent


def _check_component(folder: Path, component: Component, entry: object, family: Family) -> None:
    part, expected = component.name, component.class_name
    found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if found is None:
        raise InputError(f"{folder / INDEX} names no {part}: the pipeline is incomplete (expected a {expected})")
    if not (folder / part).is_dir():
        raise InputError(f"{folder} has no {part}/ folder, though its {INDEX} names a {found}; copy or download it again")
    # Tokenizers have fast variants and schedulers many names; a text encoder is what it says it is.
    if found not in component.class_names and (component in family.text_encoders or expected not in str(found)):
        raise InputError(f"{folder / part} is a {found}; {family.title}'s {part} must be a {expected}")


def _reading(config: ModelConfig, folder: Path, family: Family, absent: frozenset[str]) -> Reading:
    """What the configuration says, else what the model was trained with, else the pipeline's own."""
    kept = read_json(folder / READING) if (folder / READING).is_file() else {}
    chunks, skip = (
        kept.get(key, default) if asked is None else asked
        for key, asked, default in (("prompt_chunks", config.prompt_chunks, 1), ("clip_skip", config.clip_skip, 0))
    )
    if not (isinstance(chunks, int) and isinstance(skip, int) and chunks >= 1 and skip >= 0):
        raise InputError(f"{folder / READING}: prompt_chunks={chunks!r} and clip_skip={skip!r} must be whole numbers from 1 and 0 up")
    if (chunks, skip) != (1, 0) and not family.clip_encoders:
        raise InputError(
            f"model.prompt_chunks={chunks} and model.clip_skip={skip} are for CLIP, and {family.title} reads T5: leave them out"
        )
    for tower in family.clip_encoders:
        if tower.name in absent:
            continue
        layers = read_json(folder / tower.name / "config.json").get("num_hidden_layers")
        if isinstance(layers, int) and skip + family.clip_layers_from_end > layers:
            raise InputError(f"model.clip_skip={skip} leaves nothing of {folder / tower.name}, which has {layers} layers")
    return Reading(chunks, skip)
