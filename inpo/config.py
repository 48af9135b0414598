"""An experiment is the composition of its components' own settings, read strictly from YAML and `key=value`.

Unknown keys name their nearest neighbour, ill-typed values name the key and the value. Nothing has a hidden default here:
what a recipe does not say is the component's own default, and `config.yaml` of the run holds every value that was used.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from inpo.checking import ill_typed, members, one_of
from inpo.console import say
from inpo.data.config import DataConfig
from inpo.data.suits import check_settings
from inpo.errors import InputError
from inpo.methods import METHODS, Method, method
from inpo.models.config import Lora, ModelConfig
from inpo.objectives import Safeguard
from inpo.training.settings import OptimizerConfig, Settings, TrainConfig
from inpo.training.watch import check_watched
from inpo.trees import StrictLoader
from inpo.trees import read_tree as read_tree
from inpo.trees import recipe_names as recipe_names
from inpo.trees import recipe_text as recipe_text

Reporter = Literal["tensorboard", "wandb"]
REPORTERS: tuple[Reporter, ...] = typing.get_args(Reporter)
Tree = Mapping[str, object]
T = TypeVar("T")

METHOD_PARTS = ("noising", "objective", "safeguard")
"""What a method is made of, each with settings of its own under `method.`; a method may have no safeguard."""

ELSEWHERE: Mapping[str, str] = {
    "learning_rate": "optimizer.lr",
    "max_train_steps": "train.steps",
    "train_batch_size": "train.micro_batch_pairs",
    "batch_size": "train.pairs_per_step",
    "lr_scheduler": "optimizer.schedule",
    "beta_dpo": "method.objective.beta",
    "pretrained_model_name_or_path": "model.path",
}
"""Settings by the names that they have in the training programs of diffusers, Diffusion-DPO and InPO."""


@dataclass(frozen=True)
class OutputConfig:
    """`format`: what `RUN/model` is, a whole `pipeline`, its network alone (`unet` or
    `transformer`, whichever it has), or with `lora` set the adapters alone (`lora`).

    Adapters are merged into the weights of a `pipeline` and of a network.
    """

    format: Literal["pipeline", "unet", "transformer", "lora"] = "pipeline"


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a training run."""

    model: ModelConfig
    data: DataConfig
    method: Method
    lora: Lora | None = None
    """Adapters to train; None trains the network's own weights."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    report_to: tuple[Reporter, ...] = ()

    def __post_init__(self) -> None:
        check_settings(self.data, self.method)
        singles, held_out = self.data.positive_ratio is not None, self.data.validation_fraction > 0
        check_watched(self.train, self.method.objective, held_out=held_out, singles=singles)
        if self.optimizer.warmup_steps > self.train.steps:
            warmup, steps = self.optimizer.warmup_steps, self.train.steps
            raise InputError(f"optimizer.warmup_steps={warmup} is more than train.steps={steps}: add optimizer.warmup_steps=0")
        if self.output.format == "lora" and self.lora is None:
            raise InputError("output.format='lora' needs adapters: set lora.rank, or output.format=pipeline for a fully trained model")

    @property
    def settings(self) -> Settings:
        """The trainer's share."""
        return Settings(self.train, self.optimizer)

    def to_tree(self) -> dict[str, object]:
        """Plain values under the names that users type; `from_tree` reads it back to an equal experiment."""
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("method", "report_to")}
        tree: dict[str, object] = {name: None if part is None else _plain(dataclasses.asdict(part)) for name, part in parts.items()}
        method_parts = {part: typing.cast("typing.Any", getattr(self.method, part)) for part in METHOD_PARTS}
        plain = {part: None if value is None else _plain(dataclasses.asdict(value)) for part, value in method_parts.items()}
        tree["method"] = {"name": self.method.name, **plain}
        return {**tree, "report_to": list(self.report_to)}

    def to_yaml(self) -> str:
        """`to_tree` as the text of config.yaml."""
        return yaml.safe_dump(self.to_tree(), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_tree(cls, tree: Tree) -> Experiment:
        """Strictly from nested plain values. Raises `InputError` naming the key, the value, and the nearest known key."""
        sections = {name: _section(tree, name) for name in ("model", "data", "method", "lora", "optimizer", "train", "output")}
        _refuse_unknown(tree, [*sections, "report_to"], "")
        return cls(
            model=build(ModelConfig, sections["model"], "model"),
            data=build(DataConfig, sections["data"], "data"),
            method=_build_method(sections["method"]),
            lora=None if tree.get("lora") is None else build(Lora, sections["lora"], "lora"),
            optimizer=build(OptimizerConfig, sections["optimizer"], "optimizer"),
            train=build(TrainConfig, sections["train"], "train"),
            output=build(OutputConfig, sections["output"], "output"),
            report_to=_reporters(tree.get("report_to") or []),
        )


def load_experiment(source: str, overrides: Sequence[str] = ()) -> Experiment:
    """A recipe by name or a YAML file, with `key=value` overrides in their order. Raises `InputError`.

    A `method.name` other than the file's leaves out the file's numbers of its method's parts (`METHOD_PARTS`), and says so.
    """
    changes: dict[str, object] = {}
    for override in overrides:
        changes = merged(changes, _parse_override(override))
    return Experiment.from_tree(merged(_without_other_methods_numbers(read_tree(source), changes), changes))


def _without_other_methods_numbers(tree: dict[str, object], changes: Tree) -> dict[str, object]:
    """β, η and their like were chosen for one method: another one that is asked for brings its own."""
    name, section = _section(changes, "method").get("name"), _section(tree, "method")
    left = [f"method.{part}" for part in METHOD_PARTS if section.get(part)]
    if not isinstance(name, str) or name == section.get("name") or not left:
        return tree
    method(name)
    say(f"method.name={name}: with the numbers of its own row; left out, as {section.get('name')}'s: {' and '.join(left)}")
    return {**tree, "method": {"name": name}}


def _parse_override(text: str) -> dict[str, object]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"{text!r} is not an override: write key=value without spaces, as in train.steps=100")
    try:
        parsed: object = yaml.load(value, Loader=StrictLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{key}: {value!r} is not a value: {' '.join(str(error).split())}") from error
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return typing.cast("dict[str, object]", parsed)


def merged(base: Tree, change: Tree) -> dict[str, object]:
    """`base` with the leaves of `change` in their places."""
    out = dict(base)
    for key, value in change.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


def _section(tree: Tree, name: str, prefix: str = "") -> Tree:
    section = tree.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise InputError(f"{prefix}{name}={section!r} must hold settings, as in {prefix}{name}.…=value")
    return section


def _build_method(section: Tree) -> Method:
    _refuse_unknown(section, ("name", *METHOD_PARTS), "method")
    if not isinstance(section.get("name"), str):
        raise InputError(f"method.name={section.get('name')!r} must name a method")
    chosen = method(str(section["name"]))
    noising = _rebuild(chosen.noising, _section(section, "noising", "method."), "method.noising")
    objective = _rebuild(chosen.objective, _section(section, "objective", "method."), "method.objective")
    safeguard = _rebuild_safeguard(chosen.safeguard, section)
    try:
        return dataclasses.replace(chosen, noising=noising, objective=objective, safeguard=safeguard)
    except ValueError as error:
        raise InputError(f"method.{error}") from error


def _rebuild_safeguard(default: Safeguard | None, section: Tree) -> Safeguard | None:
    """The method's own, another, or with `null` none."""
    if "safeguard" not in section:
        return default
    if section["safeguard"] is None:
        return None
    return _rebuild(default or Safeguard(), _section(section, "safeguard", "method."), "method.safeguard")


def _rebuild(default: T, changes: Tree, prefix: str) -> T:
    """The method's own settings with some of them replaced."""
    values = dataclasses.asdict(typing.cast("typing.Any", default))
    _refuse_unknown(changes, values, prefix)
    return build(type(default), {**values, **changes}, prefix)


def build(cls: type[T], values: Tree, prefix: str) -> T:
    """A dataclass strictly from plain values. Raises `InputError` naming the key under `prefix`, the value, and the nearest known key."""
    fields = {f.name: f for f in dataclasses.fields(typing.cast("typing.Any", cls)) if f.init}
    _refuse_unknown(values, fields, prefix)
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and values.get(name) is None:
            raise InputError(f"{prefix}.{name} is not set: give it in the file or as {prefix}.{name}=…")
    hints = typing.get_type_hints(cls)
    _refuse_wrong_scalars(values, hints, prefix)
    built = {name: _build_inner(hints[name], value, f"{prefix}.{name}") for name, value in values.items()}
    try:
        return TypeAdapter(cls).validate_python(built)
    except ValidationError as error:
        raise InputError("; ".join(dict.fromkeys(ill_typed(detail, prefix, built, hints) for detail in error.errors()))) from error


def _build_inner(hint: object, value: object, prefix: str) -> object:
    """Settings inside a setting are read as strictly: left to themselves, dataclasses would drop what they do not know."""
    inner = next((member for member in members(hint) if isinstance(member, type) and dataclasses.is_dataclass(member)), None)
    return build(inner, value, prefix) if inner is not None and isinstance(value, dict) else value


def _refuse_wrong_scalars(values: Tree, hints: Mapping[str, object], prefix: str) -> None:
    """YAML's booleans are integers to Python, and lax validation would read 'yes' as True: neither is meant here."""
    for name, value in values.items():
        wants_bool = bool in members(hints[name])
        if value is not None and wants_bool is not isinstance(value, bool) and (wants_bool or isinstance(value, bool)):
            raise InputError(f"{prefix}.{name}={value!r} must be {'true or false' if wants_bool else 'a value, not true or false'}")


def _refuse_unknown(values: Tree, known: typing.Iterable[str], prefix: str) -> None:
    names = list(known)
    for key in values:
        if key not in names:
            full = f"{prefix}.{key}" if prefix else str(key)
            raise InputError(f"{full} is not a setting{_meant(str(key), names, prefix)}; known here: {', '.join(names) or 'none'}")


def _meant(key: str, names: Sequence[str], prefix: str) -> str:
    """A hint with the whole key: of this section where it has one of that name, else of the others."""
    here = {name: f"{prefix}.{name}" if prefix else name for name in names}
    whole = {**ELSEWHERE} | {full.rpartition(".")[2]: full for full in reversed(_all_keys())} | here
    close = difflib.get_close_matches(key, whole, n=1, cutoff=0.6)
    return f" (did you mean {whole[close[0]]!r}?)" if close else ""


def _all_keys() -> list[str]:
    """Every setting under its dotted name, those of all methods' parts included."""
    parts = [(name, kind) for name, hint in typing.get_type_hints(Experiment).items() for kind in members(hint)]
    parts += [(f"method.{part}", type(getattr(each, part))) for each in METHODS.values() for part in METHOD_PARTS]
    known = [(name, kind) for name, kind in parts if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind is not Method]
    return [*(f"{name}.{f.name}" for name, kind in known for f in dataclasses.fields(kind)), "method.name"]


def _reporters(value: object) -> tuple[Reporter, ...]:
    names = value if isinstance(value, list | tuple) else [value]
    for name in names:
        one_of("report_to", name, REPORTERS)
    return tuple(name for name in REPORTERS if name in names)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
