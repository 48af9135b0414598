"""Which base model a folder of adapters belongs to: a file beside the weights says it, so that the folder can stand for the model."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inpo.errors import InputError
from inpo.models.config import ModelConfig
from inpo.models.folders import read_json

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
BASE_FILE = "base.json"
RECORDED_PLACES = ("path", "unet", "transformer", "vae", "config")
_RECORDED = (*RECORDED_PLACES, "family", "prediction", "clip_skip", "prompt_chunks")


@dataclass(frozen=True)
class AdapterFolder:
    """Adapters and the base that they were trained on."""

    folder: Path
    base: ModelConfig


def write_base(folder: Path, config: ModelConfig) -> None:
    """Records the model that adapters were trained on; folders and files by their whole path, hub ids as they are."""
    # A key of later than the first such files stands in those alone that say something by it.
    recorded = {key: value for key in _RECORDED if (value := getattr(config, key)) is not None or key != "transformer"}
    for key in RECORDED_PLACES:
        if recorded.get(key) and Path(recorded[key]).expanduser().exists():
            recorded[key] = str(Path(recorded[key]).expanduser().resolve())
    (folder / BASE_FILE).write_text(json.dumps({"schema": 1, **recorded}, indent=2) + "\n", encoding="utf-8")


def find_adapters(config: ModelConfig) -> AdapterFolder | None:
    """The adapters that `model.path` names, a run's or a folder's, with their base; None where it names none.

    Raises `InputError` where the base is not recorded, or where `model.unet` or `model.transformer` is set to adapters or would
    replace what they are on.
    """
    key, replacement = config.network or ("unet", None)
    if replacement and _folder_of(replacement):
        raise InputError(f"model.{key}={replacement!r} holds adapters, not a whole network: give it as model.path; it knows its base")
    folder = _folder_of(config.path)
    if folder is None:
        return None
    if replacement:
        raise InputError(
            f"model.{key}={replacement!r} cannot replace the network that the adapters in model.path={config.path!r} belong to"
        )
    if not (folder / BASE_FILE).is_file():
        raise InputError(
            f"model.path={config.path!r} holds adapters without a {BASE_FILE} that names their base; put them on it with diffusers "
            "(load_lora_weights, fuse_lora, save_pretrained) and give that folder"
        )
    return AdapterFolder(folder, _read_base(folder, config))


def _read_base(folder: Path, config: ModelConfig) -> ModelConfig:
    found = read_json(folder / BASE_FILE)
    recorded = {key: value for key, value in found.items() if key in _RECORDED and value is not None}
    if not isinstance(recorded.get("path"), str) or not all(isinstance(value, str | int) for value in recorded.values()):
        raise InputError(f"{folder / BASE_FILE} must name the base model's path and settings; found {found!r}")
    said = {key: value for key in _RECORDED if key != "path" and (value := getattr(config, key)) is not None}
    changes: dict[str, Any] = {**recorded, **said}
    return dataclasses.replace(config, **changes)


def _folder_of(path: str) -> Path | None:
    local = Path(path).expanduser()
    folder = local / "model" if (local / "config.yaml").is_file() else local
    return folder if (folder / ADAPTER_FILE).is_file() else None
