"""`inpo export`: a finished run as what other programs load, with a card beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
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
    from inpo.models.parts import Outline, Parts

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
    `force` replaces an earlier export. Raises `InputError`, and `RunFault` for what the disk refuses.
    """
    place = _Place.of(job, out)
    place.require_free(force=force)
    with naming("RUN"):
        result = find_result(job.source)
        lost = f"--out {out} could not be written (…): nothing is left of it; make room, or choose another place"
        with _told(lost), place.opened() as written:
            with _told(f"RUN={job.source!r} or its base could not be read (…): look at the disk that it lies on, and at its permissions"):
                ready = _read_adapters(job, result, out) if job.is_lora else _read_model(job, result, out)
                card = _card(job, result, ready, place)
            ready.write(written.target)
            written.card.write_text(card.text(), encoding="utf-8")
    return ready.done


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What the disk refuses, as one line; its own words in the place of the `…`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunFault(f"({error})".join(what.rsplit("(…)", 1))) from error


@dataclass(frozen=True)
class _Ready:
    """A result that was read: `write` puts it at a path. `told_settings`: as in `Card`."""

    write: Callable[[Path], None]
    done: Exported
    model: Parts | Outline
    told_settings: bool = False


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
        if not force and (taken := self._taken()):
            raise InputError(f"--out {self.out} {taken}: choose another, or --force to replace an earlier export")

    def _taken(self) -> str | None:
        """What is there already."""
        if not self.is_file:
            return "is not empty" if self.out.exists() and any(self.out.iterdir()) else None
        if self.out.exists():
            return "exists"
        return f"has its card beside it, and {self.card} exists" if self.card.exists() else None

    @property
    def card(self) -> Path:
        """Where a single file's card lies."""
        return self.out.with_suffix(".md")

    @contextmanager
    def opened(self) -> Iterator[_Written]:
        """What is written inside appears when the block ends well."""
        from inpo.models.saving import replace_folder

        if not self.is_file:
            with replace_folder(self.out, self.marker) as new:
                yield _Written(new / self.file if self.file else new, new / CARD)
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.card) as card, replacing(self.out) as target:
            yield _Written(target, card)
            # safetensors makes its files readable by their owner alone.
            target.chmod(card.stat().st_mode)


def _card(job: Export, result: Result, ready: _Ready, place: _Place) -> Card:
    name, model = place.out.resolve().name.removesuffix(SUFFIX), ready.model
    return Card(
        name, job.format, model.family, result.experiment, pairs=result.pairs(), judgements=result.judgements(), file=place.file,
        kept=ready.done.kept, absent=model.absent, from_hub=made_from_hub(result.path / "model"), told_settings=ready.told_settings,
    )  # fmt: skip


def _read_model(job: Export, result: Result, out: Path) -> _Ready:
    from inpo.models.export.checkpoint import needs_settings, require_layout, write_checkpoint
    from inpo.models.loading import load
    from inpo.models.parts import examine

    parts = examine(result.model)
    if job.format == "single-file":
        require_layout(parts.family)
    parts.family.require_part(job.format, "format")
    say("loading the model")
    model, done = load(result.model), Exported(out, job.format)
    if job.format == "single-file":
        return _Ready(lambda file: write_checkpoint(file, model, job.dtype or "fp32"), done, parts, needs_settings(parts))
    return _Ready(model.save_pipeline if job.format == "pipeline" else model.save_network, done, parts)


def _read_adapters(job: Export, result: Result, out: Path) -> _Ready:
    from inpo.models.export.adapters import kohya_naming, write_diffusers, write_kohya
    from inpo.models.export.checkpoint import DTYPES as TORCH
    from inpo.models.parts import outline
    from inpo.models.sizes import network_names

    model, dtype = outline(result.model), TORCH[job.dtype or "fp32"]
    naming = kohya_naming(model.family, network_names(model)) if job.format == "lora-kohya" else None
    adapters, kept = _adapters(job, result, model)

    def write(file: Path) -> None:
        if naming:
            write_kohya(file, adapters, dtype, naming=naming)
        else:
            write_diffusers(file, adapters, dtype, part=model.family.network.name)

    return _Ready(write, Exported(out, job.format, adapters.rank, len(adapters.layers), kept, adapters.dora), model)


def _adapters(job: Export, result: Result, model: Outline) -> tuple[Adapters, float | None]:
    """Those that were trained, as they are; else, and wherever a rank is asked for, the update's best approximation."""
    from inpo.models.export.adapters import read_adapters

    if job.rank is None and len(model.adapters) == 1:
        return read_adapters(model.adapters[0], part=model.family.network.name), None
    return _extracted(job, result, _rank(job, result, model))


def _extracted(job: Export, result: Result, rank: int) -> tuple[Adapters, float]:
    import torch

    from inpo.models.export.extract import extract
    from inpo.models.loading import load_network
    from inpo.models.parts import examine

    parts = examine(result.model)
    base = _base_parts(job, result, parts)
    say("loading the model and its base")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = extract(load_network(parts), load_network(base), rank, device=device, progress=bar("layers"))
    return found.adapters, found.kept


def _rank(job: Export, result: Result, model: Outline) -> int:
    """What was asked for; where trained adapters were merged into the result, their own."""
    lora = result.experiment.lora if result.experiment else None
    if job.rank is not None or (lora is not None and not model.adapters):
        return job.rank or lora.rank  # type: ignore[union-attr]
    if model.adapters:
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
