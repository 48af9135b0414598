"""Checkpoints in one `.safetensors` file, as image programs exchange them, unpacked once into the folder layout that all else reads.

Their layout names its tensors as the programs of Stable Diffusion's authors do; diffusers knows the translation of each network.
Settings and tokenizers are not in such a file: they come from another folder, `model.config`, or from the hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from inpo.errors import InputError
from inpo.models.families import SCHEDULER, UNET, VAE, Family, family_of
from inpo.models.folders import INDEX, config_folder, read_json, settings_beside

_UNET_PREFIX = "model.diffusion_model."
_TEXTS = (".json", ".txt")


def unpack(file: Path, config: str | None) -> Path:
    """A pipeline folder with the weights of `file`, in the user's cache: made at the first call, found again by later ones.

    `config` names a pipeline folder for the same architecture, of which only JSON and text files are read; None takes the one beside
    the file that bears its name, else asks the hub which one diffusers takes for such a file. Raises `InputError` for a pickle, for a
    file that is no such checkpoint, and for one whose settings cannot be had.
    """
    if file.suffix != ".safetensors":
        raise InputError(
            f"model.path={str(file)!r} is no .safetensors file; a .ckpt or .pt is a pickle, which can run code when opened: it is not read"
        )
    shapes = _shapes(file)
    beside = None if config else settings_beside(file)
    settings = beside or config_folder(config or _usual_settings(shapes), file, asked=config is not None)
    _check_prediction(file, shapes, settings)
    folder = _cache() / _digest(file, settings)
    if (folder / INDEX).is_file():
        return folder
    from safetensors.torch import load_file

    new = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        _write(new, load_file(file), settings, file)
        _place(new, folder)
    except OSError as error:
        raise InputError(
            f"model.path={str(file)!r} cannot be unpacked into {folder.parent} ({error}): it needs as much room as the file; "
            "XDG_CACHE_HOME may name another place"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def _shapes(file: Path) -> Mapping[str, Tensor]:
    """The tensors without their numbers: a file that was unpacked before need not be read again."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: torch.empty(opened.get_slice(name).get_shape(), device="meta") for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} is no complete safetensors file ({file.stat().st_size} bytes; {error}); copy or download it again"
        ) from error
    if not any(name.startswith(_UNET_PREFIX) for name in tensors):
        known = "a LoRA" if any("lora" in name for name in tensors) else "no checkpoint of a whole Stable Diffusion 1.x, 2.x or XL model"
        raise InputError(f"model.path={str(file)!r} is {known}: it has no tensor {_UNET_PREFIX}…, but {next(iter(tensors), 'none at all')}")
    if edm := next((name for name in ("edm_mean", "edm_vpred.sigma_max") if name in tensors), None):
        raise InputError(f"model.path={str(file)!r} is a model of EDM's kind (it has a tensor {edm!r}), which is not supported")
    if any(".joint_blocks." in name for name in tensors):
        raise InputError(f"model.path={str(file)!r} is a single file of Stable Diffusion 3, which is not read: give a diffusers folder")
    return tensors


def _usual_settings(tensors: Mapping[str, Tensor]) -> str:
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    return str(fetch_diffusers_config(tensors)["pretrained_model_name_or_path"])


def _check_prediction(file: Path, tensors: Mapping[str, Tensor], settings: Path) -> None:
    """Trainers mark v-prediction files, and those of zero terminal SNR, by a tensor of that name; read as ε, the first makes noise."""
    scheduler = settings / SCHEDULER.name / "scheduler_config.json"
    config = read_json(scheduler)
    said = config.get("prediction_type", "epsilon")
    if "v_pred" in tensors and said != "v_prediction":
        raise InputError(
            f"model.path={str(file)!r} is marked as a v-prediction model (it has a tensor 'v_pred'), but {scheduler} says "
            f"prediction_type={said!r}: put a copy of that folder whose scheduler says v_prediction beside the file, as "
            f"{file.with_suffix('')}, or for training set model.config to it"
        )
    if "ztsnr" in tensors and not config.get("rescale_betas_zero_snr"):
        raise InputError(
            f"model.path={str(file)!r} is marked as a model of zero terminal SNR (it has a tensor 'ztsnr'), but {scheduler} does not say "
            f"rescale_betas_zero_snr=true: put a copy of that folder whose scheduler says so beside the file, as {file.with_suffix('')}, "
            "or for training set model.config to it"
        )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inpo" / "single-file"


def _digest(file: Path, settings: Path) -> str:
    """Changes with the file (path, size, time) and with any of the settings."""
    stat = file.stat()
    digest = hashlib.blake2b(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode(), digest_size=12)
    for text in sorted(each for each in settings.rglob("*") if each.suffix in _TEXTS):
        digest.update(text.read_bytes())
    return f"{file.stem}-{digest.hexdigest()}"


def _place(new: Path, folder: Path) -> None:
    try:
        new.rename(folder)
    except OSError:
        # Another process of the same run was faster, with the same content.
        if not (folder / INDEX).is_file():
            raise


def _write(new: Path, tensors: Mapping[str, Tensor], settings: Path, file: Path) -> None:
    from safetensors.torch import save_file

    index = read_json(settings / INDEX)
    family = family_of(str(index.get("_class_name")))
    if family is None or not family.checkpoint_prefixes:
        raise InputError(f"model.config={str(settings)!r} is a pipeline of {index.get('_class_name')}, of which no single files are read")
    for component in family.components:
        (new / component.name).mkdir()
        for text in (settings / component.name).glob("*"):
            if text.suffix in _TEXTS:
                shutil.copyfile(text, new / component.name / text.name)
    try:
        parts = _split(tensors, settings, family)
    except (KeyError, IndexError, RuntimeError) as error:
        raise InputError(
            f"model.path={str(file)!r} does not have the architecture of {settings} ({type(error).__name__}: {error}): "
            f"put a folder of the same kind of model beside the file, as {file.with_suffix('')}, or for training set model.config to it"
        ) from error
    for component in (UNET, VAE, *family.text_encoders):
        own = {name: tensor.contiguous() for name, tensor in parts[component.name].items()}
        save_file(own, new / component.name / f"{component.weights}.safetensors", {"format": "pt"})
    kept = {component.name for component in family.components}
    rest = {name: entry if name in kept or not isinstance(entry, list) else [None, None] for name, entry in index.items()}
    (new / INDEX).write_text(json.dumps(rest, indent=2) + "\n", encoding="utf-8")


def _split(tensors: Mapping[str, Tensor], settings: Path, family: Family) -> dict[str, dict[str, Tensor]]:
    """Each network's tensors under the names of diffusers and transformers. What belongs to none of them is left out."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    unet = convert_ldm_unet_checkpoint(tensors, read_json(settings / UNET.name / "config.json"))
    vae = convert_ldm_vae_checkpoint(tensors, read_json(settings / VAE.name / "config.json"))
    parts = {UNET.name: unet, VAE.name: vae}
    for tower, prefix in zip(family.text_encoders, family.checkpoint_prefixes, strict=True):
        width = read_json(settings / tower.name / "config.json").get("hidden_size")
        parts[tower.name] = _text_encoder(tensors, prefix, width, projects=tower.class_name.endswith("Projection"))
    return parts


def _text_encoder(tensors: Mapping[str, Tensor], prefix: str, width: object, *, projects: bool) -> dict[str, Tensor]:
    """OpenCLIP's encoders lie under `prefix`model, with query, key and value in one matrix; OpenAI's under `prefix`transformer."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    if any(name.startswith(f"{prefix}model.") for name in tensors):
        model = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
        found: dict[str, Tensor] = convert_open_clip_checkpoint(model, tensors, prefix=f"{prefix}model.")
    else:
        own = f"{prefix}transformer."
        found = {name.removeprefix(own): tensor for name, tensor in tensors.items() if name.startswith(own)}
    return {
        name: tensor for name, tensor in found.items() if not name.endswith("position_ids") and (projects or "text_projection" not in name)
    }
