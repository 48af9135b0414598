"""Two models side by side: pictures under the same seeds, scores, win rates, a report."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from inpo.checking import one_of
from inpo.compose import PROMPT_SETS, check_generator, drawing, load, prompt_set, scorer
from inpo.console import bar
from inpo.errors import InputError
from inpo.generation import GenerationConfig, generate
from inpo.models.config import DTYPES, ModelConfig
from inpo.training.environment import ENVIRONMENT, write_environment
from inpo.types import Dtype, Scorer

if TYPE_CHECKING:
    from inpo.evaluation.summary import MethodSummary, Summary

OWN = {"evaluation", "summary.json", "report.html", ENVIRONMENT, "accuracy.json", "accuracy.html", "accuracy.pairs.jsonl"}
"""What an evaluation writes into its folder, and what `inpo score --pairs` does."""


@dataclass(frozen=True)
class Contestant:
    """A model in an evaluation: its name in the results, where it lies, the seed its pictures start from, and what it computes in."""

    name: str
    path: str
    seed_offset: int = 0
    dtype: Dtype = "fp32"


def picture_folder(out: Path, name: str) -> Path:
    """Where an evaluation keeps a model's pictures."""
    return out / "evaluation" / name


def generate_for(contestant: Contestant, prompts: Sequence[str], out: Path, config: GenerationConfig) -> None:
    """Writes a contestant's pictures into its folder of the evaluation. Raises `RunFault` where memory does not suffice."""
    shifted = dataclasses.replace(config, seed=config.seed + contestant.seed_offset)
    with drawing(config):
        model = load(ModelConfig(contestant.path, dtype=contestant.dtype), frozen=True)
        generate(model, prompts, picture_folder(out, contestant.name), shifted, progress=bar(f"pictures of {contestant.name}"))


def judge(candidate: Contestant, baseline: Contestant, scorers: Sequence[Scorer], out: Path) -> MethodSummary:
    """Scores and compares the pictures of two contestants that `generate_for` made."""
    from inpo.evaluation.benchmark import evaluate as compare_pictures
    from inpo.evaluation.scoring import ImageSet

    sets = [ImageSet(side.name, picture_folder(out, side.name)) for side in (candidate, baseline)]
    return compare_pictures(*sets, scorers=scorers, out=out, same_seeds=candidate.seed_offset == baseline.seed_offset)


@dataclass(frozen=True)
class Comparison:
    """What `evaluate` compares, and how: two models, a prompt set or file, scorers of which the first decides.

    `dtype`: what both models compute in. Raises `InputError` for an unknown one.
    """

    candidate: str
    baseline: str
    prompts: str
    scorers: tuple[str, ...]
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    dtype: Dtype = "fp32"

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, DTYPES)


def evaluate(comparison: Comparison, out: Path, *, force: bool = False) -> Summary:
    """`inpo evaluate`: pictures of both under the same seeds, scores, summary.json and report.html in `out`.

    An interrupted evaluation is continued; a finished one needs `force`. Raises `InputError`, for prompts that a scorer cannot
    judge before any picture is made.
    """
    from inpo.evaluation.summary import SUMMARY, write_summary
    from inpo.report import build_report

    _check_evaluation_folder(out, force=force)
    wanted = prompt_set(comparison.prompts)
    # Not kept: beside the model that draws, a large scorer may be more than a card holds.
    check_prompts([scorer(name) for name in comparison.scorers], wanted, comparison.prompts)
    theirs, ours = (Contestant(side, getattr(comparison, side), dtype=comparison.dtype) for side in ("baseline", "candidate"))
    for contestant in (theirs, ours):
        check_generator(contestant.path, comparison.generation, f"--{contestant.name}")
    if force:
        shutil.rmtree(out / "evaluation", ignore_errors=True)
        (out / SUMMARY).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write_environment(out)
    for contestant in (theirs, ours):
        generate_for(contestant, wanted, out, comparison.generation)
    entry = judge(ours, theirs, [scorer(name) for name in comparison.scorers], out)
    summary = write_summary(out / SUMMARY, kind="evaluate", baseline=theirs.name, methods={ours.name: entry})
    build_report(out)
    return summary


@runtime_checkable
class PromptChecker(Protocol):
    """A scorer that cannot judge every prompt."""

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises `InputError` naming the first prompt that it cannot judge."""


def check_prompts(judges: Sequence[Scorer], prompts: Sequence[str], source: str) -> None:
    """Raises `InputError` naming the first of `prompt_set(source)` that a scorer cannot judge, by file and line."""
    checkers = [judge for judge in judges if isinstance(judge, PromptChecker)]
    for i, prompt in enumerate(prompts):
        try:
            for checker in checkers:
                checker.check_prompts([prompt])
        except InputError as error:
            raise InputError(f"{_prompt_place(source, i)}: {error}") from None


def _prompt_place(name: str, index: int) -> str:
    """Where that prompt of `prompt_set(name)` stands, for messages: file and line."""
    from inpo.evaluation.prompts import place_of

    return f"{name}, prompt {index}" if name in PROMPT_SETS else f"{name}, {place_of(Path(name), index)}"


def _check_evaluation_folder(out: Path, *, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; an evaluation needs a folder")
    held = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if held - OWN:
        raise InputError(f"{out} holds {min(held - OWN)}, and is no evaluation's folder; choose another --out")
    if "summary.json" in held and not force:
        raise InputError(f"{out} holds a finished evaluation; replace it with --force, or choose another --out")
