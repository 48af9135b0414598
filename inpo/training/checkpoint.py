"""Checkpoints that are complete or invisible: a folder appears under its name only after every byte in it has reached the disk.

`step-000400/manifest.json` is written last and lists each file's size and sha256; a folder without a valid manifest is no
checkpoint. Nothing here knows what is inside the files, and nothing here reads or writes a pickle.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError

from inpo.errors import InputError, RunFault
from inpo.files import file_sha256
from inpo.training import disk

SCHEMA = 1
MANIFEST = "manifest.json"
UNFINISHED, RETIRED, BROKEN = ".tmp-", ".old-", ".broken-"
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds and which run it belongs to. `files`: POSIX path → {"bytes", "sha256"}."""

    schema: int
    step: int
    files: dict[str, dict[str, int | str]]
    config_sha256: str
    data_sha256: str


def folder_name(step: int) -> str:
    """step-000400."""
    return f"step-{step:06d}"


def save(checkpoints: Path, step: int, *, write: Callable[[Path], None], config_sha256: str, data_sha256: str) -> Path:
    """Lets `write` fill a temporary folder, makes it durable, and gives it its name. Returns the folder.

    Raises `RunFault` if the disk refuses; the temporary folder is removed then and older checkpoints are as they were.
    """
    target = checkpoints / folder_name(step)
    temporary = checkpoints / f"{UNFINISHED}{target.name}-{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        _seal(temporary, step, config_sha256, data_sha256)
        _retire(target)
        temporary.rename(target)
        _sync(checkpoints)
    except (OSError, SafetensorError) as error:
        written = _size(temporary)
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunFault(_refusal(target, written, error)) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sweep(checkpoints)
    return target


def _seal(folder: Path, step: int, config_sha256: str, data_sha256: str) -> None:
    files: dict[str, dict[str, int | str]] = {}
    for path in _files(folder):
        _sync(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    text = json.dumps(asdict(Manifest(SCHEMA, step, files, config_sha256, data_sha256)), indent=1)
    (folder / MANIFEST).write_text(text + "\n")
    _sync(folder / MANIFEST)
    for inner in {path.parent for path in _files(folder)}:
        _sync(inner)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _sync(path: Path) -> None:
    # Windows opens no folders; there, the rename alone has to do.
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(target: Path, written: int, error: Exception) -> str:
    kept = "older checkpoints are untouched; free some space and continue with --resume latest"
    if disk.is_full(error):
        return f"{target}: the disk is full ({error}): {written:,} bytes were written, {disk.free(target):,} are free; {kept}"
    return f"{target}: the checkpoint could not be written ({error}) after {written:,} bytes; {kept}"


def _retire(folder: Path) -> None:
    # Renamed before it is deleted: a deletion that is cut short must not leave half a checkpoint under a valid name.
    if folder.exists():
        folder.rename(folder.with_name(f"{RETIRED}{folder.name}-{os.getpid()}"))


def sweep(checkpoints: Path) -> list[Path]:
    """Deletes what interrupted saves and deletions left behind, and returns what it found. What cannot be deleted is warned about."""
    left = [path for prefix in (UNFINISHED, RETIRED) for path in sorted(checkpoints.glob(f"{prefix}*"))]
    for path in left:
        try:
            shutil.rmtree(path)
        except OSError as error:
            warnings.warn(f"{path} could not be deleted ({error}); delete it by hand", stacklevel=2)
    return left


def steps_in(checkpoints: Path) -> dict[int, Path]:
    """Folders that are named like checkpoints, by step, ascending. Order is by name: clocks may lie."""
    named = [(match, path) for path in checkpoints.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return dict(sorted((int(match[1]), path) for match, path in named))


def rotate(checkpoints: Path, keep: int, protected: int | None = None) -> None:
    """Deletes all but the newest `keep` and the step `protected`. What cannot be deleted is warned about, and the run goes on."""
    _delete([path for step, path in list(steps_in(checkpoints).items())[:-keep] if step != protected], checkpoints)


def discard_after(checkpoints: Path, step: int) -> None:
    """Deletes checkpoints beyond `step`: a run that goes back continues from there, and its old future must not be found again."""
    _delete([path for number, path in steps_in(checkpoints).items() if number > step], checkpoints)


def set_broken_aside(checkpoints: Path, step: int) -> list[Path]:
    """Renames what is beyond `step`, the one that `latest` found: it is broken, but nothing here deletes it. Returns the new names."""
    kept = []
    for folder in [path for number, path in steps_in(checkpoints).items() if number > step]:
        names = (folder.with_name(f"{BROKEN}{folder.name}-{n}") for n in count(1))
        kept.append(folder.rename(next(name for name in names if not name.exists())))
    return kept


def _delete(folders: list[Path], checkpoints: Path) -> None:
    for folder in folders:
        try:
            _retire(folder)
        except OSError as error:
            warnings.warn(f"{folder} could not be deleted ({error}); delete it by hand", stacklevel=3)
    sweep(checkpoints)


def verify(folder: Path) -> Manifest:
    """The manifest, after every file was found to be what it says. Raises `InputError` naming the first file that is not."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such checkpoint")
    manifest = _read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{folder / MANIFEST}: {name!r} points outside the checkpoint")
        if not path.is_file():
            raise InputError(f"{path}: missing; its manifest lists {expected.get('bytes')} bytes. The checkpoint is not complete")
        if path.stat().st_size != expected.get("bytes"):
            raise InputError(f"{path}: {path.stat().st_size} bytes, but its manifest says {expected.get('bytes')}: truncated or changed")
        if file_sha256(path) != expected.get("sha256"):
            raise InputError(f"{path}: its sha256 is not the manifest's: the file was damaged or changed")
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{path}: missing, so {folder.name} is not a complete checkpoint")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**fields)
        readable = all(isinstance(entry, dict) for entry in manifest.files.values()) and isinstance(manifest.step, int)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a manifest ({error})") from error
    if not readable or manifest.schema != SCHEMA:
        raise InputError(f"{path}: schema {manifest.schema!r} cannot be read; this version reads {SCHEMA}")
    return manifest


def latest(checkpoints: Path) -> tuple[Path, Manifest]:
    """The newest valid checkpoint. A broken newer one is named in a warning. Raises `InputError` if there is none."""
    for folder, outcome in _newest_first(checkpoints):
        if isinstance(outcome, Manifest):
            return folder, outcome
        warnings.warn(f"skipping a broken checkpoint: {outcome}", stacklevel=2)
    raise InputError(f"{checkpoints}: holds no complete checkpoint to resume from; start the run again with --force")


def _newest_first(checkpoints: Path) -> Iterator[tuple[Path, Manifest | InputError]]:
    for step, folder in reversed(steps_in(checkpoints).items()):
        try:
            manifest = verify(folder)
            if manifest.step != step:
                raise InputError(f"{folder / MANIFEST}: says step {manifest.step}")
            yield folder, manifest
        except InputError as error:
            yield folder, error


def check_space(checkpoints: Path, *, size: int, count: int, reclaimed: int = 0) -> None:
    """Before training: raises `InputError` with the numbers if the disk cannot take `count` more checkpoints of about `size` bytes.

    reclaimed: bytes that will be deleted before the first of them is written.
    """
    free = disk.free(checkpoints) + reclaimed
    if free < size * count:
        raise InputError(
            f"{checkpoints}: {free:,} bytes are free, but {count} checkpoint(s) of about {size:,} bytes need {size * count:,}; "
            "free some space, choose another folder, or lower train.keep"
        )
