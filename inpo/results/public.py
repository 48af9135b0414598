"""What may be said of this machine to others: folders and files by their last part alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from inpo.models.hub import is_hub_id

MODEL_PLACES = ("path", "unet", "transformer", "vae", "config")
_DATA_PLACES = ("path", "root", "scorer")
"""Settings that may say where on this machine something lies."""
_KIND = re.compile(r"([a-z-]+:)(.+)", re.DOTALL)


def public(place: str) -> str:
    """A folder or file by its last part, behind a kind too (`implicit:FOLDER?times=20`); built-in names and `hub:` data as they are."""
    if place.startswith("hub:"):
        return place
    if found := _KIND.fullmatch(place):
        folder, mark, options = found[2].partition("?")
        return f"{found[1]}{Path(folder).name}{mark}{options}"
    path = Path(place)
    # Of a pattern the last part says nothing.
    return path.name if not re.search(r"[*?\[]", path.name) else f"{path.parent.name}/{path.name}"


def public_model(place: str) -> str:
    """The same of a model, which may be on the hub: its id as it is."""
    return place if is_hub_id(place) else public(place)


def public_settings(tree: Mapping[str, object]) -> dict[str, object]:
    """The settings without where on this machine anything lies."""
    places = {"model": dict.fromkeys(MODEL_PLACES, public_model), "data": dict.fromkeys(_DATA_PLACES, public)}
    return {name: _public_section(section, places.get(name, {})) for name, section in tree.items()}


def _public_section(value: object, places: Mapping[str, Callable[[str], str]]) -> object:
    if isinstance(value, Mapping):
        return {
            key: places[key](item) if key in places and isinstance(item, str) else _public_section(item, {}) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_public_section(item, {}) for item in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.partition(":")[2].startswith(("/", "~"))):
        return public(value)
    return value
