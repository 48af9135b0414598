"""What a result is put on, named as its card names it: by hub ids, and by the last parts of folders."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inpo import world
from inpo.compose import WORLD
from inpo.errors import InputError
from inpo.models.base import AdapterFolder, find_adapters
from inpo.models.config import ModelConfig
from inpo.models.folders import INDEX, settings_beside
from inpo.models.hub import is_hub_id
from inpo.results.public import public

_SETTINGS, _SUFFIX = "config.json", ".safetensors"


@dataclass(frozen=True)
class Place:
    """Where diffusers finds something: `name` is a hub id, a folder as seen from the one around it, a file, or `world`.

    `subfolder`: where in it.
    """

    name: str
    on_hub: bool = False
    subfolder: str | None = None

    @property
    def argument(self) -> str:
        """What a `from_pretrained` is given."""
        if self.name == WORLD:
            return "inpo.world.pipeline_path()"
        return repr(self.name) + (f", subfolder={self.subfolder!r}" if self.subfolder else "")


@dataclass(frozen=True)
class Base:
    """A pipeline and what replaces parts of it. `title`: what a reader may call it.

    `pipeline`: a folder's place, or with `is_file` that of a single-file checkpoint, whose `settings` lie elsewhere. `adapters`: folders
    of adapters that belong to its network's weights, in the order in which they are put on it.
    """

    title: str
    pipeline: Place
    is_file: bool = False
    settings: Place | None = None
    network: Place | None = None
    vae: Place | None = None
    adapters: tuple[Place, ...] = ()

    @property
    def hub_id(self) -> str | None:
        """What on the hub its network's weights are; None where they lie elsewhere, or elsewhere in part."""
        found = self.network or self.pipeline
        return found.name if found.on_hub and not self.adapters else None

    @property
    def settings_of(self) -> Place:
        """A pipeline folder with its settings."""
        return (self.settings if self.is_file else self.pipeline) or Place("BASE")


UNKNOWN = Base("BASE", Place("BASE"))
"""Stands for a base that nobody named."""


def base_of(config: ModelConfig, *, told: frozenset[str] = frozenset()) -> Base:
    """What `config` names; nothing is fetched, and what is not there any more is named as it was.

    `told`: how its places stand in the card of the run that has them, as in `is_on_hub`.
    """
    found = _adapters(config)
    if found is not None:
        below = base_of(found.base)
        own = Place(_seen(config.path, "model" if found.folder != Path(config.path).expanduser() else ""))
        return dataclasses.replace(below, title=public(config.path), adapters=(*below.adapters, own))
    on_hub = is_on_hub(config.path, told)
    file = Path(config.path).expanduser()
    is_file = not on_hub and file.suffix == _SUFFIX
    return Base(
        _title(config.path, on_hub=on_hub),
        _pipeline(config.path, on_hub=on_hub),
        is_file=is_file,
        settings=_settings(config.config, file, told) if is_file else None,
        network=_component(config.network[1], config.network[0], told) if config.network else None,
        vae=_component(config.vae, "vae", told) if config.vae else None,
    )


def _adapters(config: ModelConfig) -> AdapterFolder | None:
    """A base may have been changed since; its name still stands in the settings."""
    try:
        return find_adapters(config)
    except InputError:
        return None


def is_on_hub(path: str, told: frozenset[str]) -> bool:
    """Whether a model was read from the hub: as an earlier card has it, else as it looks here.

    `told`: places in that card. A hub id stands there whole and a folder by its last part; what is no folder here may have been one where
    the card was written.
    """
    return ("/" in path and path in told) or (public(path) not in told and is_hub_id(path))


def _title(path: str, *, on_hub: bool) -> str:
    return path if on_hub else WORLD if _is_world(path) else public(path)


def _is_world(path: str) -> bool:
    return path == WORLD or Path(path) == world.pipeline_path()


def _pipeline(path: str, *, on_hub: bool) -> Place:
    if on_hub or _is_world(path):
        return Place(path if on_hub else WORLD, on_hub)
    is_run = (Path(path).expanduser() / "model" / INDEX).is_file()
    return Place(_seen(path, "model" if is_run else ""))


def _settings(config: str | None, file: Path, told: frozenset[str]) -> Place | None:
    """Of a single file."""
    if config is not None:
        return _pipeline(config, on_hub=is_on_hub(config, told))
    beside = settings_beside(file)
    return Place(beside.name) if beside else None


def _component(path: str, part: str, told: frozenset[str]) -> Place:
    """As `inpo.models.folders.component_folder` finds it; of the hub as what was fetched says, else inside a pipeline."""
    from huggingface_hub import try_to_load_from_cache

    if is_on_hub(path, told):
        alone = isinstance(try_to_load_from_cache(path, _SETTINGS), str)
        return Place(path, on_hub=True, subfolder=None if alone else part)
    folder = Path(path).expanduser()
    inner = next((each for each in _inner(part) if (folder / each / _SETTINGS).is_file()), "")
    return Place(_seen(path, inner))


def _inner(part: str) -> Iterator[str]:
    yield from ("", "model", f"model/{part}", part)


def _seen(path: str, inner: str) -> str:
    """A folder or file as it is seen from the folder around it, and what lies in it."""
    name = Path(os.path.abspath(Path(path).expanduser())).name
    return f"{name}/{inner}" if inner else name
