"""A made-up comparison.json of any number of arms, for the page's tests. Its numbers are drawn, and mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from inpo.evaluation.compared import ArmResult, Compared, Duel, Estimate, Moment, Sampled, Trial, write_compared

STEPS = (50, 100, 200, 400)
SAMPLINGS = ((1, 3.0), (5, 3.0), (20, 3.0), (20, 1.0))


def estimate(rng: np.random.Generator, centre: float, width: float = 0.002) -> Estimate:
    """Around a centre."""
    value = centre + width * float(rng.normal())
    return Estimate(value, value - 1.5 * width, value + 1.5 * width)


def arm(name: str, rng: np.random.Generator, *, control: bool = False, seeds: int = 8, title: str = "A method") -> ArmResult:
    """An arm whose gain grows with the root of its steps."""
    moments = [
        Moment(
            step, 240.0 * step, estimate(rng, 0.001 * step**0.5), Estimate(0.8, 0.75, 0.85), [0.01] * seeds,
            Estimate(-0.0321, -0.05, -0.02), estimate(rng, 0.2, 0.05), Estimate(0.6, 0.55, 0.65),
        )
        for step in STEPS
    ]  # fmt: skip
    grid = [(rate, beta) for rate in (1e-5, 2e-5, 4e-5) for beta in (500.0, 2000.0)]
    trials = [Trial({"optimizer.lr": rate, "method.objective.beta": beta}, 0.8 + 0.01 * i, i == 5) for i, (rate, beta) in enumerate(grid)]
    return ArmResult(
        name=name, title=title, paper="arXiv:0000.00000", note="what drift alone gains" if control else "", control=control,
        seeds=list(range(seeds)), wanted=8, knobs={"optimizer.lr": 4e-5}, knobs_of="inpo" if control else None,
        trials=[] if control else trials, steps=STEPS[-1], schedule="cosine",
        settings={"optimizer.lr": 4e-5, "method.objective.beta": 500.0},
        moments=moments, samplings=[Sampled(400, *key, 0.8, estimate(rng, 0.01), Estimate(0.7, 0.6, 0.8)) for key in SAMPLINGS],
        parts={name: estimate(rng, 0.01) for name in ("fidelity", "composition", "sharpness", "contrast")},
        training={"unet_forwards_per_pair": 15.0, "seconds": 321.0, "end.implicit_accuracy": 0.64, "drift": 0.0021},
        picture=f"{name}.png",
    )  # fmt: skip


def write_comparison(
    folder: Path, names: Sequence[str] = ("inpo", "diffusion-dpo", "sft"), *, title: str = "Side by side", left: int = 0, gap: float = 0.0
) -> Compared:
    """The folder of a comparison of these arms and one control; `gap`: the first arm's lead over each other."""
    rng = np.random.default_rng(0)
    arms = [*(arm(name, rng) for name in names), arm("inpo-shuffled", rng, control=True, seeds=3)]
    lead = Estimate(gap, gap - 0.001, gap + 0.001)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    main, won = SAMPLINGS[2], Estimate(0.6, 0.55, 0.65)
    duels = [Duel("last", a, b, (400.0, 400.0), main, lead, (8, 8), won, gap / 2) for a, b in pairs]
    duels += [Duel("forwards", a, b, (400.0, 400.0), main, lead, (8, 8)) for a, b in pairs]
    duels += [Duel("steps", names[0], b, (step, step), main, lead, (8, 8), won, gap / 2) for b in names[1:] for step in STEPS]
    ways = [way for way in SAMPLINGS if way != main]
    duels += [Duel("samplings", names[0], b, (400.0, 400.0), way, lead, (8, 8), won, gap / 2) for b in names[1:] for way in ways]
    found = Compared(
        title=title, note="", quick=False, scorer="world:oracle", second="world:clip", prompts=216, prompt_set="world:heldout",
        trial_prompts="world:validation", sampling=(20, 3.0), pairs_per_step=16, arms=arms, duels=duels, left=left,
        versions=["inpo 0.1.0, on CPU"], shown=["a big red circle on a white background"] * 8, base_score=0.8123, base_picture="base.png",
    )  # fmt: skip
    (folder / "pictures").mkdir(parents=True)
    for name in ("base", *names, "inpo-shuffled"):
        Image.fromarray(rng.integers(0, 256, (32, 256, 3)).astype(np.uint8)).save(folder / "pictures" / f"{name}.png")
    write_compared(folder, found)
    return found
