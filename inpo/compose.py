"""From what users type to what the package works with: names become models, pairs, prompts, scorers and pictures.

Here and in `alignment` siblings meet: models know no data, the trainer knows no model family, evaluation knows no generation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from inpo import aligned, world
from inpo.console import bar, say
from inpo.data.config import DataConfig
from inpo.errors import InputError, RunFault, nearest
from inpo.generation import GenerationConfig, check_scheduler, check_steps, generate
from inpo.methods import Method
from inpo.models.config import Lora, ModelConfig
from inpo.types import PairSource, Scorer

if TYPE_CHECKING:
    from inpo.control import Control, ControlledModel
    from inpo.generation import GenerativeModel, ImageRecord
    from inpo.models.model import Model

WORLD = "world"
WORLD_PAIRS = "world:pairs"
WORLD_SHUFFLED = "world:pairs-shuffled"
PROMPT_SETS = {"world:train": "train", "world:validation": "validation", "world:heldout": "heldout"}
SCORERS = ("world:oracle", "world:clip", "pickscore:DIR", "implicit:RUN")


def resolve_model(config: ModelConfig) -> ModelConfig:
    """The same with `world`, the embedded pipeline, as a folder."""
    return dataclasses.replace(config, path=str(world.pipeline_path())) if config.path == WORLD else config


def load(model: str | ModelConfig, lora: Lora | None = None, seed: int = 0, *, frozen: bool = False) -> Model:
    """A model on this process's device: a folder, a finished run, a hub id, or `world`; with `lora`, under adapters drawn from `seed`.

    `frozen`: it will not be trained, and takes less memory. Raises `InputError`.
    """
    from inpo.models import loading
    from inpo.training.distributed import device

    config = resolve_model(ModelConfig(model) if isinstance(model, str) else model)
    return loading.load(config, device(), lora=lora, seed=seed, frozen=frozen)


def open_pairs(data: str | DataConfig, run: Path | None = None, *, method: Method | None = None, seed: int = 0) -> PairSource:
    """The pairs, or single pictures, at a path or that `data` says.

    run: where rejected.jsonl and the index are kept. method: what will learn from them; data that it cannot learn from are refused
    before they are examined. seed: which picture of a pair comes with data.positive_ratio. Raises `InputError`.
    """
    from inpo.data.derived import ScoredPairs, SinglesOfPairs

    config = DataConfig(data) if isinstance(data, str) else data
    pairs = _stored_pairs(config, run, method)
    if config.scorer is not None:
        pairs = ScoredPairs(pairs, scorer(config.scorer), config)
    return pairs if config.positive_ratio is None else SinglesOfPairs(pairs, config.positive_ratio, seed)


def _stored_pairs(config: DataConfig, run: Path | None, method: Method | None) -> PairSource:
    if config.path in (WORLD_PAIRS, WORLD_SHUFFLED):
        from inpo.world.pairs import WorldPairs

        if config.score_columns is not None:
            raise InputError(f"data.path={config.path} has no columns for data.score_columns: use data.scorer and data.score_range")
        return WorldPairs(shuffled=config.path == WORLD_SHUFFLED)
    from inpo.data.sources import ParquetPairs

    pairs = ParquetPairs.open(config, folder=run, progress=bar("rows examined"), method=method)
    if run is not None and (rejected := pairs.tally.rejected):
        say(f"{rejected} of {pairs.tally.rows} rows are left out, as {run / 'rejected.jsonl'} explains")
    return pairs


def prompt_set(name: str) -> tuple[str, ...]:
    """Prompts by the name of a set (`world:heldout`) or from a file. Raises `InputError`."""
    from inpo.evaluation.prompts import read_prompts
    from inpo.world.shapes import prompts

    if name in PROMPT_SETS:
        return prompts(PROMPT_SETS[name])
    if name.startswith("world:") or not Path(name).exists():
        near, sets = nearest(name, [*PROMPT_SETS, *map(str, Path(name).parent.glob("*.*"))]), ", ".join(PROMPT_SETS)
        raise InputError(f"{name!r} is neither a prompt set nor a file{near}; give a file with a prompt a line, or one of {sets}")
    return read_prompts(Path(name))


def scorer(name: str) -> Scorer:
    """A scorer by name. Raises `InputError`."""
    if name == "world:oracle":
        from inpo.world.oracle import OracleScorer

        return OracleScorer()
    from inpo.evaluation.rewards.pickscore import PickScore
    from inpo.training.distributed import device

    if name == "world:clip":
        return PickScore(world.scorer_path(), name=name, device=device())
    kind, _, folder = name.partition(":")
    if kind == "pickscore" and folder:
        return PickScore(Path(folder).expanduser(), name=name, device=device())
    if kind == aligned.PREFIX and folder:
        return aligned.implicit_scorer(name, partial(load, frozen=True))
    raise InputError(f"{name!r} is not a scorer{nearest(name, SCORERS)}; known: {', '.join(SCORERS)}")


@contextmanager
def naming(option: str) -> Iterator[None]:
    """What is wrong with a model is said of `option`, where that and no setting is what the user typed."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("model.path", option)) from error


def check_generator(model: str | ModelConfig, config: GenerationConfig, option: str) -> None:
    """Raises `InputError` for whatever can be known to be wrong before weights are read."""
    from inpo.models.parts import examine

    with naming(option):
        parts = examine(resolve_model(ModelConfig(model) if isinstance(model, str) else model))
        check_steps(parts.schedule, config)
        check_scheduler(parts.prediction_type, config)
        if config.resolution is not None:
            parts.require_side(config.resolution)


@contextmanager
def drawing(config: GenerationConfig) -> Iterator[None]:
    """Inside, memory that does not suffice for a model or its pictures becomes a `RunFault` of one line, which says what to lower."""
    from inpo.training.memory import is_out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
        now = "" if config.batch is None else f" (now {config.batch})"
        raise RunFault(
            f"out of memory while pictures were made ({said}): lower --batch{now}, then --resolution, or set --dtype bf16; "
            "pictures that were made are kept"
        ) from error.with_traceback(None)


def generate_pictures(
    model: str | ModelConfig, prompts: str, out: Path, config: GenerationConfig, *, control: Control | None = None, force: bool = False
) -> list[ImageRecord]:
    """`inpo generate`: one picture per prompt and sample in `out`; with `control` they follow pictures too.

    Raises `InputError`, and `RunFault` where memory does not suffice.
    """
    wanted = prompt_set(prompts)
    files = control.files(len(wanted)) if control else ()
    check_generator(model, config, "--model")
    with drawing(config):
        loaded: GenerativeModel = load(model, frozen=True)
        if control:
            loaded = _controlled(cast("Model", loaded), control, files)
        return generate(loaded, wanted, out, config, force=force, progress=bar("pictures"))


def _controlled(model: Model, control: Control, files: tuple[Path, ...]) -> ControlledModel:
    from inpo.control import OPTION, ControlledModel
    from inpo.models.controlnet import load_controlnet

    return ControlledModel(model, load_controlnet(control.network, model, OPTION), files, control.scale)
