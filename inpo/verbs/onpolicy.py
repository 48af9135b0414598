"""`inpo data generate`: pictures of a model, ranked by a scorer, become pairs to train that model on.

The pictures and their scores lie in a folder beside the pairs, so an interrupted call goes on where it stopped. What is in the
pairs depends on the prompts, the seed, the model and the scorer alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args

from inpo.checking import number, one_of, whole
from inpo.compose import check_generator, drawing, load, prompt_set, scorer
from inpo.console import bar
from inpo.data.ranking import PairPolicy, ranked_pairs
from inpo.data.writer import Kind, check_free, writing_pairs
from inpo.errors import InputError
from inpo.generation import GenerationConfig, ImageRecord, count_faults, generate
from inpo.models.config import DTYPES, ModelConfig
from inpo.types import Dtype, Scorer
from inpo.verbs.comparison import check_prompts

NearTies = Literal["drop", "half"]
COLUMNS: Mapping[str, Kind] = {
    "ranking_id": str, "image_0_uid": str, "image_1_uid": str, "model_0": str, "model_1": str,
    "score_0": float, "score_1": float, "scorer": str, "seed_0": int, "seed_1": int,
}  # fmt: skip
"""Columns beside the pair's own. `ranking_id` is the prompt's index, `image_0_uid` the picture's file name, `seed_0` its noise's."""
PICTURES, SCORES = "pictures", "scores.parquet"
"""What the work folder beside the pairs holds."""
_CHUNK = 1024
"""Pictures that are scored between two savings of the scores."""


@dataclass(frozen=True)
class OnPolicy:
    """What is generated, how it is judged, and which of the pictures of a prompt become pairs.

    model, prompts, scorer: names as everywhere (`inpo.compose`). limit: only the first prompts. pairs: best-worst makes one
    pair of the widest margin from a prompt's pictures; adjacent and all make more, and closer ones. margin: scores at most
    this far apart are a near tie, which is dropped, or kept with the label ½ (near_ties=half). dtype: what the model computes in.
    """

    model: str
    prompts: str
    scorer: str
    limit: int | None = None
    pairs: PairPolicy = "best-worst"
    margin: float = 0.0
    near_ties: NearTies = "drop"
    generation: GenerationConfig = field(default_factory=lambda: GenerationConfig(samples=4))
    dtype: Dtype = "fp32"

    def __post_init__(self) -> None:
        one_of("pairs", self.pairs, get_args(PairPolicy))
        one_of("near_ties", self.near_ties, get_args(NearTies))
        one_of("dtype", self.dtype, DTYPES)
        number("margin", self.margin, low=0)
        whole("limit", self.limit, low=1, optional=True)
        # One picture alone leaves nothing to prefer.
        whole("samples", self.generation.samples, low=2)


@dataclass(frozen=True)
class OnPolicyReport:
    """What came of it. near_ties: pairs within the margin, dropped or labelled ½. same: pairs of two identical pictures, left out.

    faults: pictures that were left out, by what is wrong with them (black, non-finite, no score). mean_gap: the mean
    difference of the scores within a pair. pictures: the folder they lie in.
    """

    out: Path
    prompts: int
    pairs: int
    near_ties: int
    same: int
    faults: Mapping[str, int]
    mean_gap: float
    pictures: Path

    def lines(self) -> Iterator[str]:
        """The report as text."""
        yield f"{self.out}: pairs: {self.pairs}, prompts: {self.prompts}, mean difference of scores: {self.mean_gap:.4g}"
        yield f"near ties: {self.near_ties}, pairs of identical pictures, left out: {self.same}"
        if self.faults:
            yield "pictures left out: " + ", ".join(f"{count} {fault}" for fault, count in self.faults.items())
        yield f"the pictures are in {self.pictures}; delete it when nothing is to be added"


@dataclass(frozen=True)
class _Judged:
    """A sound picture with its score."""

    record: ImageRecord
    score: float


@dataclass
class _Tally:
    near_ties: int = 0
    same: int = 0
    gaps: float = 0.0


def generate_pairs(job: OnPolicy, out: Path, *, force: bool = False) -> OnPolicyReport:
    """Makes, scores, ranks and pairs the pictures; writes `out`, complete or not at all.

    Raises `InputError` for what `job` names and is not there, for prompts that the scorer cannot judge before any picture is
    made, for an `out` that exists or pictures made with other settings (both unless `force`), and where no pair comes of it.
    After an interruption, the same call makes only what is missing. Raises `RunFault` where memory does not suffice.
    """
    check_free(out, force=force)
    wanted = prompt_set(job.prompts)[: job.limit]
    # Not kept: beside the model that draws, a large scorer may be more than a card holds.
    check_prompts([scorer(job.scorer)], wanted, job.prompts)
    check_generator(job.model, job.generation, "--model")
    folder, tally = out.with_suffix(".work") / PICTURES, _Tally()
    records = _pictures(job, wanted, folder, force=force)
    judged = _judged(scorer(job.scorer), job.model, records, folder)
    lost = len(records) - len(judged) - sum(count_faults(records).values())
    with writing_pairs(out, COLUMNS, force=force) as writer:
        for row in _rows(job, judged, folder, tally):
            writer.write(row)
        if not writer.count:
            left = f"{tally.near_ties} near ties, {tally.same} pairs of identical pictures, {len(records) - len(judged)} left out"
            raise InputError(f"{job.prompts}: no pair came of {len(records)} pictures: {left}")
    faults = {**count_faults(records), **({"without a score": lost} if lost else {})}
    return OnPolicyReport(
        out, len(wanted), writer.count, tally.near_ties, tally.same, faults=faults, mean_gap=tally.gaps / writer.count, pictures=folder
    )


def _pictures(job: OnPolicy, prompts: Sequence[str], folder: Path, *, force: bool) -> list[ImageRecord]:
    """The pictures there, and those still missing made; pictures of another job are replaced where `force` says so."""
    with drawing(job.generation):
        model = load(ModelConfig(job.model, dtype=job.dtype), frozen=True)
        try:
            return generate(model, prompts, folder, job.generation, progress=bar("pictures"))
        except InputError:
            if not force:
                raise
            return generate(model, prompts, folder, job.generation, force=True, progress=bar("pictures"))


def _judged(judge: Scorer, model: str, records: Sequence[ImageRecord], folder: Path) -> list[_Judged]:
    """The sound pictures to which the scorer gives a score. Scores are kept beside the pictures, so none is asked for twice."""
    from inpo.evaluation.images import GeneratedImage
    from inpo.evaluation.scores import known_scores, read_scores, write_scores
    from inpo.evaluation.scoring import ImageSet, score_images, spec_json

    path, spec, progress = folder.parent / SCORES, spec_json(judge), bar("scores")
    rows = list(read_scores(path)) if path.exists() else []
    known = known_scores(rows)
    sound = [record for record in records if record.fault is None]
    missing = [record for record in sound if (record.sha256, record.prompt, spec) not in known]
    for start in range(0, len(missing), _CHUNK):
        shown = [
            GeneratedImage(r.file, r.prompt_index, r.sample_index, r.seed, r.prompt, r.sha256) for r in missing[start : start + _CHUNK]
        ]
        rows += score_images(ImageSet(model, folder), shown, scorers=[judge], known={})[0]
        write_scores(path, rows)
        progress(min(start + _CHUNK, len(missing)), len(missing))
    known = known_scores(rows)
    judged = [_Judged(r, known.get((r.sha256, r.prompt, spec), {}).get(judge.name, math.nan)) for r in sound]
    return [each for each in judged if math.isfinite(each.score)]


def _rows(job: OnPolicy, judged: Sequence[_Judged], folder: Path, tally: _Tally) -> Iterator[dict[str, object]]:
    for _, group in groupby(judged, key=lambda each: each.record.prompt_index):
        pictures = list(group)
        for i, j, label in ranked_pairs([each.score for each in pictures], job.pairs, margin=job.margin):
            pair = pictures[i], pictures[j]
            if pair[0].record.sha256 == pair[1].record.sha256:
                tally.same += 1
                continue
            tally.near_ties += label == 0.5
            if label != 0.5 or job.near_ties == "half":
                tally.gaps += abs(pair[0].score - pair[1].score)
                yield _row(job, pair, label, folder)


def _row(job: OnPolicy, pair: tuple[_Judged, _Judged], label: float, folder: Path) -> dict[str, object]:
    first = pair[0].record
    row: dict[str, object] = {"caption": first.prompt, "ranking_id": str(first.prompt_index), "scorer": job.scorer}
    for side, each in enumerate(pair):
        name = each.record.file
        row |= {
            f"jpg_{side}": (folder / name).read_bytes(), f"label_{side}": abs(side - label), f"image_{side}_uid": name,
            f"model_{side}": job.model, f"score_{side}": each.score, f"seed_{side}": each.record.seed,
        }  # fmt: skip
    return row
