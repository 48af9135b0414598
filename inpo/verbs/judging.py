"""`inpo score`: pictures through scorers into a table, and which picture of each prompt is the best.

The table is written as it grows: the same command, typed again, scores what is still missing.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from inpo.compose import prompt_set, scorer
from inpo.console import bar
from inpo.errors import InputError
from inpo.evaluation.images import GeneratedImage
from inpo.evaluation.pictures import Prompts, pictures_in
from inpo.evaluation.prompts import read_named_prompts
from inpo.evaluation.scores import PART, ScoreRow, known_scores
from inpo.evaluation.scoring import ImageSet, score_images, spec_json
from inpo.evaluation.tables import check_table, read_table, write_table
from inpo.intervals import around_mean
from inpo.types import Scorer
from inpo.verbs.comparison import PromptChecker

CHUNK = 8
"""Pictures between two looks at the clock."""
SAVE_SECONDS = 20.0
SHOWN = 12
"""Prompts that the report names."""
PROMPT_LETTERS = 60


@dataclass(frozen=True)
class Scoring:
    """Which pictures are scored, and by whom. `prompts`: a prompt set or a file; `prompt`: one for all pictures. Neither is needed for
    a folder that `inpo generate` made."""

    scorers: tuple[str, ...]
    images: Path
    prompts: str | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        check_scorer_names(self.scorers)
        if self.prompts is not None and self.prompt is not None:
            raise InputError("--prompts and --prompt are two ways to say the same: give one of them")
        if self.prompt is not None and not self.prompt.strip():
            raise InputError("--prompt is empty; give the text that the pictures were made for")

    @property
    def model(self) -> str:
        """What results files call the pictures' maker: their folder's name."""
        return self.images.resolve().name


@dataclass(frozen=True)
class Ranked:
    """A prompt's pictures under one scorer, the best first: (file, score). `lead`: of the best over the second, with its 95 % interval
    over t where the scorer has rewards by t."""

    prompt: str
    pictures: tuple[tuple[str, float], ...]
    lead: tuple[float, float, float] | None

    @property
    def mean(self) -> float:
        """Of the scores."""
        return statistics.fmean(score for _, score in self.pictures)

    @property
    def spread(self) -> float:
        """Standard deviation of the scores; 0 of a single one."""
        return statistics.stdev(score for _, score in self.pictures) if len(self.pictures) > 1 else 0.0

    def __str__(self) -> str:
        (best, score), *others = self.pictures
        if not others:
            return f"{_cut(self.prompt)}: {best} {score:.4g}"
        ahead = f"ahead of {others[0][0]} by {score - others[0][1]:.3g}"
        if self.lead is not None:
            ahead += f" (95 % over t: {self.lead[1]:.3g} to {self.lead[2]:.3g})"
        others_too = f"{len(self.pictures)} pictures, mean {self.mean:.4g}, spread {self.spread:.3g}"
        return f"{_cut(self.prompt)}: best {best} {score:.4g}, {ahead}; {others_too}"


@dataclass(frozen=True)
class ScoreReport:
    """What came of it. `ranked`: by scorer. `unscored`: pictures that could not be read, or got no score, by scorer."""

    out: Path
    pictures: int
    fresh: int
    ranked: Mapping[str, tuple[Ranked, ...]]
    unscored: Mapping[str, int]

    def lines(self) -> Iterator[str]:
        """The report as text: what is in the file, and each scorer's first prompts."""
        yield f"{self.out}: {self.pictures} pictures, {self.fresh} scores given now"
        for name, prompts in self.ranked.items():
            yield name
            yield from (f"  {prompt}" for prompt in prompts[:SHOWN])
            if len(prompts) > SHOWN:
                means = [prompt.mean for prompt in prompts]
                yield f"  and {len(prompts) - SHOWN} more prompts; over all {len(prompts)} the mean is {statistics.fmean(means):.4g}"
            if name in self.unscored:
                yield f"  without a score: {self.unscored[name]} pictures, which cannot be read or got none"


def _cut(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= PROMPT_LETTERS else f"{line[: PROMPT_LETTERS - 1]}…"


def check_scorer_names(names: Sequence[str]) -> None:
    """Raises `InputError` for none, the same one twice, or a name that result files cannot hold."""
    if not names or len(set(names)) < len(names) or not all(names):
        raise InputError(f"--scorer: expected one or more names, each once, with commas between; found {','.join(names)!r}")
    for name in names:
        if PART in name:
            raise InputError(f"--scorer {name}: a name must not hold {PART!r}, which marks parts in results files; rename the folder")


def score_pictures(job: Scoring, out: Path, *, force: bool = False) -> ScoreReport:
    """Scores the pictures and writes `out`: a row for each picture and scorer, and for each part of a scorer.

    Raises `InputError` for whatever can be known to be wrong before a scorer is asked, and for an `out` that holds other scores
    (unless `force`). Scores that it holds of these pictures are kept, unless the scorer has changed.
    """
    check_table(out)
    listed = pictures_in(job.images, _prompts(job))
    kept = () if force or not out.exists() else _earlier(out, job, listed)
    judges = [scorer(name) for name in job.scorers]
    _check_prompts(judges, job.images, listed)
    table = _Table(out, job.scorers, kept)
    fresh = _score(judges, job.images, listed, table)
    rows = table.save()
    files = {image.key: image.file for image in listed}
    ranked = {name: tuple(_ranked(name, rows, files)) for name in job.scorers}
    scored = {name: sum(len(prompt.pictures) for prompt in prompts) for name, prompts in ranked.items()}
    unscored = {name: len(listed) - count for name, count in scored.items() if count < len(listed)}
    return ScoreReport(out, len(listed), fresh, ranked, unscored)


def _prompts(job: Scoring) -> Prompts | None:
    if job.prompt is not None:
        return (job.prompt,)
    if job.prompts is None:
        return None
    named = read_named_prompts(Path(job.prompts)) if Path(job.prompts).is_file() else None
    return prompt_set(job.prompts) if named is None else named


class _Table:
    """The rows so far, later ones in the place of earlier ones, and the file that they are saved in."""

    def __init__(self, out: Path, scorers: Sequence[str], kept: Sequence[ScoreRow]) -> None:
        self._out, self._scorers, self._saved = out, list(scorers), time.monotonic()
        self._rows = {(row.scorer, row.prompt_index, row.sample_index): row for row in kept}

    @property
    def rows(self) -> Sequence[ScoreRow]:
        return tuple(self._rows.values())

    def keep(self, specs: Collection[str]) -> None:
        """Drops rows of scorers that have changed since."""
        self._rows = {key: row for key, row in self._rows.items() if row.scorer_spec in specs}

    def add(self, rows: Sequence[ScoreRow]) -> None:
        """Now and then the file is brought up to date."""
        self._rows |= {(row.scorer, row.prompt_index, row.sample_index): row for row in rows}
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> tuple[ScoreRow, ...]:
        """Writes the file; the rows by scorer and picture."""
        ordered = sorted(self._rows.values(), key=lambda row: (self._scorers.index(row.scorer.split(PART)[0]), *_place(row)))
        write_table(self._out, ordered)
        self._saved = time.monotonic()
        return tuple(ordered)


def _place(row: ScoreRow) -> tuple[int, int]:
    return row.prompt_index, row.sample_index


def _earlier(out: Path, job: Scoring, listed: Sequence[GeneratedImage]) -> tuple[ScoreRow, ...]:
    """The rows of an earlier call for the same pictures and scorers."""
    rows, model, prompts = read_table(out), job.model, {image.key: image.prompt for image in listed}
    for row in rows:
        scorer_name = row.scorer.split(PART)[0]
        if row.model != model or scorer_name not in job.scorers or prompts.get(_place(row)) != row.prompt:
            raise InputError(
                f"--out {out} holds scores of other pictures or by other scorers (first: {row.model}, {scorer_name}); choose another file, "
                "or replace it with --force"
            )
    return rows


def _check_prompts(judges: Sequence[Scorer], folder: Path, listed: Sequence[GeneratedImage]) -> None:
    for checker in (judge for judge in judges if isinstance(judge, PromptChecker)):
        for image in listed:
            try:
                checker.check_prompts([image.prompt])
            except InputError as error:
                raise InputError(f"{folder / image.file}: {error}") from None


def _score(judges: Sequence[Scorer], folder: Path, listed: Sequence[GeneratedImage], table: _Table) -> int:
    """Scores what is missing; how many scores that were."""
    specs = [spec_json(judge) for judge in judges]
    table.keep(specs)
    known, images, progress = known_scores(table.rows), ImageSet(folder.resolve().name, folder), bar("pictures scored")
    try:
        for start in range(0, len(listed), CHUNK):
            table.add(score_images(images, listed[start : start + CHUNK], scorers=judges, known=known)[0])
            progress(min(start + CHUNK, len(listed)), len(listed))
    except KeyboardInterrupt:
        table.save()
        raise
    return sum((image.sha256, image.prompt, spec) not in known for image in listed for spec in specs)


def _ranked(name: str, rows: Sequence[ScoreRow], files: Mapping[tuple[int, int], str]) -> Iterator[Ranked]:
    own = [row for row in rows if row.scorer.split(PART)[0] == name]
    scores = sorted((row for row in own if row.scorer == name and math.isfinite(row.score)), key=lambda row: row.prompt_index)
    for _, group in groupby(scores, key=lambda row: row.prompt_index):
        best = sorted(group, key=lambda row: (-row.score, row.sample_index))
        lead = _lead(name, own, best[0], best[1]) if len(best) > 1 else None
        yield Ranked(best[0].prompt, tuple((files[_place(row)], row.score) for row in best), lead)


def _lead(name: str, rows: Sequence[ScoreRow], best: ScoreRow, second: ScoreRow) -> tuple[float, float, float] | None:
    """Of rewards by t, which are at the same times for both pictures, the mean difference and its interval over the parts of the path."""
    first, other = ({row.scorer: row.score for row in rows if _place(row) == _place(each)} for each in (best, second))
    gaps = [first[part] - other[part] for part in first if part.startswith(f"{name}{PART}k=") and part in other]
    return around_mean(gaps) if len(gaps) > 1 else None
