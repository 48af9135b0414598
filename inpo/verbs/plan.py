"""`inpo train --dry-run`: what a run would be, before anything is trained."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator

from inpo.compose import open_pairs
from inpo.config import Experiment
from inpo.data.derived import origin
from inpo.data.loader import require_a_step
from inpo.data.order import held_rows
from inpo.data.sources import ParquetPairs
from inpo.errors import InputError
from inpo.methods import Method
from inpo.models.sizes import ModelSizes, model_sizes
from inpo.noising import Noising
from inpo.objectives import Objective, Safeguard
from inpo.schedule import Schedule
from inpo.training.optim import WORD, state_bytes
from inpo.training.watch import check_watched
from inpo.types import Dtype
from inpo.verbs.alignment import check_trackers, examine_model

GIB = 1 << 30
# Of a frozen weight of the network, or of T5.
STORED_BYTES: dict[Dtype, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


def describe(experiment: Experiment) -> str:
    """The plan as text: data, sizes, memory of the weights' share, and forwards. Opens the data, reads no weights of the model.

    Raises `InputError` for whatever would stop the run at its entrance.
    """
    check_trackers(experiment)
    parts = examine_model(experiment)
    try:
        cost = forwards_per_pair(experiment.method, parts.schedule)
    except ValueError as error:
        raise InputError(f"method.noising does not suit this model: {error}") from error
    data = _training_data(experiment)
    if data.singles:
        cost = forwards_per_pair(experiment.method, parts.schedule, singles=True)
    rows = list(_rows(experiment, model_sizes(parts, experiment.lora), data, cost))
    width = max(18, *(len(name) for name, _ in rows))
    return "\n".join(f"{name:{width}} {value}" for name, value in rows)


def _rows(experiment: Experiment, sizes: ModelSizes, data: _Data, cost: Forwards) -> Iterator[tuple[str, str]]:
    train = experiment.train
    seen = train.steps * train.pairs_per_step
    yield "method", f"{experiment.method.title} ({experiment.method.paper})"
    yield "noising", _with_numbers(experiment.method.noising)
    yield "objective", _with_numbers(experiment.method.objective)
    if experiment.method.safeguard is not None:
        yield "safeguard", _with_numbers(experiment.method.safeguard)
    frozen = _millions(sizes.frozen + sizes.t5)
    yield "model", f"{experiment.model.path}: {sizes.title} {_millions(sizes.network)}, VAE and text encoder {frozen}"
    yield "trained", _trained(experiment, sizes)
    resolution = experiment.data.resolution or sizes.latent_side * sizes.pixels_per_latent
    side = resolution // sizes.pixels_per_latent
    own = f" (the model's own size has {sizes.latent_side}×{sizes.latent_side})" if side != sizes.latent_side else ""
    yield "pictures", f"{resolution}×{resolution}, latents {sizes.latent_channels}×{side}×{side}{own}"
    epochs = "" if data.available is None else f", {seen / data.available:.2f} epochs"
    used = f"{seen} used: {train.steps} steps × {train.pairs_per_step}{epochs}"
    many, one = ("single pictures", "picture") if data.singles else ("pairs", "pair")
    yield many, f"{'endless' if data.available is None else data.available} to train on{data.others}; {used}"
    yield f"{sizes.title} per {one}", f"{cost.train:g} train + {cost.reference:g} reference + {cost.inversion:g} inversion image-forwards"
    yield f"{sizes.title} in all", f"{seen * cost.total:,.0f} image-forwards, of which {seen * cost.train:,.0f} with a backward pass"
    yield "optimiser", f"{experiment.optimizer.name}, effective learning rate {experiment.optimizer.lr:g}, clip {experiment.optimizer.clip}"
    yield "memory", f"{_weights_bytes(experiment, sizes) / GIB:.2f} GiB for weights, gradients and optimiser; activations come on top"


def _trained(experiment: Experiment, sizes: ModelSizes) -> str:
    lora = experiment.lora
    if lora is None:
        return f"all {_millions(sizes.network)} of the {sizes.title}"
    count = sum(map(math.prod, sizes.adapter_shapes))
    return (
        f"{'DoRA' if lora.dora else 'LoRA'} of rank {lora.rank} on {sizes.adapted_layers} layers: {count:,} of the {sizes.title}'s "
        f"{_millions(sizes.network)} ({count / sizes.network:.2%}); the reference is the same network without them"
    )


@dataclasses.dataclass(frozen=True)
class _Data:
    """How many pairs or single pictures are trained on, None where they never end, and what became of the others."""

    singles: bool
    available: int | None
    others: str


def _training_data(experiment: Experiment) -> _Data:
    """What is trained on.

    Raises `InputError` where they do not fill a step, or where none is held out and a metric of held-out pairs is asked for.
    """
    source = open_pairs(experiment.data, method=experiment.method, seed=experiment.train.seed)
    if source.size is None:
        return _Data(source.singles, None, "")
    held = int(held_rows(source, experiment.data.validation_fraction).sum())
    per_step = experiment.train.pairs_per_step
    require_a_step(experiment.data, train=source.size - held, held=held, pairs_per_step=per_step, singles=source.singles)
    check_watched(experiment.train, experiment.method.objective, held_out=held > 0, singles=source.singles)
    stored = origin(source)
    rejected = f", {stored.tally.rejected} rejected" if isinstance(stored, ParquetPairs) else ""
    return _Data(source.singles, source.size - held, f", {held} held out{rejected}")


def _weights_bytes(experiment: Experiment, sizes: ModelSizes) -> int:
    """Bytes of what is trained, its gradient, optimiser state and average, VAE and CLIP (all fp32), T5, and the reference if there is one.

    The reference is stored in the dtype that it computes in, and so is the frozen network under adapters, which is the reference too.
    T5 is fp32 or bf16, and on the device only while it encodes.
    """
    shapes = sizes.adapter_shapes if experiment.lora else sizes.network_shapes
    trained = (2 + (experiment.train.average_decay is not None)) * sum(map(math.prod, shapes))
    stored = STORED_BYTES[experiment.model.dtype]
    total = WORD * (trained + sizes.frozen) + stored * sizes.t5 + sum(state_bytes(experiment.optimizer.name, shape) for shape in shapes)
    return total + stored * sizes.network * (experiment.lora is not None or experiment.method.objective.needs.reference)


@dataclasses.dataclass(frozen=True)
class Forwards:
    """Image-forwards per pair or single picture, averaged over t: with gradient, by the reference, and to find the training point."""

    train: float
    reference: float
    inversion: float

    @property
    def total(self) -> float:
        """All three."""
        return self.train + self.reference + self.inversion


def forwards_per_pair(method: Method, schedule: Schedule, *, singles: bool = False) -> Forwards:
    """What a method costs by its own declaration, on pairs or on single pictures; tests hold it to what hooks count."""
    images = 2 if method.objective.needs.lose and not singles else 1
    trained = images * method.noising.points_per_pair
    reference = trained if method.objective.needs.reference else 0
    return Forwards(trained, reference, images * method.noising.mean_evaluations(schedule))


def _with_numbers(part: Noising | Objective | Safeguard) -> str:
    """A noising or an objective by its name and all its numbers."""
    numbers = dataclasses.asdict(typing.cast("typing.Any", part))
    return f"{type(part).__name__}: {', '.join(f'{name} {value}' for name, value in numbers.items()) or 'no numbers'}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
