"""How cells are judged: prompts and scorers looked up, and what of them determines a score."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from inpo.comparing.cells import Key
from inpo.comparing.spec import Judging, Knobs
from inpo.compose import prompt_set, scorer
from inpo.errors import InputError
from inpo.generation import GenerationConfig
from inpo.scorer_name import scorer_kind
from inpo.types import Scorer


@dataclass(frozen=True)
class Judge:
    """A `Judging` with its names resolved: prompts and scorers, and what of them determines a score."""

    judging: Judging
    prompts: tuple[str, ...]
    scorers: tuple[Scorer, ...]

    @cached_property
    def identity(self) -> dict[str, object]:
        """Everything but the points: a cell that has more of them than are asked for is as good."""
        sampling = {key: getattr(self.judging, key) for key in ("seed", "samples")}
        digest = hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()
        return {"prompts_sha256": digest, "prompts": len(self.prompts), **sampling, "scorers": [_identity(each) for each in self.scorers]}

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What cells call the scorers: their names, but for a place, which is another one on another machine, what is there."""
        kinds = [(each.name, scorer_kind(each.name), _identity(each)) for each in self.scorers]
        return tuple(name if kind == name else f"{kind}:{hashlib.sha256(spec.encode()).hexdigest()[:8]}" for name, kind, spec in kinds)

    def sampling(self, sampler_steps: int, guidance: float, *, seed_offset: int = 0) -> GenerationConfig:
        """How the pictures of one point are made."""
        asked = self.judging
        seed = asked.seed + seed_offset
        return GenerationConfig(seed=seed, samples=asked.samples, steps=sampler_steps, guidance=guidance, batch=asked.batch)

    def forwards(self, keys: Sequence[Key]) -> int:
        """Network image-forwards of these points; guidance asks twice."""
        pictures = len(self.prompts) * self.judging.samples
        return sum(pictures * steps * (1 if guidance == 1.0 else 2) for _, steps, guidance in keys)


def of_trials(knobs: Knobs, judging: Judging) -> Judging:
    """The first scorer alone, at the last step alone, on the trials' own prompts."""
    return dataclasses.replace(
        judging, prompts=knobs.prompts, limit=knobs.limit, samples=knobs.samples, scorers=judging.scorers[:1],
        at=(), also_sampler_steps=(), also_guidance=(),
    )  # fmt: skip


def check_reached(judging: Judging, last: int) -> None:
    """Some arm must train as long as each step that is asked for: arms may differ in length, and a shorter one just lacks the point."""
    if beyond := [step for step in judging.at if step > last]:
        raise InputError(f"evaluation.at={beyond[0]} is reached by no arm: the longest trains {last} steps; leave it out")


def check_apart(judge: Judge, trials: Judge) -> None:
    """Nothing may be chosen on prompts that are then judged: the table would be of what was picked for it."""
    if common := sorted(set(judge.prompts) & set(trials.prompts)):
        raise InputError(
            f"knobs.prompts={trials.judging.prompts!r} and evaluation.prompts={judge.judging.prompts!r} have {len(common)} prompts in "
            f"common, as {common[0]!r}: choose settings on other prompts than those that are judged"
        )


def judge_of(judging: Judging) -> Judge:
    """Names looked up. Raises `InputError` for a set, a file or a scorer that is not there, or prompts that a scorer does not know."""
    from inpo.verbs.comparison import check_prompts

    prompts = prompt_set(judging.prompts)[: judging.limit]
    scorers = tuple(scorer(name) for name in judging.scorers)
    check_prompts(scorers, prompts, judging.prompts)
    return Judge(judging, prompts, scorers)


def _identity(scorer: Scorer) -> str:
    """Kind and specification in one canonical line."""
    return json.dumps({"scorer": scorer_kind(scorer.name), **scorer.spec}, sort_keys=True, ensure_ascii=False)
