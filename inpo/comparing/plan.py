"""Which cells a comparison is made of, what determines each of them, and what each will cost."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from inpo.comparing.cells import Cell, Key, digest_of, stem
from inpo.comparing.judge import Judge, check_apart, check_reached, judge_of, of_trials
from inpo.comparing.kept import Kept
from inpo.comparing.spec import AGAIN, BASE, Arm, Comparison
from inpo.compose import open_pairs, resolve_model
from inpo.config import Experiment, build, merged
from inpo.data.config import DataConfig
from inpo.errors import InputError
from inpo.methods import method
from inpo.models.config import ModelConfig
from inpo.models.parts import examine
from inpo.scorer_name import scorer_kind
from inpo.training.snapshot import FREE_KEYS, flat
from inpo.verbs.plan import forwards_per_pair

KNOB_SEED = 1_000
"""Training seeds of the trials start here: the table's are fresh ones."""
OTHER_SEED = 1_000_003
"""Between the sampling seeds of the base against itself."""

Role = Literal["base", "knobs", "table"]
Choice = Mapping[str, object]
"""Knobs: dotted setting ↦ value."""


@dataclass(frozen=True)
class Planned:
    """A cell to be made, or there already. `experiment` is None for the base; `seed`: of training, for the base of sampling.

    singles: its data are single pictures, so a step asks for one image where a pair has two.
    """

    arm: str
    role: Role
    seed: int
    judge: Judge
    model: ModelConfig
    identity: Mapping[str, object]
    experiment: Experiment | None = None
    knobs: Choice = dataclasses.field(default_factory=dict)
    trial: int | None = None
    singles: bool = False

    @cached_property
    def digest(self) -> str:
        """Of its identity."""
        return digest_of(self.identity)

    @property
    def stem(self) -> str:
        """Its file's name without `.json`."""
        return stem(self.arm, self.role, self.seed, self.digest, self.trial)

    @property
    def keys(self) -> list[Key]:
        """The points asked for; the base's are at step 0."""
        if self.experiment is None:
            return [(0, *sampling) for sampling in self.judge.judging.samplings(whole_grid=self.arm == BASE)]
        return self.judge.judging.points(self.experiment.train.steps)

    @cached_property
    def settings(self) -> dict[str, object]:
        """All of the run's settings that move a number, by dotted name; {} for the base."""
        return {} if self.experiment is None else moving(self.experiment)

    @property
    def forwards(self) -> float:
        """Network image-forwards, of training (the backward passes come on top) and of the pictures."""
        pictures = self.judge.forwards(self.keys)
        if self.experiment is None:
            return pictures
        train, schedule = self.experiment.train, examine(resolve_model(self.model)).schedule
        cost = forwards_per_pair(self.experiment.method, schedule, singles=self.singles)
        return pictures + train.steps * train.pairs_per_step * cost.total

    def accepts(self, cell: Cell) -> bool:
        """Whether a cell of this digest is it: every setting that both know is equal, and every point is there, with every scorer's scores.

        Settings that came into being later are absent from older cells, and at their defaults in this one's identity.
        """
        ours = _plain(self.settings)
        same = all(cell.settings[key] == value for key, value in ours.items() if key in cell.settings)
        same = same and not _lacks_section(ours, cell.settings) and not _lacks_section(cell.settings, ours)
        return same and cell.prompts == list(self.judge.prompts) and cell.holds(self.keys, self.judge.labels)


def moving(experiment: Experiment) -> dict[str, object]:
    """Settings that change a run's numbers. Where model, data and scorer lie is left out: fingerprints stand for them."""
    kept = {key: value for key, value in flat(experiment.to_tree()).items() if key not in FREE_KEYS}
    places = ("model.path", "model.unet", "model.transformer", "model.vae", "model.config")
    if experiment.data.scorer is not None:
        kept["data.scorer"] = scorer_kind(experiment.data.scorer)
    return {key: value for key, value in kept.items() if key not in places}


@dataclass(frozen=True)
class _Data:
    """What a plan has to know of the pairs."""

    fingerprint: str
    singles: bool


class Plan:
    """All cells of a comparison, as far as the choices of knobs are known. `out`: its folder, for what need not be worked out again."""

    def __init__(self, comparison: Comparison, out: Path | None = None) -> None:
        self.comparison = comparison
        self._kept = Kept(out)
        self.judge = judge_of(comparison.evaluation)
        self._knob_judge = None if comparison.knobs is None else judge_of(of_trials(comparison.knobs, comparison.evaluation))
        if self._knob_judge is not None:
            check_apart(self.judge, self._knob_judge)
        self._models: dict[ModelConfig, str] = {}
        self._data: dict[DataConfig, _Data] = {}
        self._runs: dict[object, Planned] = {}
        self._experiments = {name: self._experiment(name, arm) for name, arm in comparison.arms.items()}
        check_reached(comparison.evaluation, max(each.train.steps for each in self._experiments.values()))

    def experiment(self, name: str) -> Experiment:
        """An arm's, before its knobs are chosen."""
        return self._experiments[name]

    def base(self) -> list[Planned]:
        """The base, and the base again under other sampling seeds."""
        model = self.model
        cells = [(BASE, 0), *((AGAIN, OTHER_SEED * (i + 1)) for i in range(self.comparison.base_again))]
        return [self._base(name, seed, model) for name, seed in cells]

    @cached_property
    def model(self) -> ModelConfig:
        """The base, which every arm is judged against: the file's own `settings.model`, or the first arm's where it has none."""
        shared = _nested(self.comparison.settings).get("model")
        if not isinstance(shared, dict) or "path" not in shared:
            return next(iter(self._experiments.values())).model
        return build(ModelConfig, shared, "settings.model")

    def starts_elsewhere(self, name: str) -> bool:
        """Whether an arm's training starts from another model than the base."""
        return self._model_fingerprint(self._experiments[name].model) != self._model_fingerprint(self.model)

    def _base(self, name: str, seed: int, model: ModelConfig) -> Planned:
        identity = {"kind": "base", "model": self._model_fingerprint(model), "sampling_seed": seed, **self.judge.identity}
        return Planned(name, "base", seed, self.judge, model, identity)

    def trials(self, name: str) -> list[Planned]:
        """The trials that choose an arm's knobs; [] where nothing is chosen."""
        grid = self.comparison.grid_of(self.comparison.arms[name])
        if not grid or self.comparison.knobs is None:
            return []
        seeds = range(KNOB_SEED, KNOB_SEED + self.comparison.knobs.seeds)
        values = itertools.product(*grid.values())
        choices = [self._absolute(name, dict(zip(grid, each, strict=True))) for each in values]
        return [self._run(name, "knobs", seed, choice, i) for i, choice in enumerate(choices) for seed in seeds]

    def table(self, name: str, choice: Choice) -> list[Planned]:
        """An arm's runs for the table, one a training seed, with these knobs."""
        seeds = self.comparison.arms[name].seeds or 1
        return [self._run(name, "table", seed, choice) for seed in range(seeds)]

    def _absolute(self, name: str, choice: Choice) -> Choice:
        own = flat(self._experiments[name].to_tree())
        return {key: _times(f"arms.{name}.grid.{key}", value, own.get(key)) for key, value in choice.items()}

    def _run(self, name: str, role: Role, seed: int, choice: Choice, trial: int | None = None) -> Planned:
        key = name, role, seed, trial, str(choice)
        if key not in self._runs:
            self._runs[key] = self._new_run(name, role, seed, choice, trial)
        return self._runs[key]

    def _new_run(self, name: str, role: Role, seed: int, choice: Choice, trial: int | None) -> Planned:
        tree = self._experiments[name].to_tree()
        for key, value in {**choice, "train.seed": seed}.items():
            tree = merged(tree, nested(key, value))
        experiment = _naming(name, tree)
        judge = self._knob_judge if role == "knobs" and self._knob_judge else self.judge
        data = self._opened(experiment.data)
        identity = {
            "kind": "trained", "model": self._model_fingerprint(experiment.model), "data": data.fingerprint,
            "settings": _unusual(experiment), **judge.identity,
        }  # fmt: skip
        return Planned(name, role, seed, judge, experiment.model, identity, experiment, choice, trial, singles=data.singles)

    def _experiment(self, name: str, arm: Arm) -> Experiment:
        tree: dict[str, object] = merged({"method": {"name": arm.method}}, _nested(self.comparison.settings))
        experiment = _naming(name, merged(tree, _nested(arm.settings)))
        if experiment.method.name != arm.method:
            raise InputError(f"arms.{name}.settings: method.name={experiment.method.name!r} is not arms.{name}.method={arm.method!r}")
        for key in ("early_stop", "keep_best"):
            if getattr(experiment.train, key) is not None:
                raise InputError(f"arms.{name}: train.{key} is set: in a comparison a run is judged at evaluation.at and at its last step")
        return experiment

    def _model_fingerprint(self, model: ModelConfig) -> str:
        if model not in self._models:
            self._models[model] = self._kept.model_fingerprint(model)
        return self._models[model]

    def _opened(self, data: DataConfig) -> _Data:
        if data not in self._data:
            source = open_pairs(data, self._kept.pairs(data))
            self._data[data] = _Data(source.fingerprint, source.singles)
        return self._data[data]


def _naming(arm: str, tree: Mapping[str, object]) -> Experiment:
    """What is wrong with an experiment is said of its arm."""
    try:
        return Experiment.from_tree(tree)
    except InputError as error:
        raise InputError(f"arms.{arm}: {error}") from None


def _nested(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings with dotted keys, nested."""
    tree: dict[str, object] = {}
    for key, value in settings.items():
        tree = merged(tree, nested(key, _nested(value) if isinstance(value, dict) else value))
    return tree


def nested(key: str, value: object) -> dict[str, object]:
    """{"a": {"b": value}} for "a.b"."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast("dict[str, object]", value)


def _times(key: str, value: object, own: object) -> object:
    """ "x0.1" is a tenth of the arm's `own` value; anything else is itself."""
    if not isinstance(value, str) or not value.startswith("x"):
        return value
    try:
        factor = float(value[1:])
    except ValueError:
        raise InputError(f"{key}={value!r} must be a value, or a factor of the arm's own such as 'x0.1'") from None
    if isinstance(own, bool) or not isinstance(own, int | float) or not math.isfinite(factor):
        raise InputError(f"{key}={value!r} is a factor, but the arm's own value is {own!r}: give values instead")
    return own * factor


def _unusual(experiment: Experiment) -> dict[str, object]:
    """Settings that are not the components' defaults: one that comes into being later, at its default, changes no identity."""
    name = experiment.method.name
    # A method of soft labels is none without them, so the default that is compared with has some; they are left out again.
    soft = {"score_columns": ["a", "b"]} if method(name).objective.needs.soft else {}
    tree: dict[str, object] = {"model": {"path": "-"}, "data": {"path": "-", **soft}, "method": {"name": name}}
    usual = {**moving(Experiment.from_tree(tree)), "data.score_columns": None}
    # A setting that the default lacks is unusual whatever it is: null beside it takes a part away that the default has, as a safeguard.
    defaults, missing = _plain(usual), object()
    kept = {key: value for key, value in _plain(moving(experiment)).items() if key == "train.seed" or value != defaults.get(key, missing)}
    return {"method.name": name, **kept}


def _lacks_section(settings: Mapping[str, object], others: Mapping[str, object]) -> bool:
    """Whether one of the settings is null where the others have a section: a method without its safeguard, say, which is another one."""
    off = [f"{key}." for key, value in settings.items() if value is None]
    return any(key.startswith(section) for section in off for key in others)


def _plain(settings: Mapping[str, object]) -> dict[str, object]:
    """Tuples as the lists that JSON makes of them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
