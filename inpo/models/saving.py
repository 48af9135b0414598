"""Folders that are complete or absent, in the layout that diffusers reads. Only safetensors, JSON, text and vocabularies are written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.models.families import VAE, Family
from inpo.models.folders import INDEX, PICKLES, READING, read_json
from inpo.models.prompts import Reading

_TEXTS = (".json", ".txt", ".model")
"""`.model` is the vocabulary of T5's tokenizer."""
_HALVES = (torch.float16, torch.bfloat16)
_SETTINGS = "config.json"
"""How the names of files end that hold settings; a vocabulary may have any word for a key."""
_ORIGINS = ("_name_or_path", "name_or_path", "special_tokens_map_file", "tokenizer_file")
"""Keys in which diffusers and transformers record where they had read something from."""


@contextmanager
def replace_folder(folder: Path, marker: str) -> Iterator[Path]:
    """A fresh folder beside `folder` that takes its place when the block ends without an error, and vanishes otherwise.

    A folder that is already there is replaced only if it is empty or holds `marker`: raises `InputError` for any other.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder / marker).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is no earlier save (it has no {marker}): choose another folder, nothing was overwritten")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One name whatever the process, so that what a killed save left behind is swept by the next one.
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        _share(new, like=new / marker)
        _swap(new, folder, old)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _swap(new: Path, folder: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _share(folder: Path, like: Path) -> None:
    """Gives every file the permissions of an ordinary one: safetensors makes its files readable by their owner alone."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(like.stat().st_mode)


def write_pipeline(folder: Path, source: Path, family: Family, *, network: nn.Module, vae: nn.Module) -> None:
    """The pipeline in `source` with these two networks. Its other components are copied with their keys as they are.

    Not saved anew: transformers 5 writes CLIP's weights under names that transformers 4 would take for missing.
    """
    index = without_origins(read_json(source / INDEX))
    networks = {component.name: [component.library, component.kind] for component in (family.network, VAE)}
    for name, entry in index.items():
        if name not in networks and isinstance(entry, list) and not (entry[0] and _copy_component(source / name, folder / name)):
            index[name] = [None, None]
    write_network(folder / family.network.name, network)
    write_network(folder / VAE.name, vae)
    index |= {"_class_name": family.pipeline, **networks}
    if family.safety_checker and index.get("safety_checker") in (None, [None, None]):
        index["requires_safety_checker"] = False
    _write_json(folder / INDEX, index)


def write_reading(folder: Path, reading: Reading) -> None:
    """How prompts are to be read, where it is not the pipeline's own way: the next `load` of this folder follows it."""
    if reading != Reading():
        content: dict[str, object] = {"prompt_chunks": reading.chunks, "clip_skip": reading.clip_skip}
        _write_json(folder / READING, content)


def write_network(folder: Path, network: nn.Module) -> None:
    """A diffusers network (config.json and safetensors) in its own precision."""
    network.save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
    _write_json(folder / "config.json", without_origins(read_json(folder / "config.json")))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files, sharded or not."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def without_origins(settings: dict[str, object]) -> dict[str, object]:
    """Where a machine had read them from is nobody's business, and would make equal models differ in their files."""
    return {
        key: without_origins(value) if isinstance(value, dict) else value for key, value in settings.items() if key not in _ORIGINS
    }


def _write_json(file: Path, content: dict[str, object]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _copy_text(source: Path, file: Path) -> None:
    """Byte for byte, unless it says where it had been read from."""
    settings = read_json(source) if source.name.endswith(_SETTINGS) else {}
    if (told := without_origins(settings)) != settings:
        _write_json(file, told)
    else:
        shutil.copyfile(source, file)


def _copy_component(source: Path, folder: Path) -> bool:
    """Texts and vocabularies as they are, weights in fp32; False, and no folder, for a component that is absent or a pickle only."""
    weights = sorted(source.glob("*.safetensors"))
    if not source.is_dir() or (not weights and any(file for pattern in PICKLES for file in source.glob(pattern))):
        return False
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix in _TEXTS:
            _copy_text(file, folder / file.name)
    plain = [file for file in weights if file.name.count(".") == 1]
    widened = [_copy_weights(file, folder / f"{file.name.partition('.')[0]}.safetensors") for file in plain or weights]
    if any(widened):
        _declare_fp32(folder / "config.json")
    return True


def _copy_weights(source: Path, file: Path) -> bool:
    """Copies a safetensors file, rewritten in fp32 if it held halves; whether it did.

    A text encoder in fp16 beside a network in fp32 loads as it is stored and then fails at the first prompt.
    """
    from safetensors.torch import load_file, save_file

    tensors = load_file(source)
    if not any(tensor.dtype in _HALVES for tensor in tensors.values()):
        shutil.copyfile(source, file)
        return False
    save_file({name: tensor.float() if tensor.dtype in _HALVES else tensor for name, tensor in tensors.items()}, file, {"format": "pt"})
    return True


def _declare_fp32(file: Path) -> None:
    config = read_json(file)
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = str(torch.float32).removeprefix("torch.")
    _write_json(file, config)
