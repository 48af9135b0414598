"""How often a scorer prefers the picture that people preferred: shares with intervals, over all pairs and by t, and their file.

A pair's gap is the preferred picture's score less the other's. A gap of 0 counts ½, as a margin of 0 does in training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inpo.errors import InputError
from inpo.evaluation.summary import to_json
from inpo.files import replacing
from inpo.intervals import around_mean, wilson

if TYPE_CHECKING:
    from pydantic import TypeAdapter

ACCURACY = Path("accuracy.json")
"""What a folder calls it, so that `inpo report` finds it there."""
SCHEMA = 1


@dataclass(frozen=True)
class Agreement:
    """`accuracy`: the share of `n` pairs whose gap is positive, with its 95 % interval (Wilson). `ties`: gaps of 0, which count ½.

    `gap`: the mean gap, with its 95 % interval (mean ± t s/√n over pairs, Student's t); one pair alone has none.
    """

    accuracy: float
    low: float
    high: float
    n: int
    ties: int
    gap: float
    gap_low: float | None = None
    gap_high: float | None = None


@dataclass(frozen=True)
class PartAgreement:
    """The same at the `k`-th part of the path, which was looked at at the times `t`."""

    k: int
    t: tuple[float, ...]
    agreement: Agreement


@dataclass(frozen=True)
class ScorerAccuracy:
    """One scorer. `excluded`: pairs to which it gave no score. `by_t`: empty for a scorer that knows no t. `spec`: as in scores files."""

    spec: str
    overall: Agreement
    excluded: int
    by_t: tuple[PartAgreement, ...] = ()


@dataclass(frozen=True)
class Accuracy:
    """The whole file. `pairs`: where they came from. `attainable`: the best agreement that anybody can expect, where labels are drawn."""

    pairs: str
    n: int
    scorers: dict[str, ScorerAccuracy] = field(default_factory=dict)
    attainable: float | None = None
    kind: Literal["accuracy"] = "accuracy"
    schema: Literal[1] = 1


def agreement(gaps: Sequence[float]) -> Agreement:
    """Of finite gaps. Raises `InputError` where there are none."""
    if not gaps:
        raise InputError("accuracy: no pair has two scores, so there is nothing to count")
    ties = sum(gap == 0 for gap in gaps)
    rate = (sum(gap > 0 for gap in gaps) + ties / 2) / len(gaps)
    gap, low, high = around_mean(gaps)
    lowest, highest = wilson(rate, len(gaps))
    known = math.isfinite(low)
    return Agreement(rate, lowest, highest, len(gaps), ties, gap, low if known else None, high if known else None)


def scorer_accuracy(gaps: Sequence[Sequence[float]], t: Sequence[float], *, parts: int, spec: str) -> ScorerAccuracy:
    """`gaps`: each pair's, at each time of `t`; for a scorer that knows no t, one a pair. `parts`: into how many the path is cut."""
    kept = [pair for pair in gaps if all(map(math.isfinite, pair))]
    overall = agreement([math.fsum(pair) / len(pair) for pair in kept])
    each = len(t) // parts if parts else 0
    cuts = [slice(start, start + each) for start in range(0, len(t), each)] if each else []
    by_t = tuple(
        PartAgreement(k, tuple(t[cut]), agreement([math.fsum(pair[cut]) / each for pair in kept])) for k, cut in enumerate(cuts, start=1)
    )
    return ScorerAccuracy(spec, overall, len(gaps) - len(kept), by_t)


def write_accuracy(path: Path, accuracy: Accuracy) -> None:
    """Replaces `path` in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(to_json(accuracy), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_accuracy(path: Path) -> Accuracy:
    """Raises `InputError` where the file is absent, no JSON, of another schema, or not as documented here."""
    from pydantic import ValidationError

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(values, Mapping) or values.get("schema") != SCHEMA or values.get("kind") != "accuracy":
        raise InputError(f"{path}: is no accuracy that this version of inpo score --pairs wrote")
    try:
        return _adapter().validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise InputError(f"{path}: {place}: {first['msg']} (found {first['input']!r})") from None


@cache
def _adapter() -> TypeAdapter[Accuracy]:
    from pydantic import ConfigDict, TypeAdapter, with_config

    for kind in (Agreement, PartAgreement, ScorerAccuracy, Accuracy):
        with_config(ConfigDict(extra="forbid", allow_inf_nan=False))(kind)
    return TypeAdapter(Accuracy)
