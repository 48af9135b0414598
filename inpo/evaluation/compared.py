"""comparison.json: everything that a comparison's table and page say, computed once. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inpo.errors import InputError
from inpo.evaluation.summary import AGAIN, UNSOUND
from inpo.files import replacing

if TYPE_CHECKING:
    from pydantic import TypeAdapter

COMPARISON = Path("comparison.json")
SCHEMA = 1


def by_guidance(way: tuple[int, float]) -> tuple[float, int]:
    """The order of ways of sampling, (sampler steps, guidance), in tables."""
    return way[1], way[0]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over `n` prompts and training seeds; `prompts_alone`: of a single seed, whose chance is not in it."""

    value: float
    low: float
    high: float
    n: int | None = None
    prompts_alone: bool = False

    @property
    def verdict(self) -> Literal["ahead", "behind", "level"]:
        """Of a difference: whether its interval excludes 0. One training seed decides nothing."""
        if self.prompts_alone or self.low <= 0 <= self.high:
            return "level"
        return "ahead" if self.low > 0 else "behind"


@dataclass(frozen=True)
class Moment:
    """An arm's runs at one training step, against the base under the same noise. `forwards`: network image-forwards of training by then.

    `gain`: in mean score, `runs` by seed; `second_gain`: by the second scorer; `worst`: mean gain of the worst twentieth of the
    pictures of all runs, the harm that a mean hides, with an interval over prompts. `left_out`: prompts without a score in every run.
    """

    step: int
    forwards: float
    gain: Estimate
    win_rate: Estimate
    runs: list[float]
    worst: Estimate
    second_gain: Estimate | None = None
    second_win_rate: Estimate | None = None
    left_out: int = 0


@dataclass(frozen=True)
class Sampled:
    """An arm's runs under one way of sampling: mean score, and the gain over the base that is sampled so too."""

    step: int
    sampler_steps: int
    guidance: float
    score: float
    gain: Estimate
    win_rate: Estimate


@dataclass(frozen=True)
class Trial:
    """One choice of knobs that was tried on the trials' prompts. `score`: the mean, None while a cell is missing."""

    knobs: dict[str, object]
    score: float | None
    chosen: bool


@dataclass(frozen=True)
class ArmResult:
    """One row. `seeds` are there of `wanted`; `moments` by step, the last one is the result; `parts`: gains of the deciding scorer's.

    `settings`: what of it differs from other arms, `training`: facts averaged over the runs, `picture`: a strip of the first seed.
    `elsewhere`: whether training started from another model than the base; `unjudged`: whether there are runs, but no prompt that was
    scored in all of them; `commits`: of the program, that its cells were made by.
    """

    name: str
    title: str
    paper: str
    note: str
    control: bool
    seeds: list[int]
    wanted: int
    knobs: dict[str, object] | None
    knobs_of: str | None
    trials: list[Trial]
    steps: int
    schedule: str
    settings: dict[str, object]
    moments: list[Moment] = field(default_factory=list)
    samplings: list[Sampled] = field(default_factory=list)
    parts: dict[str, Estimate] = field(default_factory=dict)
    training: dict[str, float] = field(default_factory=dict)
    picture: str | None = None
    elsewhere: bool = False
    unjudged: bool = False
    commits: list[str] = field(default_factory=list)

    @property
    def last(self) -> Moment | None:
        """At the end of its runs; None where there is none yet."""
        return self.moments[-1] if self.moments else None


@dataclass(frozen=True)
class Duel:
    """`a` less `b` in mean score, paired by prompt: "last" where both their runs end, "samplings" there, but sampled otherwise.

    "steps": at equal steps, "forwards": at equal network image-forwards. `at`: the step or the forwards of `a`, and of `b`;
    `sampling`: (sampler steps, guidance). `win_rate`: how often the picture of `a` has the higher score, None where the runs are of
    other seeds; `median`: of the prompts' mean differences. A mean that a few prompts carry shows in these two. Both None between
    measured points.
    """

    kind: Literal["last", "samplings", "steps", "forwards"]
    a: str
    b: str
    at: tuple[float, float]
    sampling: tuple[int, float]
    difference: Estimate
    seeds: tuple[int, int]
    win_rate: Estimate | None = None
    median: float | None = None

    @property
    def carried(self) -> bool:
        """Whether the mean differs though neither picture is preferred more often: a few prompts make the difference."""
        rate = self.win_rate
        return self.difference.verdict != "level" and rate is not None and rate.low <= 0.5 <= rate.high


@dataclass(frozen=True)
class Compared:
    """The file. `sampling`: (sampler steps, guidance) of all but `samplings`; `shown`: prompts of the pictures; `left`: missing cells."""

    title: str
    note: str
    quick: bool
    scorer: str
    second: str | None
    prompts: int
    prompt_set: str
    trial_prompts: str | None
    sampling: tuple[int, float]
    pairs_per_step: int
    arms: list[ArmResult]
    duels: list[Duel]
    left: int
    versions: list[str]
    shown: list[str]
    base_score: float | None
    base_picture: str | None = None
    schema: Literal[1] = 1

    @property
    def unsound(self) -> str | None:
        """What is to be said where the base does not come out even against itself."""
        again = next((arm.last for arm in self.arms if arm.name == AGAIN), None)
        if again is None or (again.win_rate.low <= 0.5 <= again.win_rate.high and again.gain.low <= 0 <= again.gain.high):
            return None
        return f"{AGAIN}: {UNSOUND}"


def write_compared(folder: Path, found: Compared) -> None:
    """Replaces `folder`/comparison.json in one move."""
    with replacing(folder / COMPARISON) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_compared(folder: Path) -> Compared:
    """Raises `InputError` where it is absent or not as documented here."""
    from pydantic import ValidationError

    path = folder / COMPARISON
    try:
        return _adapter().validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"{path}: is no comparison's result ({reason}); make it again with inpo compare … --table") from None


@cache
def _adapter() -> TypeAdapter[Compared]:
    from pydantic import ConfigDict, TypeAdapter, with_config

    for kind in (Estimate, Moment, Sampled, Trial, ArmResult, Duel, Compared):
        with_config(ConfigDict(extra="forbid", allow_inf_nan=False))(kind)
    return TypeAdapter(Compared)
