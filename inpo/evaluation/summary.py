"""summary.json: what a run, a demo or a comparison came to, for people and programs. Needs no torch.

{"schema": 1, "kind": …, "baseline": …, "methods": {name: {…}}}. What was not measured is absent, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inpo.errors import InputError
from inpo.files import replacing

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SUMMARY = Path("summary.json")
SCHEMA = 1
AGAIN = "base-again"
"""The control in which the base is judged against itself under other sampling seeds."""

UNSOUND = "its interval excludes ½, or that of its gain 0, though nothing but the sampling seeds differs: trust no difference of this size"

Kind = Literal["demo", "train", "evaluate", "compare"]


@dataclass(frozen=True)
class Part:
    """One part of the oracle's judgement: mean paired gain over `n` prompts, with its 95 % interval."""

    gain: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class SecondScorer:
    """A judge that was not optimised for. Win rate with its 95 % interval."""

    name: str
    win_rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Failures:
    """Pictures of one model that could not be judged (`missing`, `unreadable`, `nan_scores`) or are `black` all over."""

    missing: int = 0
    unreadable: int = 0
    black: int = 0
    nan_scores: int = 0


@dataclass(frozen=True)
class FailureCounts:
    """Failures of both sides; `excluded` comparisons were left out because of them."""

    candidate: Failures
    baseline: Failures
    excluded: int = 0


@dataclass(frozen=True)
class MethodSummary:
    """One method against the baseline. The first block describes its training, the second its evaluation by `scorer`.

    `steps` were trained, or until `stopped` says why; the model's weights are those of step `result_step`. `pairs`: how many there were
    to train on, absent where they never end.
    """

    steps: int | None = None
    beta: float | None = None
    lr: float | None = None
    seeds: tuple[int, ...] | None = None
    pairs_per_second: float | None = None
    unet_forwards_per_pair: float | None = None
    seconds: float | None = None
    result_step: int | None = None
    stopped: str | None = None
    pairs: int | None = None

    scorer: str | None = None
    win_rate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    mean_gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    sign_test_p: float | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    second_scorer: SecondScorer | None = None
    failures: FailureCounts | None = None


@dataclass(frozen=True)
class Summary:
    """The whole file. Methods keep their order: the first one is what the run is about."""

    kind: Kind
    baseline: str
    methods: dict[str, MethodSummary] = field(default_factory=dict)
    schema: Literal[1] = 1


def write_summary(path: Path, *, kind: Kind, baseline: str, methods: Mapping[str, MethodSummary | Mapping[str, object]]) -> Summary:
    """Validates, then replaces `path` in one move. Raises `InputError` for an unknown key, a wrong type, or a number out of range."""
    entries = {name: to_json(entry) if isinstance(entry, MethodSummary) else entry for name, entry in methods.items()}
    summary = _validated({"schema": SCHEMA, "kind": kind, "baseline": baseline, "methods": entries}, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(to_json(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return summary


def read_summary(path: Path) -> Summary:
    """Raises `InputError` where the file is absent, no JSON, of another schema, or not as documented here."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise InputError(f"{path}: schema is {found!r}; this version reads {SCHEMA}")
    return _validated(values, path)


def to_json(value: object) -> object:
    """Dataclasses as mappings without what is None or empty."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {entry.name: getattr(value, entry.name) for entry in fields(value)}
        order = sorted(value, key=lambda name: name != "schema")
        return {name: to_json(value[name]) for name in order if value[name] is not None and value[name] != {}}
    if isinstance(value, Mapping):
        return {name: to_json(entry) for name, entry in value.items()}
    return [to_json(entry) for entry in value] if isinstance(value, tuple) else value


@cache
def _adapter() -> TypeAdapter[Summary]:
    from pydantic import ConfigDict, TypeAdapter, with_config

    strict = ConfigDict(extra="forbid", allow_inf_nan=False)
    for kind in (Part, SecondScorer, Failures, FailureCounts, MethodSummary, Summary):
        with_config(strict)(kind)
    return TypeAdapter(Summary)


def _validated(values: Mapping[str, object], path: Path) -> Summary:
    from pydantic import ValidationError

    try:
        summary = _adapter().validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise InputError(f"{path}: {place}: {first['msg']} (found {first['input']!r})") from None
    for name, method in summary.methods.items():
        _check_interval(f"{path}: methods.{name}", (method.low, method.win_rate, method.high))
        if method.second_scorer is not None:
            second = method.second_scorer
            _check_interval(f"{path}: methods.{name}.second_scorer", (second.low, second.win_rate, second.high))
    return summary


def _check_interval(place: str, interval: tuple[float | None, float | None, float | None]) -> None:
    known = [value for value in interval if value is not None]
    if len(known) not in (0, 3):
        raise InputError(f"{place}: win_rate, low and high belong together; found {interval}")
    # A quantile of equal numbers may be off by their last bit.
    in_order = all(a <= b + 1e-12 for a, b in pairwise(known))
    if not in_order or any(not 0 <= value <= 1 for value in known):
        raise InputError(f"{place}: needs 0 ≤ low ≤ win_rate ≤ high ≤ 1; found {interval}")
