"""From what a user writes (a folder, a run, a hub id) to a folder on this disk, and what to say where nothing usable lies.

Weights are read from safetensors only: a pickle runs code when it is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from inpo.errors import InputError
from inpo.models import hub
from inpo.models.hub import INDEX as INDEX

READING = "inpo.json"
"""How prompts were read in training, where it was not the pipeline's own way; diffusers passes over this file."""
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")
_SHARD = re.compile(r"-\d+-of-\d+")


def pipeline_folder(path: str) -> Path:
    """The diffusers pipeline folder that `path` names: itself, a run's `model/`, or a download from the hub.

    Raises `InputError` with the nearest usable thing where it is none of them.
    """
    folder = _local_folder(path, "model.path")
    if folder is None:
        folder = hub.download_pipeline(path, "model.path")
    if (folder / INDEX).is_file():
        return folder
    if (folder / "config.yaml").is_file():
        return _model_of_run(folder, "model.path")
    raise InputError(f"model.path={path!r} is not a diffusers pipeline folder: it has no {INDEX}{_instead(folder)}")


def config_folder(config: str, file: Path, *, asked: bool) -> Path:
    """The pipeline folder whose settings and tokenizers go with a single-file checkpoint; of a hub id no weights are fetched.

    `asked`: whether the user named it as model.config. Raises `InputError` naming that key where it cannot be had.
    """
    from huggingface_hub import snapshot_download

    folder = _local_folder(config, "model.config") if asked else None
    if folder is None:
        try:
            folder = Path(snapshot_download(config, allow_patterns=["*.json", "*.txt"]))
        except Exception as error:  # as in `_fetched`
            raise InputError(
                f"model.path={str(file)!r} holds weights alone, and the settings of {config} could not be fetched from the hub "
                f"({type(error).__name__}): put a diffusers folder of the same kind of model beside it, as {file.with_suffix('')}, or for "
                "training set model.config to one"
            ) from error
    if not (folder / INDEX).is_file():
        raise InputError(f"model.config={config!r} is not a diffusers pipeline folder: it has no {INDEX}{_instead(folder)}")
    return folder


def settings_beside(file: Path) -> Path | None:
    """The pipeline folder beside a single-file checkpoint that bears its name without the ending; None where there is none."""
    folder = file.with_suffix("")
    return folder if (folder / INDEX).is_file() else None


def component_folder(path: str, name: str, key: str) -> Path:
    """One component's folder (`unet`, `transformer`, `vae`): `path` itself, or the `name/` of the pipeline, run or hub id that it names."""
    folder = _local_folder(path, key)
    if folder is None:
        folder = hub.download_component(path, name, key)
    if (folder / "config.json").is_file():
        return folder
    if (folder / "config.yaml").is_file() and (folder / "model").is_dir():
        return component_folder(str(folder / "model"), name, key)
    if (folder / name / "config.json").is_file():
        return folder / name
    raise InputError(f"{key}={path!r} holds neither a config.json nor a {name}/ folder with one{_holds(folder)}")


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file. Raises `InputError` naming the file where it is missing, damaged or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: the model folder is incomplete; copy or download it again") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); copy or download it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


def named_weights(name: str) -> tuple[str, str | None, str]:
    """What the name of a safetensors file says: its stem, its variant, and which shard it is, as `-00001-of-00002`.

    Both `stem.VARIANT-00001-of-00002.safetensors` and `stem-00001-of-00002.VARIANT.safetensors` are written by diffusers' versions.
    """
    shard = _SHARD.search(name)
    stem, _, variant = _SHARD.sub("", name).removesuffix(".safetensors").partition(".")
    return stem, variant or None, shard[0] if shard else ""


def of_one_variant(files: Sequence[Path]) -> tuple[str | None, list[Path]]:
    """Of files that hold the same weights in several variants those to read: without a variant, else fp16's, else the first one's."""
    variants = {named_weights(file.name)[1] for file in files}
    chosen = next((each for each in (None, "fp16") if each in variants), min(map(str, variants)))
    return chosen, [file for file in files if named_weights(file.name)[1] == chosen]


def weights_variant(folder: Path, stem: str) -> str | None:
    """Which files hold a component's weights, whole or in shards: None for `stem.safetensors`, or `stem.VARIANT.safetensors`'s variant.

    Raises `InputError` where there are only pickles, nothing at all, or a file that is damaged.
    """
    found = [file for file in sorted(folder.glob(f"{stem}*.safetensors")) if named_weights(file.name)[0] == stem]
    if not found:
        raise InputError(_no_weights(folder, stem))
    variant, files = of_one_variant(found)
    for file in files:
        _check_readable(file)
    return variant


def _check_readable(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise InputError(f"{file} is no complete safetensors file ({size} bytes; {error}); copy or download it again") from error


def _no_weights(folder: Path, stem: str) -> str:
    pickles = [file.name for pattern in PICKLES for file in sorted(folder.glob(pattern))]
    if not pickles:
        return f"{folder} holds no weights: expected {stem}.safetensors{_holds(folder)}"
    return (
        f"{folder} holds its weights as a pickle only ({', '.join(pickles)}), which can run code when opened, so it is not read. "
        "If you trust its source, convert it once: load the pipeline with diffusers' from_pretrained(…, use_safetensors=False) "
        "and save it with save_pretrained(NEW_FOLDER)"
    )


def _local_folder(path: str, key: str) -> Path | None:
    """The folder on this disk, or None where `path` can only be a hub id."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise InputError(f"{key}={path!r} is a file, and a folder in diffusers' layout is expected; single files are for model.path alone")
    if hub.is_hub_id(path):
        return None
    whole = ", a run's folder, 'world'," if key == "model.path" else ""
    raise InputError(f"{hub.absent(path, key)}; give a diffusers folder{whole} or a hub id 'owner/name'")


def _model_of_run(run: Path, key: str) -> Path:
    if (run / "model" / INDEX).is_file():
        return run / "model"
    for part, title in (("unet", "UNet"), ("transformer", "transformer")):
        if (run / "model" / part / "config.json").is_file():
            raise InputError(f"{key}={str(run)!r} is a run that saved its {title} alone: train with it as model.{part} beside its base")
    raise unfinished(f"{key}={str(run)!r}", run)


def unfinished(name: str, run: Path) -> InputError:
    """What to say of a run, called `name`, that saved no model: how to go on, and what of it can be used already."""
    checkpoints = sorted((run / "checkpoints").glob("step-*"))
    found = f"; its newest checkpoint is {checkpoints[-1]}" if checkpoints else ""
    # Adapters alone do not say which base they belong to.
    if checkpoints and (checkpoints[-1] / "policy" / "config.json").is_file():
        policy = checkpoints[-1] / "policy"
        part = "unet" if "UNet" in str(read_json(policy / "config.json").get("_class_name", "UNet")) else "transformer"
        found += f", usable as model.{part}={policy}"
    return InputError(f"{name} is a run that has no model/ yet: it did not finish; train it to its end with --resume latest{found}")


def _instead(folder: Path) -> str:
    """What the user may have meant by a folder that is no pipeline."""
    inside = sorted(file.parent for file in folder.glob(f"*/{INDEX}"))
    inside += sorted(file.parent for file in folder.glob("*/config.yaml"))
    if inside:
        return f" (did you mean {str(inside[0])!r}?)"
    if (folder / "config.json").is_file():
        part = read_json(folder / "config.json").get("_class_name", "model")
        if (folder.parent / INDEX).is_file():
            return f"; it is the {part} of one (did you mean {str(folder.parent)!r}?)"
        return (
            f"; it holds a single {part}: pass a UNet as model.unet, a transformer as model.transformer, a VAE as model.vae, "
            "beside a whole pipeline as model.path"
        )
    return _holds(folder)


def _holds(folder: Path, most: int = 6) -> str:
    names = sorted(item.name for item in folder.iterdir())
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f" (it holds: {', '.join(names[:most])}{more})" if names else " (it is empty)"
