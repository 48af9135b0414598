"""The comparison file: arms (a method with settings), how knobs are chosen, and how everything is judged. Read strictly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from inpo.checking import number, whole
from inpo.config import build, merged
from inpo.errors import InputError, nearest
from inpo.evaluation.summary import AGAIN as AGAIN
from inpo.methods import METHODS, method
from inpo.trees import RECIPES, read_tree

PACKAGED = RECIPES / "compare"
BASE = "base"
Tree = Mapping[str, object]


@dataclass(frozen=True)
class Judging:
    """How a model is judged: one picture per prompt and sample at every point (training step, sampler steps, guidance) asked for.

    At each training step of `at`, and at the last, with `sampler_steps` and `guidance`; at the last with each of `also_sampler_steps`
    and each of `also_guidance` too. The first scorer decides. `limit`: only so many prompts, the first.
    """

    prompts: str
    scorers: tuple[str, ...]
    at: tuple[int, ...] = ()
    limit: int | None = None
    sampler_steps: int = 50
    guidance: float = 7.5
    also_sampler_steps: tuple[int, ...] = ()
    also_guidance: tuple[float, ...] = ()
    seed: int = 0
    samples: int = 1
    batch: int = 64

    def __post_init__(self) -> None:
        for key in ("at", "also_sampler_steps"):
            for value in getattr(self, key):
                whole(f"evaluation.{key}", value, low=1)
        for key in ("sampler_steps", "samples", "batch"):
            whole(f"evaluation.{key}", getattr(self, key), low=1)
        for value in (self.guidance, *self.also_guidance):
            number("evaluation.guidance", value, low=0)
        whole("evaluation.limit", self.limit, low=1, optional=True)
        if not self.scorers:
            raise InputError("evaluation.scorers is empty: name at least one scorer, of which the first decides")

    def samplings(self, *, whole_grid: bool) -> list[tuple[int, float]]:
        """(sampler steps, guidance): the main one first, and with `whole_grid` the others."""
        main = [(self.sampler_steps, self.guidance)]
        others = [(steps, self.guidance) for steps in self.also_sampler_steps] + [(self.sampler_steps, g) for g in self.also_guidance]
        return list(dict.fromkeys(main + others if whole_grid else main))

    def steps_of(self, last: int) -> list[int]:
        """The training steps at which a run of `last` steps is judged, ascending."""
        return sorted({*(step for step in self.at if step <= last), last})

    def points(self, last: int) -> list[tuple[int, int, float]]:
        """(training step, sampler steps, guidance) for a run of `last` steps."""
        return [(step, *sampling) for step in self.steps_of(last) for sampling in self.samplings(whole_grid=step == last)]


@dataclass(frozen=True)
class Knobs:
    """How settings are chosen: each arm's `grid` is tried on `prompts`, at most `trials` of them, with `seeds` training seeds each.

    Those are other seeds than the table's, and the highest mean score at the last step wins. `grid`: setting ↦ values, for arms that
    have none of their own; a value "x0.1" is a tenth of the method's own. A setting that a method does not have is left out of it.
    """

    prompts: str
    grid: dict[str, list[object]]
    trials: int
    samples: int = 1
    seeds: int = 1
    limit: int | None = None

    def __post_init__(self) -> None:
        for key in ("trials", "samples", "seeds"):
            whole(f"knobs.{key}", getattr(self, key), low=1)
        whole("knobs.limit", self.limit, low=1, optional=True)


@dataclass(frozen=True)
class Arm:
    """One row of the table: a method with settings of its own, under a name.

    `seeds`: how many training seeds, from 0; None is the file's. `grid`: this arm's knobs ({} chooses nothing; None is the common
    grid); `knobs_of`: the arm whose choice it takes over instead. `control`: shown apart, and no rival. `note`: for the page.
    """

    method: str
    settings: dict[str, object] = field(default_factory=dict)
    seeds: int | None = None
    grid: dict[str, list[object]] | None = None
    knobs_of: str | None = None
    control: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        method(self.method)
        whole("seeds", self.seeds, low=1, optional=True)
        if self.grid and self.knobs_of:
            raise InputError(f"knobs_of={self.knobs_of!r} and grid cannot both be set: one arm's knobs are chosen once")


@dataclass(frozen=True)
class Others:
    """Every method of the table that no arm names, each as an arm of its own name with `seeds` training seeds, but for `leave_out`."""

    seeds: int | None = None
    settings: dict[str, object] = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.leave_out:
            method(name)


@dataclass(frozen=True)
class Comparison:
    """A whole file. `settings`: of all arms, as in an experiment without its method. `base_again`: sampling seeds of that control."""

    title: str
    settings: dict[str, object]
    evaluation: Judging
    arms: dict[str, Arm]
    knobs: Knobs | None = None
    seeds: int = 1
    base_again: int = 1
    note: str = ""
    quick: bool = False

    def chooser(self, name: str) -> str:
        """The arm whose trials choose the knobs of arm `name` (itself, most often); any other name is its own."""
        seen = [name]
        while name in self.arms and (other := self.arms[name].knobs_of) is not None:
            seen.append(name := other)
            if seen.count(name) > 1:
                raise InputError(f"arms.{name}.knobs_of leads back to itself ({' → '.join(seen)}): one of these arms must choose")
        return name

    def grid_of(self, arm: Arm) -> dict[str, list[object]]:
        """The knobs that this arm tries, {} for none: its own, or what of the common grid its method has."""
        if arm.knobs_of is not None or self.knobs is None:
            return {}
        if arm.grid is not None:
            return arm.grid
        return {key: values for key, values in self.knobs.grid.items() if _has(arm, key)}


def load_comparison(source: str, *, quick: bool = False) -> Comparison:
    """The packaged comparison of that name, or a YAML file; with `quick`, the smaller one that its own `quick` section makes of it.

    Raises `InputError` naming the key, the value, and the nearest known name.
    """
    names = sorted(path.stem for path in PACKAGED.glob("*.yaml"))
    if Path(source).suffix not in (".yaml", ".yml") and source not in names:
        raise InputError(f"{source!r} is neither a comparison{nearest(source, names)} nor a .yaml file; comparisons: {', '.join(names)}")
    tree = read_tree(str(PACKAGED / f"{source}.yaml") if source in names else source)
    smaller = tree.pop("quick", None)
    if quick:
        if not isinstance(smaller, dict):
            raise InputError(f"{source} has no section 'quick' that says what a quick run leaves out: run it without --quick, or write one")
        tree = merged(tree, smaller) | {"quick": True}
    return _read(tree)


def _read(tree: Tree) -> Comparison:
    sections = dict(tree)
    arms = sections.pop("arms", None) or {}
    if not isinstance(arms, dict) or not all(isinstance(arm, dict) for arm in arms.values()):
        raise InputError(f"arms={arms!r} must hold a section for each arm, as in 'arms: {{inpo: {{method: inpo}}}}'")
    most = sections.pop("at_most_seeds", None)
    whole("at_most_seeds", most, low=1, optional=True)
    built = {str(name): build(Arm, arm, f"arms.{name}") for name, arm in arms.items()} | _others(sections.pop("others", None), arms)
    if not built:
        raise InputError("arms is empty: name at least one method to compare")
    evaluation, knobs = (sections.pop(name, None) for name in ("evaluation", "knobs"))
    if not isinstance(evaluation, dict):
        raise InputError(f"evaluation={evaluation!r} must say how models are judged: at least evaluation.prompts and evaluation.scorers")
    parts = {
        "evaluation": build(Judging, evaluation, "evaluation"),
        "knobs": None if knobs is None else build(Knobs, cast("Tree", knobs), "knobs"),
        "arms": built,
    }
    found = build(Comparison, {**sections, **parts}, "comparison")
    return _checked(_capped(found, cast("int | None", most)))


def _others(section: object, arms: Tree) -> dict[str, Arm]:
    if section is None:
        return {}
    others = build(Others, cast("Tree", section), "others")
    taken = {arm.get("method") for arm in arms.values() if isinstance(arm, dict)} | set(others.leave_out)
    return {name: Arm(name, others.settings, others.seeds) for name in METHODS if name not in taken}


def _capped(found: Comparison, most: int | None) -> Comparison:
    """At most so many seeds in each arm."""

    def capped(seeds: int) -> int:
        return seeds if most is None else min(seeds, most)

    arms = {name: dataclasses.replace(arm, seeds=capped(arm.seeds or found.seeds)) for name, arm in found.arms.items()}
    return dataclasses.replace(found, arms=arms, base_again=capped(found.base_again))


def _checked(found: Comparison) -> Comparison:
    for name, arm in found.arms.items():
        if name in (BASE, AGAIN) or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise InputError(f"arms.{name}: a name is letters, digits, '-', '_' and '.', and neither {BASE!r} nor {AGAIN!r}")
        if arm.knobs_of is not None and (arm.knobs_of not in found.arms or arm.knobs_of == name):
            raise InputError(f"arms.{name}.knobs_of={arm.knobs_of!r} is no other arm{nearest(arm.knobs_of, found.arms)}")
        found.chooser(name)
        trials = math.prod(len(values) for values in found.grid_of(arm).values())
        if found.knobs is not None and trials > found.knobs.trials:
            raise InputError(
                f"arms.{name}.grid asks for {trials} trials, but knobs.trials={found.knobs.trials} is what every arm may spend: "
                "leave out some values"
            )
        if arm.grid and found.knobs is None:
            raise InputError(f"arms.{name}.grid needs a section 'knobs' that says on which prompts its trials are judged")
    return found


def _has(arm: Arm, key: str) -> bool:
    """Whether a method has a setting of the common grid; settings outside of `method` all have."""
    first, _, rest = key.partition(".")
    if first != "method":
        return True
    part, _, name = rest.partition(".")
    owner = getattr(method(arm.method), part, None)
    return any(each.name == name for each in dataclasses.fields(owner)) if dataclasses.is_dataclass(owner) else False
