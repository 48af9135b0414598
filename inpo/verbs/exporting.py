"""`inpo export`: a finished run as what other programs load, with a card beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from inpo.checking import one_of, whole
from inpo.compose import naming, resolve_model
from inpo.console import bar, say
from inpo.errors import InputError, RunFault
from inpo.models.base import find_adapters
from inpo.models.config import DTYPES, ModelConfig
from inpo.results.bases import Base, base_of
from inpo.results.card import Card, told_places
from inpo.results.destination import FOLDERS, Destination
from inpo.results.result import CONFIG, Result, find_result
from inpo.types import Dtype

if TYPE_CHECKING:
    from inpo.models.export.adapters import Adapters
    from inpo.models.parts import Outline, Parts

Format = Literal["pipeline", "unet", "transformer", "lora", "lora-kohya", "single-file"]
FORMATS: tuple[Format, ...] = get_args(Format)


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
        if self.dtype is not None and self.format in FOLDERS:
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
    place = Destination.of(job.format, out)
    place.require_free(force=force)
    with naming("RUN"):
        result = find_result(job.source)
    # Of a run that saved its network alone the rest lies where its settings say.
    said = "RUN" if result.model.path == job.source else f"{result.path / CONFIG}: model.path"
    lost = f"--out {out} could not be written (…): nothing is left of it; make room, or choose another place"
    with naming(said), _told(lost), place.opened() as written:
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


def _card(job: Export, result: Result, ready: _Ready, place: Destination) -> Card:
    model, told = ready.model, told_places(result.path / "model")
    return Card(
        place.name, job.format, model.family, result.experiment, pairs=result.pairs(), judgements=result.judgements(), file=place.file,
        kept=ready.done.kept, absent=model.absent, told=told, told_settings=ready.told_settings, here=place.here(job.format),
        base=_card_base(job, result, told, extracted=ready.done.kept is not None),
    )  # fmt: skip


def _card_base(job: Export, result: Result, told: frozenset[str], *, extracted: bool) -> Base:
    """What the result is loaded on: of an extracted LoRA what its update was measured from, without adapters of its own."""
    if job.base is not None:
        return dataclasses.replace(base_of(ModelConfig(job.base)), adapters=())
    adapters = find_adapters(result.model) if job.is_lora else None
    start = adapters.base if adapters else result.experiment.model if result.experiment else result.model
    base = base_of(start, told=told)
    return dataclasses.replace(base, adapters=()) if extracted else base


def _read_model(job: Export, result: Result, out: Path) -> _Ready:
    from inpo.models.export.checkpoint import needs_settings, require_layout, write_checkpoint
    from inpo.models.families import VAE
    from inpo.models.loading import load, load_network
    from inpo.models.modules import load_module
    from inpo.models.parts import examine
    from inpo.models.saving import save_network, save_pipeline

    parts, done = examine(result.model), Exported(out, job.format)
    if job.format == "single-file":
        require_layout(parts.family)
    parts.family.require_part(job.format, "format")
    say("loading the model")
    if job.format == "single-file":
        model = load(result.model)
        return _Ready(lambda file: write_checkpoint(file, model, job.dtype or "fp32"), done, parts, needs_settings(parts))
    # Text encoders are copied file by file: T5 alone would be more than many machines hold.
    network = load_network(parts)
    if job.format != "pipeline":
        return _Ready(lambda folder: save_network(folder, network), done, parts)
    pipeline = partial(save_pipeline, source=parts.folder, family=parts.family, network=network, reading=parts.reading)
    return _Ready(partial(pipeline, vae=load_module(VAE, parts.vae)), done, parts)


def _read_adapters(job: Export, result: Result, out: Path) -> _Ready:
    from inpo.models.export.adapters import kohya_naming, write_diffusers, write_kohya
    from inpo.models.export.checkpoint import DTYPES as TORCH
    from inpo.models.parts import outline
    from inpo.models.sizes import network_names

    model, dtype = outline(result.model), TORCH[job.dtype or "fp32"]
    layer_name = kohya_naming(model.family, network_names(model)) if job.format == "lora-kohya" else None
    adapters, kept = _adapters(job, result, model)

    def write(file: Path) -> None:
        if layer_name:
            write_kohya(file, adapters, dtype, naming=layer_name)
        else:
            write_diffusers(file, adapters, dtype, part=model.family.network.name)

    return _Ready(write, Exported(out, job.format, adapters.rank, len(adapters.layers), kept, adapters.dora), model)


def _adapters(job: Export, result: Result, model: Outline) -> tuple[Adapters, float | None]:
    """Those that were trained, as they are; else, and wherever a rank is asked for, the update's best approximation."""
    from inpo.models.export.adapters import read_adapters

    if job.rank is None and len(model.adapters) == 1:
        if job.base is not None:
            raise InputError(
                f"--base={job.base!r}: RUN={job.source!r} holds adapters, which are exported as they are, on the base that they were "
                "trained on: leave --base out, or add --rank 32 to extract a LoRA of the difference from another one"
            )
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
        with naming("path"):
            return dataclasses.replace(examine(result.base), adapters=())
    except InputError as error:
        raise InputError(f"{result.path / CONFIG} names a base that cannot be used ({error}): give it as --base") from error
