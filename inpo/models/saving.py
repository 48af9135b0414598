"""Folders that are complete or absent, in the layout that diffusers reads. Only safetensors, JSON, text and vocabularies are written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.models.families import VAE, Family
from inpo.models.folders import INDEX, PICKLES, READING, named_weights, of_one_variant, read_json
from inpo.models.prompts import Reading

_TEXTS = (".json", ".txt", ".model")
"""`.model` is the vocabulary of T5's tokenizer."""
_WEIGHTS = ".safetensors"
_SAVED = re.compile(r"README\.md|(model_index|inpo|config|base)\.json|.+\.safetensors(\.index\.json)?")
"""What lies beside components in what is saved."""
_HALVES = (torch.float16, torch.bfloat16)
_SETTINGS = "config.json"
"""How the names of files end that hold settings; a vocabulary may have any word for a key."""
_SHARDS = ".safetensors.index"
"""In the names of files that say which shard holds each tensor."""
_ORIGINS = ("_name_or_path", "name_or_path", "special_tokens_map_file", "tokenizer_file")
"""Keys in which diffusers and transformers record where they had read something from."""


@contextmanager
def replace_folder(folder: Path, marker: str) -> Iterator[Path]:
    """A fresh folder beside `folder` that takes its place when the block ends without an error, and vanishes otherwise.

    A folder that is already there is replaced only if it is empty or holds `marker`, and nothing that no save writes: raises
    `InputError` for any other.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder / marker).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is no earlier save (it has no {marker}): choose another folder, nothing was overwritten")
    if folder.is_dir() and (entry := foreign_entry(folder)):
        raise InputError(f"{folder} exists and is no earlier save (it holds {entry}): choose another folder, nothing was overwritten")
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


def foreign_entry(folder: Path) -> str | None:
    """The name of something in `folder` that no pipeline, network or adapters of ours have in them; None where there is nothing such."""
    try:
        components = read_json(folder / INDEX) if (folder / INDEX).is_file() else {}
    except InputError:
        components = {}
    for entry in sorted(folder.iterdir()):
        own = entry.name in components if entry.is_dir() else _SAVED.fullmatch(entry.name)
        if not own:
            return entry.name
        inside = entry.iterdir() if entry.is_dir() else ()
        if other := next((each for each in inside if each.is_dir() or each.suffix not in (*_TEXTS, _WEIGHTS)), None):
            return f"{entry.name}/{other.name}"
    return None


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


def save_pipeline(folder: Path, source: Path, family: Family, *, network: nn.Module, vae: nn.Module, reading: Reading) -> None:
    """A folder that the family's diffusers pipeline loads without this package: that in `source`, with these two networks.

    Complete or absent: it is written beside `folder` and renamed. Raises `InputError` where `folder` holds anything but a pipeline.
    """
    with replace_folder(folder, INDEX) as new:
        write_pipeline(new, source, family, network=network, vae=vae)
        write_reading(new, reading)


def save_network(folder: Path, network: nn.Module) -> None:
    """A network alone (config.json and safetensors), as diffusers and `model.unet` or `model.transformer` read it. As `save_pipeline`."""
    with replace_folder(folder, _SETTINGS) as new:
        write_network(new, network)


def write_pipeline(folder: Path, source: Path, family: Family, *, network: nn.Module, vae: nn.Module) -> None:
    """The pipeline in `source` with these two networks. Its other components are copied with their keys as they are.

    Not saved anew: transformers 5 writes CLIP's weights under names that transformers 4 would take for missing.
    """
    index = without_origins(read_json(source / INDEX))
    networks = {component.name: [component.library, component.class_name] for component in (family.network, VAE)}
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
        if file.suffix in _TEXTS and _SHARDS not in file.name:
            _copy_text(file, folder / file.name)
    copied = {file: folder / _plain_name(file.name) for file in (of_one_variant(weights)[1] if weights else ())}
    widened = [_copy_weights(file, copy) for file, copy in copied.items()]
    if any(widened):
        _declare_fp32(folder / "config.json")
    _write_shards(list(copied.values()))
    return True


def _plain_name(name: str) -> str:
    """A weights file's name without its variant: it is fp32 now."""
    stem, _, shard = named_weights(name)
    return f"{stem}{shard}.safetensors"


def _write_shards(files: list[Path]) -> None:
    """Says which of several files each tensor is in; of one file there is nothing to say."""
    if not any(named_weights(file.name)[2] for file in files):
        return
    headers = {file.name: _header(file) for file in files}
    places: dict[str, object] = {tensor: name for name, (tensors, _) in headers.items() for tensor in tensors}
    index = files[0].with_name(f"{named_weights(files[0].name)[0]}{_SHARDS}.json")
    _write_json(index, {"metadata": {"total_size": sum(size for _, size in headers.values())}, "weight_map": places})


def _header(file: Path) -> tuple[list[str], int]:
    """Names of a safetensors file's tensors, and their bytes: all that lies behind its header."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        names = json.loads(opened.read(length))
    return sorted(names.keys() - {"__metadata__"}), file.stat().st_size - 8 - length


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
