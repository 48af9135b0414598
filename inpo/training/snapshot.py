"""What a checkpoint holds: the policy (saved by the model itself), the optimiser, the averaged weights, and where the run stood."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from inpo.errors import InputError
from inpo.scorer_name import scorer_kind
from inpo.training.baseline import GainBaseline
from inpo.training.distributed import processes
from inpo.training.optim import WeightAverage, Weights, load_optimizer_tensors, optimizer_tensors, state_bytes
from inpo.training.scaling import LossScale
from inpo.training.settings import OptimizerName
from inpo.training.subject import Subject

SCHEMA = 1
STATE, OPTIMIZER, POLICY = "state.json", "optimizer.safetensors", "policy"
_OPTIMIZER, _AVERAGE = "optimizer/", "average/"

FREE_KEYS = frozenset({
    "train.save_every_steps", "train.keep", "train.sample_every_steps", "train.micro_batch_pairs", "train.inversion_batch_pairs",
    "train.validate_every_steps", "train.keep_best", "train.result", "train.early_stop", "train.early_stop.metric",
    "train.early_stop.patience", "train.early_stop.min_delta",
    "report_to", "output.format", "model.gradient_checkpointing", "data.path", "data.root", "data.verify", "data.max_rejected_fraction",
})  # fmt: skip
"""What may change when a run is resumed: it moves no number beyond rounding. Where pairs lie is free because what they are is not; nor
is which scorer judges them, but where it lies: the pairs' fingerprint knows its weights."""


def flat(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as dotted keys."""
    rows: dict[str, object] = {}
    for name, value in config.items():
        rows |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return rows


def binding(config: Mapping[str, object]) -> dict[str, object]:
    """The settings that a checkpoint and its continuation must share. A constant learning rate does not care how long the run is."""
    rows = flat(config)
    if isinstance(scorer := rows.get("data.scorer"), str):
        rows["data.scorer"] = scorer_kind(scorer)
    free = FREE_KEYS | ({"train.steps"} if rows.get("optimizer.schedule") == "constant" else set())
    return {key: value for key, value in sorted(rows.items()) if key not in free}


def config_sha256(config: Mapping[str, object]) -> str:
    """Hex digest of the binding settings."""
    return hashlib.sha256(json.dumps(binding(config), default=str).encode()).hexdigest()


def check_same_config(folder: Path, ours: Mapping[str, object], theirs: Mapping[str, object]) -> None:
    """Raises `InputError` with a table of the settings that differ between this run and a checkpoint's."""
    plain, saved = (json.loads(json.dumps(binding(config), default=str)) for config in (ours, theirs))
    keys = [key for key in sorted(plain.keys() | saved.keys()) if plain.get(key) != saved.get(key)]
    if not keys:
        return
    width = max(map(len, keys))
    rows = [f"  {key:<{width}}  checkpoint: {saved.get(key)!r}  this run: {plain.get(key)!r}" for key in keys]
    said = "was made with other settings; resume with its own, or start a new run"
    if keys == ["train.steps"]:
        said = _OTHER_LENGTH.format(schedule=plain.get("optimizer.schedule"), steps=saved.get("train.steps"))
    raise InputError(f"{folder} {said}:\n" + "\n".join(rows))


_OTHER_LENGTH = (
    "cannot be continued for another number of steps: under optimizer.schedule={schedule} every step's learning rate depends on "
    "train.steps. Resume it with train.steps={steps}; or start anew with the number that you want; or start a new run from its result, "
    "model.path=RUN/model, which is then also the reference. Runs with optimizer.schedule=constant can be made longer at any time"
)


@dataclass(frozen=True)
class Snapshot:
    """What moves during a run and must survive it. `average`, `scale`, `baseline` are None where the run has none."""

    subject: Subject
    optimizer: torch.optim.Optimizer
    weights: Weights
    average: WeightAverage | None
    scale: LossScale | None = None
    optimizer_name: OptimizerName = "adamw"
    baseline: GainBaseline | None = None

    @cached_property
    def reference_sha256(self) -> str | None:
        """Of the weights that the run is compared with: seconds for a large model, so once."""
        return self.subject.reference_sha256()

    @cached_property
    def component_sha256(self) -> dict[str, str]:
        """Of what else is frozen, by component: seconds, so once."""
        return self.subject.component_sha256()

    def is_finite(self) -> bool:
        """Whether every weight, average and moment is a number."""
        averages = self.average.tensors.values() if self.average else ()
        tensors = (*self.weights.values(), *averages, *optimizer_tensors(self.optimizer, self.weights).values())
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    def write(self, folder: Path, step: int, config: Mapping[str, object], watch: Mapping[str, object]) -> None:
        """Fills a folder: policy/, optimizer.safetensors, state.json. `watch`: what the held-out pairs have said so far."""
        (folder / POLICY).mkdir()
        self.subject.save_policy(folder / POLICY)
        tensors = {_OPTIMIZER + name: value for name, value in optimizer_tensors(self.optimizer, self.weights).items()}
        if self.average:
            tensors |= {_AVERAGE + name: value for name, value in self.average.tensors.items()}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / OPTIMIZER)
        state = {
            "schema": SCHEMA, "step": step, "torch": torch.__version__, "processes": processes().num_processes,
            "reference_sha256": self.reference_sha256, "component_sha256": self.component_sha256, "watch": watch,
            "loss_scale": self.scale.state() if self.scale else None,
            "gain_baseline": self.baseline.state() if self.baseline else None, "config": config,
        }  # fmt: skip
        (folder / STATE).write_text(json.dumps(state, indent=1, default=str) + "\n", encoding="utf-8")

    def read(self, folder: Path) -> None:
        """Puts a checkpoint's weights, optimiser and average in place. Raises `InputError` naming what is missing or not this run's."""
        self._check_same_reference(folder)
        self._check_same_components(folder)
        self.read_weights(folder)
        load_optimizer_tensors(self.optimizer, self.weights, _below(_tensors(folder / OPTIMIZER), _OPTIMIZER))
        if self.scale:
            self.scale.load(read_state(folder).get("loss_scale"))
        if self.baseline:
            self.baseline.load(read_state(folder).get("gain_baseline"))

    def read_weights(self, folder: Path) -> None:
        """The policy and the average alone: all that a result is made of."""
        self.subject.load_policy(folder / POLICY)
        if self.average:
            self.average.load(_below(_tensors(folder / OPTIMIZER), _AVERAGE))

    def _check_same_reference(self, folder: Path) -> None:
        theirs = read_state(folder).get("reference_sha256")
        if theirs is not None and self.reference_sha256 not in (theirs, None):
            raise InputError(
                f"{folder}: the base model is not the one that its run started from: the reference's sha256 is {theirs} there and "
                f"{self.reference_sha256} here; put the model of model.path back as it was, or start a new run"
            )

    def _check_same_components(self, folder: Path) -> None:
        theirs, ours = read_state(folder).get("component_sha256"), self.component_sha256
        # Older checkpoints do not say.
        if not isinstance(theirs, Mapping) or not theirs or not ours:
            return
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                raise InputError(
                    f"{folder}: the model's {name} is not the one that its run started from: its sha256 is {theirs.get(name)} there and "
                    f"{ours.get(name)} here; put the model of model.path back as it was, or start a new run"
                )

    def expected_bytes(self) -> int:
        """About how large a checkpoint will be: weights, the optimiser's state, average."""
        copies = 2 if self.average else 1
        state = sum(state_bytes(self.optimizer_name, parameter.shape) for parameter in self.weights.values())
        return state + copies * sum(parameter.numel() * parameter.element_size() for parameter in self.weights.values())


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: missing; the run cannot continue from weights alone")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from error
    return tensors


def read_state(folder: Path) -> dict[str, object]:
    """state.json of a checkpoint. Raises `InputError` if it is not there or cannot be read."""
    path = folder / STATE
    if not path.is_file():
        raise InputError(f"{path}: missing; the checkpoint is not complete")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA or not isinstance(state.get("config"), dict):
        raise InputError(f"{path}: schema {state.get('schema') if isinstance(state, dict) else None!r} cannot be read; expected {SCHEMA}")
    return state
