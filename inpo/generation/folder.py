"""A folder of generated pictures: one PNG a picture, images.jsonl with a line for each, generation.json with what made them.

A repeated call keeps what is there and whole, makes what is missing, and refuses a folder that holds anything else.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from inpo.errors import InputError
from inpo.files import PARTIAL, replacing
from inpo.generation.sampling import (
    Controlled,
    GenerationConfig,
    GenerativeModel,
    Shot,
    batches,
    check_scheduler,
    check_steps,
    generate_latents,
    guidance_of,
    shots,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Fault = Literal["non-finite", "black"]
Progress = Callable[[int, int], None]
RECORDS = "images.jsonl"
SETTINGS = "generation.json"
_PICTURE = re.compile(r"\d{5,}_\d+\.png")


@dataclass(frozen=True)
class ImageRecord:
    """One line of images.jsonl. `sha256` is of the file's bytes; `fault` says what is wrong with the picture, None for nothing."""

    file: str
    prompt_index: int
    sample_index: int
    seed: int
    prompt: str
    sha256: str
    fault: Fault | None = None


def generate(
    model: GenerativeModel,
    prompts: Sequence[str],
    out_folder: Path,
    config: GenerationConfig,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> list[ImageRecord]:
    """Writes one picture for each prompt and sample into `out_folder`, and returns their records in order.

    Pictures that an earlier call with the same model and settings left there whole are kept. `force` makes them all anew.
    `progress` is told (pictures done, pictures in all). Raises `InputError` for a folder that holds anything else.
    """
    wanted = shots(prompts, config)
    check_steps(model.policy.schedule, config)
    check_scheduler(model.policy.prediction_type, config)
    records = _prepare(out_folder, wanted, _settings(model, config), force=force)
    missing = [shot for shot in wanted if shot.name not in records]
    if missing:
        # An interrupted call may have left half a line, to which the next one must not be appended.
        _write_records(out_folder, records.values())
    for batch in batches(model, missing, config):
        for record in _write_batch(model, batch, out_folder, config):
            records[record.file] = record
        if progress is not None:
            progress(len(records), len(wanted))
    ordered = [records[shot.name] for shot in wanted]
    if missing:
        _write_records(out_folder, ordered)
    return ordered


def read_records(folder: Path) -> list[ImageRecord]:
    """The lines of a folder's images.jsonl. A last line that was cut off by an interruption is left out.

    Raises `InputError` naming file and line where there is none or one is not a record.
    """
    file = folder / RECORDS
    if not file.is_file():
        raise InputError(f"{folder} holds no {RECORDS}: it is not a folder of generated pictures")
    lines = file.read_text(encoding="utf-8").split("\n")
    return [_parse(line, f"{file}, line {number}") for number, line in enumerate(lines[:-1], start=1)]


def count_faults(records: Iterable[ImageRecord]) -> dict[str, int]:
    """How many pictures have each fault; a fault that no picture has is absent."""
    return dict(Counter(record.fault for record in records if record.fault is not None))


def write_png(file: Path, image: NDArray[np.uint8] | Tensor) -> str:
    """Saves a uint8 `[H,W,3]` picture, complete or not at all; returns the sha256 of the file's bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image, dtype=np.uint8)).save(buffer, format="PNG")
    _replace(file, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _settings(model: GenerativeModel, config: GenerationConfig) -> dict[str, object]:
    """Everything but the prompts that decides what a picture looks like."""
    kept = {key: value for key, value in asdict(config).items() if key not in ("batch", "samples")}
    kept["guidance"] = guidance_of(model, config)
    control = model.control if isinstance(model, Controlled) else None
    return {"schema": 1, "model": model.fingerprint(), "dtype": model.dtype, "control": control, **kept}


def _prepare(folder: Path, wanted: Sequence[Shot], settings: Mapping[str, object], *, force: bool) -> dict[str, ImageRecord]:
    """Readies the folder; the records by file name of the pictures in it that are to be kept."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, and a folder for the pictures is expected")
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob(f".*{PARTIAL}"):
        unfinished.unlink()
    if force:
        _remove_pictures(folder)
    elif any(folder.iterdir()):
        return _resumable(folder, wanted, settings)
    _replace(folder / SETTINGS, (json.dumps(settings, indent=2) + "\n").encode())
    return {}


def _remove_pictures(folder: Path) -> None:
    for item in folder.iterdir():
        if item.name in (RECORDS, SETTINGS) or _PICTURE.fullmatch(item.name):
            item.unlink()


def _resumable(folder: Path, wanted: Sequence[Shot], settings: Mapping[str, object]) -> dict[str, ImageRecord]:
    by_name = {shot.name: shot for shot in wanted}
    strangers = sorted(item.name for item in folder.iterdir() if item.name not in {*by_name, RECORDS, SETTINGS})
    if strangers or not (folder / SETTINGS).is_file():
        what = f"{len(strangers)} files that this call does not make, the first is {strangers[0]!r}" if strangers else f"no {SETTINGS}"
        raise InputError(f"{folder} is not empty and holds {what}; choose another folder, or --force")
    # Older versions did not name it, and the model's fingerprint knows it.
    before = {"dtype": settings["dtype"], **_read_settings(folder / SETTINGS)}
    changed = [f"{key} {before.get(key)} → {value}" for key, value in settings.items() if before.get(key) != value]
    if changed:
        raise InputError(f"{folder} holds pictures made with other settings ({', '.join(changed)}); choose another folder, or --force")
    records = read_records(folder) if (folder / RECORDS).is_file() else []
    for record in records:
        if record.file in by_name and record.prompt != by_name[record.file].prompt:
            raise InputError(f"{folder / record.file} shows another prompt ({record.prompt!r}); choose another folder, or --force")
    return {record.file: record for record in records if record.file in by_name and _whole(folder, record)}


def _read_settings(file: Path) -> dict[str, object]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}); choose another folder, or --force") from error
    return settings if isinstance(settings, dict) else {}


def _whole(folder: Path, record: ImageRecord) -> bool:
    file = folder / record.file
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == record.sha256


def _write_batch(model: GenerativeModel, batch: Sequence[Shot], folder: Path, config: GenerationConfig) -> list[ImageRecord]:
    latents = generate_latents(model, batch, config)
    pictures = model.encoder.decode(latents).cpu()
    records = [
        ImageRecord(
            shot.name, shot.prompt_index, shot.sample_index, shot.seed, shot.prompt,
            sha256=write_png(folder / shot.name, picture), fault=_fault(latent, picture),
        )
        for shot, latent, picture in zip(batch, latents, pictures, strict=True)
    ]  # fmt: skip
    with (folder / RECORDS).open("a", encoding="utf-8") as file:
        file.writelines(_line(record) for record in records)
    return records


def _fault(latent: Tensor, picture: Tensor) -> Fault | None:
    if not bool(latent.isfinite().all()):
        return "non-finite"
    return None if bool(picture.any()) else "black"


def _write_records(folder: Path, records: Iterable[ImageRecord]) -> None:
    _replace(folder / RECORDS, "".join(_line(record) for record in records).encode())


def _line(record: ImageRecord) -> str:
    return json.dumps(asdict(record)) + "\n"


def _parse(line: str, where: str) -> ImageRecord:
    try:
        values = json.loads(line)
        return ImageRecord(**{field.name: values[field.name] for field in fields(ImageRecord)})
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: is not the record of a picture ({error!r}): {line[:80]!r}") from error


def _replace(file: Path, content: bytes) -> None:
    with replacing(file) as partial:
        partial.write_bytes(content)
