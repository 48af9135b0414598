"""`inpo train`: an experiment becomes a run folder with the aligned model in it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from inpo import world
from inpo.compose import WORLD_PAIRS, WORLD_SHUFFLED, load, open_pairs, prompt_set, resolve_model
from inpo.config import Experiment
from inpo.console import say
from inpo.errors import InputError, Interrupted
from inpo.files import replacing
from inpo.generation import GenerationConfig, SampleGrid
from inpo.models.base import ADAPTER_FILE
from inpo.results.card import CARD, Card
from inpo.types import PairSource

if TYPE_CHECKING:
    from torch import nn

    from inpo.data.loader import EncodedPairs
    from inpo.evaluation.summary import MethodSummary
    from inpo.models.adapted import AdaptedModel
    from inpo.models.model import Model
    from inpo.models.parts import Parts
    from inpo.training.fit import FitResult
    from inpo.training.metrics import Sink
    from inpo.training.run import RunFolder

GRID_PROMPTS = 8
GRID_CAPTIONS = 64
GRID_STEPS = 20


def examine_model(experiment: Experiment) -> Parts:
    """Whatever of a run's model can be refused before weights or pairs are read. Raises `InputError`."""
    from inpo.models.parts import examine

    parts = examine(resolve_model(experiment.model))
    if experiment.data.sizes == "original":
        parts.family.require_sizes()
    parts.family.require_part(experiment.output.format, "output.format")
    if experiment.data.resolution is not None:
        parts.require_side(experiment.data.resolution)
    return parts


@dataclass(frozen=True)
class Resume:
    """What to do with an output folder that is not empty: continue it from `checkpoint`, or replace it by `force`."""

    checkpoint: str | None = None
    force: bool = False


Look = Callable[["Model", int], None]
"""What looks at the model as it is at a step."""


def train(
    experiment: Experiment, out: Path, resume: Resume | None = None, *, look: Look | None = None, pairs: Path | None = None
) -> FitResult:
    """`inpo train`: a run folder with the aligned model in `out`/model.

    `look` is called where sample pictures would be made, and instead of them (`train.sample_every_steps`).
    `pairs`: a folder that keeps the list of pairs for several runs; None keeps the run's own in `out`.

    Raises `InputError`, `RunFault`, and `Interrupted` once the last completed step is saved.
    """
    from inpo.training.run import open_run

    resume = resume or Resume()
    check_trackers(experiment)
    tree = experiment.to_tree()
    with open_run(
        out, tree, config_text=experiment.to_yaml(), resume=resume.checkpoint, force=resume.force, reread=_as_read_today
    ) as run:
        return _train(experiment, run, look, pairs=pairs or out)


def check_folder(experiment: Experiment, out: Path, resume: Resume) -> None:
    """Raises `InputError` if `train` would refuse this folder or checkpoint; writes nothing."""
    from inpo.training.run import check_run

    check_run(out, experiment.to_tree(), resume=resume.checkpoint, force=resume.force, reread=_as_read_today)


def _as_read_today(settings: Mapping[str, object]) -> Mapping[str, object]:
    """Settings of an older version, completed with today's defaults; unchanged if they can no longer be read."""
    try:
        return Experiment.from_tree(settings).to_tree()
    except InputError:
        return settings


def _train(experiment: Experiment, run: RunFolder, look: Look | None, *, pairs: Path) -> FitResult:
    from inpo.data.loader import EncodedPairs
    from inpo.training.disk import reporting
    from inpo.training.distributed import on_main, processes
    from inpo.training.fit import Callbacks, fit
    from inpo.training.memory import told_as_fault
    from inpo.training.subject import Subject

    # Before the pairs: a recipe for another model must not cost the examination of a million of them first.
    if absent := on_main(lambda: sorted(examine_model(experiment).absent)):
        say(f"the model has no {' and no '.join(absent)}: zeros stand in the place of what it would make of a prompt")
    say("examining the pairs")
    with reporting(run.path):
        if processes().num_processes > 1:
            # One process examines the pictures; the others read the index that it keeps.
            on_main(lambda: _open_data(experiment, pairs).fingerprint)
        source = _open_data(experiment, pairs)
    run.data_sha256 = source.fingerprint
    run.check_same_data()
    say("loading the model")
    with told_as_fault("loading", experiment.train):
        model = load(experiment.model, experiment.lora, experiment.train.seed)
        needs = experiment.method.objective.needs
        reference = model.reference() if needs.reference or experiment.method.noising.inverter == "reference" else None
    data = dataclasses.replace(experiment.data, resolution=experiment.data.resolution or model.default_resolution)
    subject = Subject(
        model.policy, reference, model.save_policy, model.load_policy, dtype=experiment.model.dtype, components=components(model)
    )
    # Captions are read from the data for it, so it is made only where it is used.
    sample = _sample(experiment, model, source, run=run.path, look=look) if experiment.train.sample_every_steps else None
    callbacks = Callbacks(sample, _sinks(experiment, run))
    with EncodedPairs(
        source, model.encoder, config=data, seed=experiment.train.seed, pairs_per_step=experiment.train.pairs_per_step
    ) as loader:
        with told_as_fault("loading", experiment.train):
            free_encoder(experiment, model, loader, start=run.start)
        result = fit(subject, loader, method=experiment.method, settings=experiment.settings, run=run, callbacks=callbacks)
    if result.signal is not None:
        raise Interrupted(result.signal, result.step, resumable=not result.earlier_restored)
    with reporting(run.path / "model"):
        on_main(lambda: _finish(model, experiment, run.path, result, pairs=source.size))
    return result


def components(model: Model) -> dict[str, nn.Module | dict[str, object]]:
    """What a run's numbers depend on beside the network, as folders and files of the pipeline are called."""
    from inpo.models.prompts import Absent

    encoder = model.encoder
    towers = zip(model.family.text_encoders, encoder.towers, strict=True)
    return {
        # A sampler's class, and the version of the library that wrote the file, change no training.
        "scheduler/scheduler_config.json": {key: value for key, value in model.scheduler_config.items() if not key.startswith("_")},
        "vae": encoder.vae,
        "vae/config.json": {key: encoder.vae.config.get(key) for key in ("scaling_factor", "shift_factor")},
        **{component.name: tower.network for component, tower in towers if not isinstance(tower, Absent)},
    }


def _open_data(experiment: Experiment, folder: Path) -> PairSource:
    return open_pairs(experiment.data, folder, method=experiment.method, seed=experiment.train.seed)


def check_trackers(experiment: Experiment) -> None:
    """Raises `InputError` for a tracker that `report_to` names and that is not installed."""
    from inpo.training.trackers import require_wandb

    if "wandb" in experiment.report_to:
        require_wandb()


def free_encoder(experiment: Experiment, model: Model, loader: EncodedPairs, *, start: int) -> None:
    """Encodes ahead and takes the encoder from the accelerator, where all that the run will ask for fits in memory."""
    from inpo.training.distributed import processes

    per_step = experiment.train.pairs_per_step
    # Each of several processes would have to encode what all of them need.
    alone = processes().num_processes == 1
    if alone and model.device.type != "cpu" and loader.encode_ahead(range(start * per_step, experiment.train.steps * per_step)):
        model.encoder.move("cpu")
        say("every pair is encoded: the VAE and the text encoders leave the accelerator")


def _sinks(experiment: Experiment, run: RunFolder) -> list[Sink]:
    from inpo.training.distributed import is_main
    from inpo.training.metrics import Progress
    from inpo.training.trackers import TensorBoard, WeightsAndBiases

    if not is_main():
        return []
    sinks: list[Sink] = [Progress(experiment.train.steps, start=run.start)]
    if "wandb" in experiment.report_to:
        sinks.append(WeightsAndBiases(run.path, run.config))
    if "tensorboard" in experiment.report_to:
        sinks.append(TensorBoard(run.path / "tensorboard", start=run.start))
    return sinks


def _finish(model: Model, experiment: Experiment, run: Path, result: FitResult, *, pairs: int | None) -> None:
    save_result(model, experiment, run / "model", pairs=pairs)
    write_training_summary(experiment, run, result, pairs=pairs)


def save_result(model: Model, experiment: Experiment, folder: Path, *, pairs: int | None = None) -> None:
    """What users load without this package, and its card. `pairs`: how many there were to train on."""
    if experiment.output.format == "lora":
        cast("AdaptedModel", model).save_adapter(folder)
    elif experiment.output.format in ("unet", "transformer"):
        model.save_network(folder / experiment.output.format)
    else:
        model.save_pipeline(folder)
    file = {"lora": ADAPTER_FILE, "pipeline": None}.get(experiment.output.format, experiment.output.format)
    name = folder.resolve().parent.name
    here = f"{name}/{folder.name}"
    card = Card(name, experiment.output.format, model.family, experiment, pairs=pairs, file=file, absent=model.absent, here=here)
    with replacing(folder / CARD) as partial:
        partial.write_text(card.text(), encoding="utf-8")


def _sample(experiment: Experiment, model: Model, source: PairSource, *, run: Path, look: Look | None) -> Callable[[int], None]:
    grid = _sample_grid(experiment, model, source, run) if look is None else None

    def sample(step: int) -> None:
        with model.encoder.at_work(model.device):
            if look is not None:
                look(model, step)
            elif grid is not None:
                grid(step)

    return sample


def _sample_grid(experiment: Experiment, model: Model, source: PairSource, run: Path) -> SampleGrid:
    """Validation prompts of the world for the world's pairs, and else the first captions of the data."""
    from inpo.data.derived import origin

    of_world = experiment.data.path in (WORLD_PAIRS, WORLD_SHUFFLED)
    rows = range(GRID_CAPTIONS if source.size is None else min(GRID_CAPTIONS, source.size))
    # A caption is the same however its pair is judged, so no scorer is asked for it.
    stored = origin(source)
    prompts = prompt_set("world:validation") if of_world else tuple(dict.fromkeys(stored[i].caption for i in rows))
    config = GenerationConfig(
        steps=GRID_STEPS,
        guidance=world.GUIDANCE if of_world else None,
        # Guidance doubles each picture as a pair has two: what inverts in this much memory samples in it, and at the size trained on.
        batch=experiment.train.inversion_batch_pairs,
        resolution=experiment.data.resolution,
    )
    return SampleGrid(model, run, prompts[:GRID_PROMPTS], config)


def write_training_summary(experiment: Experiment, run: Path, result: FitResult, *, pairs: int | None = None) -> None:
    """summary.json of a run that was trained and not evaluated yet."""
    from inpo.evaluation.summary import SUMMARY, write_summary

    methods = {experiment.method.name: dataclasses.replace(_training_numbers(experiment, run, result), pairs=pairs)}
    write_summary(run / SUMMARY, kind="train", baseline="base", methods=methods)


def _training_numbers(experiment: Experiment, run: Path, result: FitResult) -> MethodSummary:
    """What summary.json says about how a method was trained, from metrics.jsonl: so it holds for resumed runs too."""
    from inpo.evaluation.summary import MethodSummary

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["step"] > 0]
    pairs = experiment.train.pairs_per_step
    seconds = sum(pairs / line["pairs_per_second"] for line in lines)
    if not lines:
        return MethodSummary(steps=result.step)
    return MethodSummary(
        result_step=result.result_step,
        stopped=result.stopped,
        steps=lines[-1]["step"],
        beta=getattr(experiment.method.objective, "beta", None),
        lr=experiment.optimizer.lr,
        seeds=(experiment.train.seed,),
        pairs_per_second=len(lines) * pairs / seconds,
        unet_forwards_per_pair=sum(line["unet_forwards_per_pair"] for line in lines) / len(lines),
        seconds=seconds,
    )
