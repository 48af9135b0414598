"""Models on the Hugging Face hub, fetched by its own client: safetensors alone, and one line where that fails."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from inpo.errors import InputError, nearest

INDEX = "model_index.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_UNCHECKED: Mapping[str, object] = {"safety_checker": None, "feature_extractor": None}
_PICKLES = "safetensors"
"""What diffusers' complaint speaks of where a pipeline's weights are, in part, pickles."""


def is_hub_id(path: str) -> bool:
    """Whether what a user wrote can only be a model on the hub, as no folder here can be meant."""
    local = Path(path).expanduser()
    return _HUB_ID.fullmatch(path) is not None and not local.exists() and not local.parent.exists()


def absent(path: str, key: str) -> str:
    """That there is no such folder here, and which one is called most like it."""
    local = Path(path).expanduser()
    beside = local.parent if local.parent.is_dir() else local.parent.parent
    found = [*beside.glob("*/"), *beside.glob(f"*/{local.name}/")] if beside.is_dir() else []
    known = [str(folder) for folder in found] + (["world"] if key == "model.path" else [])
    return f"{key}={path!r}: there is no folder {path} here{nearest(str(local), known)}"


def download_pipeline(hub_id: str, key: str) -> Path:
    """A whole pipeline: without its safety checker where that is a pickle, and in fp16 where nothing wider is there.

    Raises `InputError`, as all here do, naming `key`.
    """
    from diffusers import DiffusionPipeline

    ways: tuple[Mapping[str, object], ...] = ({}, _UNCHECKED, {"variant": "fp16"}, {"variant": "fp16", **_UNCHECKED})
    failed: list[Exception] = []
    for more in ways:
        try:
            with _quiet():
                return Path(DiffusionPipeline.download(hub_id, use_safetensors=True, **more))
        except Exception as error:  # what a failed download raises depends on the hub client and on the HTTP client below it
            failed.append(error)
            if _PICKLES not in str(error):
                break
    raise InputError(_said(hub_id, key, failed[0])) from failed[0]


def download_component(hub_id: str, name: str, key: str) -> Path:
    """One component, whose folder is the hub's own or `name`/ in it; in fp16 where nothing wider is there."""
    stem = "diffusion_pytorch_model"
    plain = (f"{stem}.safetensors", f"{stem}-*.safetensors", f"{stem}.safetensors.index.json")
    half = (f"{stem}.fp16.safetensors", f"{stem}.fp16-*.safetensors", f"{stem}-*.fp16.safetensors", f"{stem}.safetensors.index.fp16.json")
    folder = _snapshot(hub_id, key, _patterns(name, plain))
    if any(found for place in (folder, folder / name) for found in place.glob(f"{stem}*.safetensors")):
        return folder
    return _snapshot(hub_id, key, _patterns(name, half))


def settings_folder(hub_id: str, key: str) -> Path:
    """Of a pipeline what says which components it has and how they are made, and nothing else."""
    return _snapshot(hub_id, key, [INDEX, "*/config.json"])


def _patterns(name: str, weights: tuple[str, ...]) -> list[str]:
    files = ["config.json", *weights]
    return [*files, *(f"{name}/{file}" for file in files)]


def _snapshot(hub_id: str, key: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        with _quiet():
            return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except Exception as error:  # as in `download_pipeline`
        raise InputError(_said(hub_id, key, error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' warnings: what went wrong is told once, by us."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("diffusers", "huggingface_hub"))}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _said(hub_id: str, key: str, error: Exception) -> str:
    """Names the cause by its class: the hub's own messages run over many lines and speak of its internals."""
    kinds = [type(cause).__name__ for cause in _causes(error)]
    if "GatedRepoError" in kinds:
        return f"{key}={hub_id!r}: the hub wants its licence accepted first; accept it on the model's page, then `hf auth login`"
    if "RepositoryNotFoundError" in kinds:
        return f"{absent(hub_id, key)}, and no such model on the hub (or it is private: `hf auth login`)"
    if {"EntryNotFoundError", "RemoteEntryNotFoundError"}.intersection(kinds):
        return (
            f"{key}={hub_id!r}: the hub has no {INDEX} of it, so it is no diffusers pipeline: look for one (often called …-diffusers), or "
            "download a single .safetensors file and give that"
        )
    if _PICKLES in str(error):
        return f"{key}={hub_id!r}: the hub has its weights as pickles only, which are not read; ask for a safetensors version or convert it"
    return (
        f"{absent(hub_id, key)}, and the hub could not be reached ({kinds[0]}). If it is a model on the hub and there is no network, "
        f"run `hf download {hub_id} --local-dir FOLDER` where there is one, and give that folder"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what had led to it: diffusers wraps what the hub's client says."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
