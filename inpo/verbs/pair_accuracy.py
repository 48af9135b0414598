"""`inpo score --pairs`: how often scorers prefer the picture that was preferred, over all pairs and by t.

Every pair's scores are kept beside the result as they come, so an interrupted call goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from inpo.aligned import AlignedRun
from inpo.checking import whole
from inpo.compose import WORLD_PAIRS, open_pairs, scorer
from inpo.console import bar
from inpo.errors import InputError
from inpo.evaluation.accuracy import ACCURACY, Accuracy, ScorerAccuracy, read_accuracy, scorer_accuracy, write_accuracy
from inpo.evaluation.scoring import spec_json
from inpo.files import replacing
from inpo.types import PairRecord, PairSource, Scorer
from inpo.verbs.comparison import PromptChecker
from inpo.verbs.judging import check_scorer_names

if TYPE_CHECKING:
    from torch import Tensor

HELD_OUT = "held-out:"
TOGETHER = 8
"""Pairs whose pictures are in memory at a time, and are scored between two savings."""

Scores = Sequence[float | None]
"""Of one picture: at each time, or one alone; None where there is none."""


@dataclass(frozen=True)
class PairScoring:
    """Which pairs, and by whom. `pairs`: whatever `data.path` may be, or `held-out:RUN`, those that a run did not train on.

    `limit`: the most pairs that are looked at, the first. Raises `InputError`.
    """

    scorers: tuple[str, ...]
    pairs: str
    limit: int = 512

    def __post_init__(self) -> None:
        check_scorer_names(self.scorers)
        whole("--limit", self.limit, low=1)


@runtime_checkable
class TimedScorer(Protocol):
    """A scorer whose score is a mean over times."""

    @property
    def t(self) -> tuple[float, ...]: ...

    @property
    def part_count(self) -> int:
        """Into how many equal parts of the path the times fall."""

    def by_time(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        """`[B, times]`."""


def measure_accuracy(job: PairScoring, out: Path, *, force: bool = False) -> Accuracy:
    """Scores the pairs; writes `out` (.json), `out` as .html, and every pair's scores as .pairs.jsonl beside them.

    Raises `InputError` for whatever can be known to be wrong before a scorer is asked, and for an `out` of other pairs or scorers
    (unless `force`).
    """
    from inpo.report.page import write_accuracy_page

    _check_out(job, out, force=force)
    opened = _open(job)
    judges = [scorer(name) for name in job.scorers]
    kept = _Kept(out.with_suffix(".pairs.jsonl"), force=force)
    # A label of ½ says that neither picture is preferred.
    records = (pair for pair in opened.records(job.limit) if pair.preference != 0.5)
    pairs, progress = [], bar("pairs scored")
    while group := list(islice(records, TOGETHER)):
        _check_pairs(judges, group)
        kept.add(judges, group)
        pairs += [_key(pair) for pair in group]
        progress(len(pairs), min(job.limit, len(opened.rows)))
    if not pairs:
        raise InputError(f"--pairs {job.pairs}: there is no pair")
    found = {judge.name: _accuracy(judge, [kept.gaps(judge, pair) for pair in pairs]) for judge in judges}
    accuracy = Accuracy(job.pairs, len(pairs), found, opened.attainable(job.limit))
    write_accuracy(out, accuracy)
    write_accuracy_page(out.with_suffix(".html"), accuracy)
    return accuracy


def lines(accuracy: Accuracy) -> Iterator[str]:
    """The result as text."""
    yield f"{accuracy.n} pairs of {accuracy.pairs}"
    for name, found in accuracy.scorers.items():
        one = found.overall
        gap = "" if one.gap_low is None else f", mean gap {one.gap:+.3g} [{one.gap_low:+.3g}, {one.gap_high:+.3g}]"
        left = f", {found.excluded} pairs without a score left out" if found.excluded else ""
        yield f"{name}: accuracy {one.accuracy:.3f} [{one.low:.3f}, {one.high:.3f}]{gap}{left}"
        for part in found.by_t:
            at = part.agreement
            times = f"t = {part.t[0]:g}" if len(part.t) == 1 else f"t = {part.t[0]:g} … {part.t[-1]:g}"
            yield f"  k = {part.k}, {times}: {at.accuracy:.3f} [{at.low:.3f}, {at.high:.3f}]"
    if accuracy.attainable is not None:
        yield f"upper bound {accuracy.attainable:.3f}: what a judge that knows the true scores would reach, as labels were drawn by chance"


@dataclass(frozen=True)
class _Opened:
    """Pairs and which of them. `of_world`: labels were drawn from the oracle's scores, with chance."""

    source: PairSource
    rows: Sequence[int] | range
    of_world: bool

    def records(self, limit: int) -> Iterator[PairRecord]:
        return (self.source[row] for row in islice(self.rows, limit))

    def attainable(self, limit: int) -> float | None:
        """The largest agreement to expect: that of who knows the oracle."""
        if not self.of_world:
            return None
        from inpo.world.oracle import OracleScorer
        from inpo.world.pairs import PREFERENCE

        scores = [_scores(OracleScorer(), [pair]) for pair in self.records(limit)]
        gaps = [float(win[0] or 0) - float(lose[0] or 0) for pair in scores for win, lose in pair]
        return PREFERENCE.best_agreement(np.array(gaps))


def _open(job: PairScoring) -> _Opened:
    if job.pairs.startswith(HELD_OUT):
        return _open_held_out(AlignedRun.read(Path(job.pairs.removeprefix(HELD_OUT)).expanduser()), job)
    source = open_pairs(job.pairs)
    return _Opened(source, range(job.limit if source.size is None else source.size), job.pairs == WORLD_PAIRS)


def _open_held_out(run: AlignedRun, job: PairScoring) -> _Opened:
    """The pairs that a run kept for validation; of a source without end, those after the last one that it trained on."""
    from inpo.data.order import held_rows

    # A run on one picture of each pair has held the whole pair out.
    data, train = replace(run.experiment.data, positive_ratio=None), run.experiment.train
    source = open_pairs(data, run.folder)
    if source.size is None:
        first = train.steps * train.pairs_per_step
        return _Opened(source, range(first, first + job.limit), data.path == WORLD_PAIRS and data.judge is None)
    rows = [row for row, held in enumerate(held_rows(source, data.validation_fraction)) if held]
    if not rows:
        raise InputError(
            f"--pairs {job.pairs}: that run held no pairs out (data.validation_fraction={data.validation_fraction:g}); name a file of "
            "pairs that it did not train on"
        )
    return _Opened(source, rows, of_world=False)


Key = tuple[str, str]
"""A judgement of two pictures: the pair's id, which does not know who won, and the sha256 of the preferred picture's bytes."""


def _key(pair: PairRecord) -> Key:
    return pair.id, hashlib.sha256(pair.win).hexdigest()


class _Kept:
    """Scores by scorer's spec and judgement, in a file that grows; half a line at its end, of a call that was killed, is left out.

    So are lines of a version that wrote no `winner`: whoever labelled the pair anew since then would read them the wrong way round.
    """

    def __init__(self, path: Path, *, force: bool) -> None:
        self._path = path
        self._known: dict[tuple[str, Key], tuple[Scores, Scores]] = {}
        text = path.read_text(encoding="utf-8") if path.exists() and not force else ""
        whole_lines = [line for line in text.split("\n") if _parsed(line)]
        for line in map(_parsed, whole_lines):
            self._known[str(line["spec"]), (str(line["pair"]), str(line["winner"]))] = line["win"], line["lose"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in whole_lines), encoding="utf-8")

    def add(self, judges: Sequence[Scorer], group: Sequence[PairRecord]) -> None:
        """Asks each scorer for the pairs that it has not judged yet, and writes them down."""
        for judge in judges:
            spec = _spec(judge)
            missing = [pair for pair in group if (spec, _key(pair)) not in self._known]
            if not missing:
                continue
            with self._path.open("a", encoding="utf-8") as file:
                for pair, (win, lose) in zip(missing, _scores(judge, missing), strict=True):
                    key = _key(pair)
                    self._known[spec, key] = win, lose
                    line = {"pair": key[0], "winner": key[1], "spec": spec, "scorer": judge.name, "win": win, "lose": lose}
                    file.write(json.dumps(line) + "\n")

    def gaps(self, judge: Scorer, key: Key) -> list[float]:
        """The preferred picture's scores less the other's; not a number where one of them has none."""
        win, lose = self._known[_spec(judge), key]
        return [math.nan if w is None or l is None else w - l for w, l in zip(win, lose, strict=True)]


def _parsed(line: str) -> Mapping[str, Any]:
    """A line of the file; empty where it is none."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) and {"spec", "pair", "winner", "win", "lose"} <= set(value) else {}


def _spec(judge: Scorer) -> str:
    return hashlib.sha256(spec_json(judge).encode()).hexdigest()[:16]


def _scores(judge: Scorer, pairs: Sequence[PairRecord]) -> Iterator[tuple[Scores, Scores]]:
    """Of each pair's preferred picture, and of the other."""
    images = [_pixels(pair, side) for pair in pairs for side in (pair.win, _loser(pair))]
    prompts = [pair.caption for pair in pairs for _ in range(2)]
    found = judge.by_time(images, prompts) if isinstance(judge, TimedScorer) else judge.score(images, prompts)[:, None]
    rows = [[score if math.isfinite(score) else None for score in row] for row in found.tolist()]
    return zip(rows[0::2], rows[1::2], strict=True)


def _accuracy(judge: Scorer, gaps: Sequence[Sequence[float]]) -> ScorerAccuracy:
    t, parts = (judge.t, judge.part_count) if isinstance(judge, TimedScorer) else ((), 0)
    return scorer_accuracy(gaps, t, parts=parts, spec=spec_json(judge))


def _pixels(pair: PairRecord, data: bytes) -> Tensor:
    """uint8 `[H,W,3]`. Raises `InputError` naming the row."""
    import torch

    from inpo.data.images import BrokenImage, decode

    try:
        return torch.from_numpy(np.array(decode(data)))
    except BrokenImage as error:
        raise InputError(f"{pair.row}: cannot decode an image: {error}") from error


def _loser(pair: PairRecord) -> bytes:
    if pair.lose is None:
        raise InputError(f"{pair.row}: a single picture, and accuracy is of pairs: give pairs of two pictures")
    return pair.lose


def _check_pairs(judges: Sequence[Scorer], pairs: Sequence[PairRecord]) -> None:
    for checker in (judge for judge in judges if isinstance(judge, PromptChecker)):
        for pair in pairs:
            try:
                checker.check_prompts([pair.caption])
            except InputError as error:
                raise InputError(f"{pair.row}: {error}") from None


def _check_out(job: PairScoring, out: Path, *, force: bool) -> None:
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name the file to write, like {out / ACCURACY}")
    if out.suffix != ".json":
        raise InputError(f"--out {out}: accuracy on pairs is written as JSON; name a file that ends in .json, like {ACCURACY}")
    if not out.exists() or force:
        return
    there = read_accuracy(out)
    if (there.pairs, tuple(there.scorers)) != (job.pairs, job.scorers):
        raise InputError(
            f"--out {out} holds the accuracy of {', '.join(there.scorers)} on {there.pairs}; choose another file, or replace it with "
            "--force"
        )
