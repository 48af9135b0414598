"""`inpo data score`: a pairs file once more, with what a scorer gives both pictures of each pair, for data.score_columns.

Scores are kept beside it as they are made, so an interrupted call goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from inpo.data.config import DataConfig
from inpo.data.derived import pixels_of, score_pictures
from inpo.data.fields import HAS_LABEL, IMAGES, LABELS, UNJUDGED, Fault, Row, short
from inpo.data.images import BrokenImage
from inpo.data.importing.rankings import Place
from inpo.data.importing.report import Listing, too_many
from inpo.data.journal import Journal, Scores
from inpo.data.lookahead import in_order
from inpo.data.opening import open_shards
from inpo.data.pairs import Verdict, examine, record
from inpo.data.parquet import ParquetShard
from inpo.data.scan import Progress, Rules, rules_of
from inpo.data.shards import EXTRA, Shard
from inpo.data.where import judge
from inpo.data.writer import PairWriter, check_free, writing_pairs
from inpo.errors import InputError
from inpo.types import PairRecord, Scorer

SCORES = ("score_0", "score_1")
SPEC = "inpo.scorer"
"""Key of the Parquet metadata that holds the scorer's name and spec."""
BATCH = 16
"""Pairs that are shown to the scorer together."""
AHEAD = 64
"""Pairs decoded ahead of it."""


@dataclass(frozen=True)
class ScoreReport:
    """What came of it. known: pairs whose scores an earlier, interrupted call had made. filtered: rows left out by data.where.

    agreement: the share of the `labelled` pairs, ties left out, whose better score is the preferred picture's; equal scores count ½.
    listing: where rejected rows are listed, None where there are none.
    """

    out: Path
    scorer: str
    pairs: int
    known: int
    filtered: int
    rejected: int
    low: float
    high: float
    labelled: int
    agreement: float
    listing: Path | None

    def lines(self) -> Iterator[str]:
        """The report as text."""
        known = f", {self.known} of them before" if self.known else ""
        filtered = f"; left out by data.where: {self.filtered}" if self.filtered else ""
        yield f"{self.out}: pairs scored by {self.scorer}: {self.pairs}{known}{filtered}"
        yield f"scores from {self.low:.6g} to {self.high:.6g}"
        if self.labelled:
            doubt = " – training on these scores prefers what most labels reject" if self.agreement < 0.5 else ""
            yield f"agreement with the labels: {self.agreement:.1%} of {self.labelled} pairs that are no ties{doubt}"
        if self.listing is not None:
            yield f"rows with a fault: {self.rejected}, all of them in {self.listing}"
        yield f"train on them with data.path={self.out} 'data.score_columns=[{SCORES[0]},{SCORES[1]}]'"


def score_pairs(config: DataConfig, scorer: Scorer, out: Path, *, force: bool = False, progress: Progress | None = None) -> ScoreReport:
    """Scores all pairs of `config.path` and writes them to `out`, complete or not at all, and what is wrong to OUT.rejected.jsonl.

    Labels are taken where they are there. Raises `InputError` where there are no pairs, more rows than `max_rejected_fraction` have a
    fault, or `out` is there already (unless `force`) or is what is read.
    """
    check_free(out, force=force)
    shards = open_shards(config, labels="taken")
    _check_pairs(config, shards, out)
    spec = json.dumps({"scorer": scorer.name, **scorer.spec}, sort_keys=True, ensure_ascii=False)
    journal = Journal(out.with_suffix(".scores.jsonl"), [spec, list(config.where), {shard.name: shard.stamp for shard in shards}])
    tally, rows, others = _Tally(), sum(shard.rows for shard in shards), _other_columns(shards)
    kinds = {HAS_LABEL: pa.bool_(), **dict.fromkeys(SCORES, pa.float32()), **others}
    with Listing(out.with_suffix(".rejected.jsonl")) as listing:
        with writing_pairs(out, kinds, force=force, metadata={SPEC: spec}) as writer, journal:
            work = _Work(config, rows, scorer, writer, journal, listing, tally)
            for done, row in enumerate(_rows(shards, rules_of(config), list(others)), start=1):
                work.add(row)
                (progress or _silent)(done, rows)
            work.flush()
            if not writer.count:
                raise InputError(f"{config.path}: no pair came of {rows} rows; what is wrong: {listing.summary()}")
        journal.remove()
    return ScoreReport(
        out, scorer.name, pairs=writer.count, known=journal.known, filtered=tally.filtered, rejected=listing.rejected, low=tally.low,
        high=tally.high, labelled=tally.labelled, agreement=tally.agreeing / max(1, tally.labelled),
        listing=listing.path if listing.rejected else None,
    )  # fmt: skip


def _silent(done: int, total: int) -> None:
    """Shows no progress."""


def _check_pairs(config: DataConfig, shards: Sequence[Shard], out: Path) -> None:
    if any(shard.shape.single for shard in shards):
        raise InputError(f"data.path={config.path}: single pictures, and scores are compared within pairs: give pairs")
    if any(shard.path.resolve() == out.resolve() for shard in shards):
        raise InputError(f"--out {out} is the file that is read; name another one")


def _other_columns(shards: Sequence[Shard]) -> dict[str, pa.DataType]:
    """Single-valued columns, with their types, that all files have and that are kept beside the pair's own."""
    own = {*IMAGES, *LABELS, HAS_LABEL, "caption", *SCORES}
    found = [{f.name: f.type for f in shard.schema if f.name in shard.columns} for shard in shards if isinstance(shard, ParquetShard)]
    if len(found) < len(shards):
        return {}
    return {name: kind for name, kind in found[0].items() if name not in own and all(each.get(name) == kind for each in found)}


@dataclass(frozen=True)
class _Found:
    """A row: where it stands, what it has besides its pair, and its pair with the first picture as `win`, or what is wrong."""

    place: Place
    row: Row
    pair: PairRecord | None = None
    pictures: tuple[Tensor, ...] = ()
    labelled: bool = False
    faults: tuple[Fault, ...] = ()
    wanted: bool = True


@dataclass
class _Tally:
    """Of finite scores. `labelled` and `agreeing`: see `ScoreReport`."""

    low: float = math.inf
    high: float = -math.inf
    labelled: int = 0
    agreeing: float = 0.0
    filtered: int = 0

    def add(self, scores: tuple[float, float], label: object) -> None:
        """Counts a pair; `label` of its first picture."""
        self.low, self.high = min(self.low, *scores), max(self.high, *scores)
        if label in (0, 1):
            self.labelled += 1
            self.agreeing += 0.5 if scores[0] == scores[1] else float((scores[0] > scores[1]) == (label == 1))


def _rows(shards: Sequence[Shard], rules: Rules, others: Sequence[str]) -> Iterator[_Found]:
    """All rows in order; pictures are decoded in threads, ahead of the scorer."""
    extra = list(dict.fromkeys((*rules.columns, *others)))
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode") as pool:

        def submit(item: tuple[Shard, int, Row]) -> Future[_Found]:
            return pool.submit(_read, *item, rules=rules)

        yield from in_order(submit, _stored_rows(shards, extra), AHEAD)


def _stored_rows(shards: Sequence[Shard], extra: Sequence[str]) -> Iterator[tuple[Shard, int, Row]]:
    for shard in shards:
        numbers = iter(range(shard.rows))
        for group in range(len(shard.group_rows)):
            for rows in shard.batches(group, extra):
                yield from ((shard, next(numbers), row) for row in rows)


def _read(shard: Shard, number: int, row: Row, *, rules: Rules) -> _Found:
    place, values = Place(shard.file_of(number), number), row.get(EXTRA, {})
    assert isinstance(values, Mapping)
    wanted, faults = judge(rules.conditions, values)
    if faults or not wanted:
        return _Found(place, values, faults=faults, wanted=wanted)
    labelled = bool(shard.shape.labels) and row.get(HAS_LABEL) in (None, True, 1)
    shape = shard.shape if labelled else UNJUDGED
    examined = examine(row, verify="headers", names=shard.names, shape=shape)
    if examined.faults:
        return _Found(place, values, faults=examined.faults)
    pair = record(row, where=shard.place(number), names=shard.names, shape=shape, verdict=Verdict(1.0, swap=False))
    pictures = []
    for name, data in zip(IMAGES, (pair.win, pair.lose), strict=True):
        try:
            pictures.append(pixels_of(data or b""))
        except BrokenImage as error:
            return _Found(place, values, faults=(Fault(shard.names.get(name, name), error.reason, error.found),))
    labels = {name: row[name] if labelled else None for name in LABELS}
    return _Found(place, {**values, **labels}, pair, tuple(pictures), labelled)


@dataclass
class _Work:
    """What happens to the rows, of which there are `rows`, in their order: `BATCH` sound ones are scored together and written."""

    config: DataConfig
    rows: int
    scorer: Scorer
    writer: PairWriter
    journal: Journal
    listing: Listing
    tally: _Tally
    waiting: list[_Found] = field(default_factory=list)

    def add(self, found: _Found) -> None:
        """Takes note of a row. Raises `InputError` once more rows have a fault than may."""
        if found.pair is not None:
            self.waiting.append(found)
            if len(self.waiting) == BATCH:
                self.flush()
        elif found.faults:
            self.listing.add_row(found.place, found.faults)
        else:
            self.tally.filtered += 1
        self._check()

    def flush(self) -> None:
        """Scores and writes what waits. Raises `InputError` as `add` does."""
        scores = self.journal.take() or self._ask()
        for found, pair_scores in zip(self.waiting, scores, strict=True):
            bad = [(name, score) for name, score in zip(SCORES, pair_scores, strict=True) if not math.isfinite(score)]
            self.listing.add_row(found.place, [Fault(name, "the scorer gives no finite number", short(score)) for name, score in bad])
            if not bad:
                self._write(found, pair_scores)
        self.waiting = []
        self._check()

    def _check(self) -> None:
        allowed = self.config.max_rejected_fraction
        if self.listing.rejected > allowed * self.rows:
            raise InputError(too_many(self.config.path, self.listing, allowed))

    def _ask(self) -> Scores:
        try:
            scores = self._scores(self.waiting)
        except InputError:
            # A caption that the scorer refuses must not cost the others their scores.
            scores = [self._alone(found) for found in self.waiting]
        self.journal.keep(scores)
        return scores

    def _alone(self, found: _Found) -> tuple[float, float]:
        try:
            return self._scores([found])[0]
        except InputError:
            return math.nan, math.nan

    def _scores(self, rows: Sequence[_Found]) -> Scores:
        pictures = [picture for found in rows for picture in found.pictures]
        return score_pictures(self.scorer, pictures, [found.pair.caption for found in rows if found.pair])

    def _write(self, found: _Found, scores: tuple[float, float]) -> None:
        pair = found.pair
        assert pair is not None
        own = {**dict(zip(IMAGES, (pair.win, pair.lose), strict=True)), "caption": pair.caption, HAS_LABEL: found.labelled}
        self.writer.write({**found.row, **own, **dict(zip(SCORES, scores, strict=True))})
        self.tally.add(scores, found.row[LABELS[0]])
