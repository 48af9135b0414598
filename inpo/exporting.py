"""`inpo export`: a finished run as what other programs load, with a card beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from inpo.card import CARD, Card, made_from_hub
from inpo.checking import one_of, whole
from inpo.compose import naming, resolve_model
from inpo.console import bar, say
from inpo.errors import InputError, RunFault
from inpo.files import replacing
from inpo.models.base import ADAPTER_FILE
from inpo.models.config import DTYPES, ModelConfig
from inpo.results import Result, find_result
from inpo.types import Dtype

if TYPE_CHECKING:
    from inpo.models.export.adapters import Adapters
    from inpo.models.parts import Parts

Format = Literal["pipeline", "unet", "transformer", "lora", "lora-kohya", "single-file"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIX = ".safetensors"
_FOLDERS: dict[str, str] = {"pipeline": "model_index.json", "unet": "config.json", "transformer": "config.json"}
"""Formats that are a folder, with the file by which an earlier one is known again."""


@dataclass(frozen=True)
class Export:
    """What `export` makes of `source`, a run's folder, a pipeline folder or a hub id.

    `rank`: of a LoRA that is extracted from a network whose own weights were trained; `base`: the model that its update is measured
    from, None for the one that the run started from. `dtype` of a single file or a LoRA, None for fp32. Raises `InputError` for values
    that do not go together.
    """

    source: str
    format: Format
    rank: int | None = None
    base: str | None = None
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        one_of("format", self.format, FORMATS)
        whole("rank", self.rank, low=1, optional=True)
        if self.dtype is not None:
            one_of("dtype", self.dtype, DTYPES)
        for key in ("rank", "base"):
            if getattr(self, key) is not None and not self.is_lora:
                raise InputError(f"{key}={getattr(self, key)!r} belongs to a LoRA: use format=lora or lora-kohya, or leave it out")
        if self.dtype is not None and self.format in _FOLDERS:
            raise InputError(
                f"dtype={self.dtype!r}: a {self.format} is kept in fp32, and from_pretrained(…, torch_dtype=torch.float16) loads it in "
                "halves; dtype is for single-file, lora and lora-kohya"
            )

    @property
    def is_lora(self) -> bool:
        """Whether the result is adapters."""
        return self.format.startswith("lora")


@dataclass(frozen=True)
class Exported:
    """What was written where. `rank`, `layers`: of a LoRA; `kept`: as in `Card`; `dora`: whether its magnitudes are apart."""

    path: Path
    format: Format
    rank: int | None = None
    layers: int | None = None
    kept: float | None = None
    dora: bool = False

    def lines(self) -> list[str]:
        """What the command line prints."""
        said = [f"{self.format} in {self.path}"]
        if self.rank is not None:
            said.append(f"rank {self.rank} on {self.layers} layers")
        if self.kept is not None:
            said.append(f"extracted by SVD: {self.kept:.1%} of the update's energy is kept; a larger --rank keeps more")
        if self.dora and self.format == "lora-kohya":
            said.append("DoRA: diffusers passes over dora_scale in this layout and then shows something else; give it --format lora")
        return said


def export(job: Export, out: Path, *, force: bool = False) -> Exported:
    """`inpo export`: writes `out`, complete or not at all, with a model card.

    `out`: a folder, or for a format that is one file also that file's name, `….safetensors`; its card is then `….md`.
    `force` replaces an earlier export. Raises `InputError`.
    """
    place = _Place.of(job, out)
    place.require_free(force=force)
    with naming("RUN"):
        result = find_result(job.source)
        with _told(out), place.opened() as written:
            done = _write_adapters(job, result, written) if job.is_lora else _write_model(job, result, written)
            card = _card(job, result, done, place)
            written.card.write_text(card.text(), encoding="utf-8")
    return dataclasses.replace(done, path=out)


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """What the disk refuses, as one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunFault(f"--out {out} could not be written ({error}): nothing is left of it; make room, or choose another place") from error


@dataclass(frozen=True)
class _Written:
    """Where this export is being written: the folder, or the file, that takes its place at the end; and its card."""

    target: Path
    card: Path


@dataclass(frozen=True)
class _Place:
    """`out` as a folder or a file. `file`: the file's name in either case, None for a format of many."""

    out: Path
    file: str | None
    marker: str

    @classmethod
    def of(cls, job: Export, out: Path) -> _Place:
        named = out.suffix == SUFFIX
        if job.format in _FOLDERS:
            if named:
                raise InputError(f"--out {out}: a {job.format} is a folder, not a file; give a folder, or format=single-file")
            return cls(out, None, _FOLDERS[job.format])
        file = out.name if named else (ADAPTER_FILE if job.format == "lora" else f"{out.resolve().name}{SUFFIX}")
        return cls(out, file, file)

    @property
    def is_file(self) -> bool:
        return self.out.suffix == SUFFIX

    def require_free(self, *, force: bool) -> None:
        """Raises `InputError` where something is in the way."""
        if self.is_file and self.out.is_dir():
            raise InputError(f"--out {self.out} is a folder, and its name is a file's: choose another name")
        if not self.is_file and self.out.is_file():
            raise InputError(f"--out {self.out} is a file: give a folder, or a file's name that ends in {SUFFIX}")
        if self.out.exists() and not force and (self.is_file or any(self.out.iterdir())):
            what = "exists" if self.is_file else "is not empty"
            raise InputError(f"--out {self.out} {what}: choose another, or --force to replace an earlier export")

    @contextmanager
    def opened(self) -> Iterator[_Written]:
        """What is written inside appears when the block ends well."""
        from inpo.models.saving import replace_folder

        if not self.is_file:
            with replace_folder(self.out, self.marker) as new:
                yield _Written(new / self.file if self.file else new, new / CARD)
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.out.with_suffix(".md")) as card, replacing(self.out) as target:
            yield _Written(target, card)
            # safetensors makes its files readable by their owner alone.
            target.chmod(card.stat().st_mode)


def _card(job: Export, result: Result, done: Exported, place: _Place) -> Card:
    from inpo.models.parts import examine

    name = place.out.resolve().name.removesuffix(SUFFIX)
    parts = examine(result.model)
    return Card(
        name, job.format, parts.family, result.experiment, pairs=result.pairs(), judgements=result.judgements(),
        file=place.file, kept=done.kept, absent=parts.absent, from_hub=made_from_hub(result.path / "model"),
    )  # fmt: skip


def _write_model(job: Export, result: Result, written: _Written) -> Exported:
    from inpo.models.export.checkpoint import require_layout, write_checkpoint
    from inpo.models.loading import load
    from inpo.models.parts import examine

    family = examine(result.model).family
    if job.format == "single-file":
        require_layout(family)
    family.require_part(job.format, "format")
    say("loading the model")
    model = load(result.model)
    if job.format == "single-file":
        write_checkpoint(written.target, model, job.dtype or "fp32")
    elif job.format in ("unet", "transformer"):
        model.save_network(written.target)
    else:
        model.save_pipeline(written.target)
    return Exported(written.target, job.format)


def _write_adapters(job: Export, result: Result, written: _Written) -> Exported:
    from inpo.models.export.adapters import kohya_naming, write_diffusers, write_kohya
    from inpo.models.export.checkpoint import DTYPES as TORCH
    from inpo.models.parts import examine
    from inpo.models.sizes import network_names

    parts = examine(result.model)
    dtype = TORCH[job.dtype or "fp32"]
    naming = kohya_naming(parts.family, network_names(parts)) if job.format == "lora-kohya" else None
    adapters, kept = _adapters(job, result, parts)
    if naming:
        write_kohya(written.target, adapters, dtype, naming=naming)
    else:
        write_diffusers(written.target, adapters, dtype, part=parts.family.network.name)
    return Exported(written.target, job.format, adapters.rank, len(adapters.layers), kept, adapters.dora)


def _adapters(job: Export, result: Result, parts: Parts) -> tuple[Adapters, float | None]:
    """Those that were trained, as they are; else, and wherever a rank is asked for, the update's best approximation."""
    from inpo.models.export.adapters import read_adapters

    if job.rank is None and len(parts.adapters) == 1:
        return read_adapters(parts.adapters[0], part=parts.family.network.name), None
    return _extracted(job, result, parts)


def _extracted(job: Export, result: Result, parts: Parts) -> tuple[Adapters, float]:
    import torch

    from inpo.models.export.extract import extract
    from inpo.models.loading import load_network

    rank, base = _rank(job, result, parts), _base_parts(job, result, parts)
    say("loading the model and its base")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = extract(load_network(parts), load_network(base), rank, device=device, progress=bar("layers"))
    return found.adapters, found.kept


def _rank(job: Export, result: Result, parts: Parts) -> int:
    """What was asked for; where trained adapters were merged into the result, their own."""
    lora = result.experiment.lora if result.experiment else None
    if job.rank is not None or (lora is not None and not parts.adapters):
        return job.rank or lora.rank  # type: ignore[union-attr]
    if parts.adapters:
        raise InputError(
            f"RUN={job.source!r} holds adapters on a base that has adapters itself: --rank 32 extracts one LoRA of all of them; "
            "--format pipeline merges them"
        )
    raise InputError(
        f"RUN={job.source!r} has no adapters to export: its network was trained in full. --rank 32 extracts a LoRA of that rank from "
        "its update by SVD; --format pipeline keeps all of it"
    )


def _base_parts(job: Export, result: Result, parts: Parts) -> Parts:
    """The base without adapters of its own: what the LoRA will be put on elsewhere."""
    from inpo.models.parts import examine

    if job.base is not None:
        with naming("--base"):
            return dataclasses.replace(examine(resolve_model(ModelConfig(job.base))), adapters=())
    if parts.adapters:
        return dataclasses.replace(parts, adapters=())
    if result.base is None:
        raise InputError(f"RUN={job.source!r} is no run's folder, so its base is not known: give it as --base")
    try:
        return dataclasses.replace(examine(result.base), adapters=())
    except InputError as error:
        raise InputError(f"{result.path / 'config.yaml'} names a base that cannot be used ({error}): give it as --base") from error
