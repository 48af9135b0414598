"""The oracle, against the renderer: what was drawn is what it reads, and each flaw lowers its own part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from inpo.world.oracle import WEIGHTS, OracleScorer, correct, parts, score
from inpo.world.shapes import CLEAN, SIDE, Imperfection, Scene, everything, imperfect, parse, render, slip

Law = Callable[[Scene, np.random.Generator], Imperfection]
SCENES = everything()[::9]


def drawn(law: Law) -> list[tuple[np.ndarray, str]]:
    rng = np.random.default_rng(0)
    return [(render(scene, rng, law(scene, rng)), scene.caption) for scene in SCENES]


def mean(law: Law, part: str) -> float:
    return float(np.mean([parts(*pair)[part] for pair in drawn(law)]))


def clean(scene: Scene, rng: np.random.Generator) -> Imperfection:
    return CLEAN


def test_clean_pictures_are_right() -> None:
    """At least 99 % of clean renders are right in every attribute, and every part is near 1."""
    pairs = drawn(clean)
    assert np.mean([correct(*pair) for pair in pairs]) >= 0.99
    assert all(mean(clean, part) > 0.97 for part in WEIGHTS)


def test_imperfect_pictures_of_the_right_scene_are_right() -> None:
    """Blur, fading, noise and shifts within the pretraining law do not hide what a picture shows."""
    pairs = drawn(lambda scene, rng: replace(imperfect(scene, rng), shown=None))
    assert np.mean([correct(*pair) for pair in pairs]) >= 0.98


def test_a_wrong_attribute_is_found() -> None:
    """A picture of a scene that differs in one attribute is not right."""
    assert np.mean([correct(*pair) for pair in drawn(lambda scene, rng: Imperfection(shown=slip(scene, rng)))]) <= 0.01


@pytest.mark.parametrize(
    ("shown", "asked"),
    [
        ("a red circle left of a blue square on a white background", "a blue square left of a red circle on a white background"),
        ("a red circle above a blue square on a white background", "a red circle left of a blue square on a white background"),
        ("a red circle left of a blue square on a white background", "a blue circle left of a red square on a white background"),
        ("a small red circle on a black background", "a big red circle on a black background"),
        ("a small red circle on a black background", "a small red circle at the top of a black background"),
        ("a small red circle on a black background", "a small red circle on a gray background"),
        ("a small red circle on a black background", "a red circle above a blue square on a black background"),
        ("a red circle left of a blue square on a white background", "a small red circle at the left of a white background"),
    ],
)
def test_each_kind_of_error_lowers_fidelity(shown: str, asked: str) -> None:
    """Relation, binding of colours, size, place, background and count are each seen."""
    picture = render(parse(shown), np.random.default_rng(0))
    assert not correct(picture, asked)
    assert parts(picture, asked)["fidelity"] < parts(picture, shown)["fidelity"] - 0.05
    assert score(picture, asked) < score(picture, shown)


@pytest.mark.parametrize(
    ("part", "mild", "strong"),
    [
        ("sharpness", Imperfection(blur=0.5), Imperfection(blur=1.0)),
        ("sharpness", Imperfection(noise=3.0), Imperfection(noise=12.0)),
        ("contrast", Imperfection(fade=0.1), Imperfection(fade=0.4)),
        ("composition", Imperfection(shift=(1.0, 0.0)), Imperfection(shift=(2.0, 2.0))),
    ],
)
def test_each_flaw_lowers_its_own_part(part: str, mild: Imperfection, strong: Imperfection) -> None:
    """The stronger a flaw, the lower its part, while fidelity hardly moves."""
    best, middle, worst = (mean(lambda scene, rng, flaw=flaw: flaw, part) for flaw in (CLEAN, mild, strong))
    assert best > middle + 0.02 > worst + 0.04
    assert mean(lambda scene, rng: strong, "fidelity") > 0.95


def test_contrast_measures_fading() -> None:
    """Fading by f leaves 1 − f of the contrast."""
    assert mean(lambda scene, rng: Imperfection(fade=0.3), "contrast") == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_nothing_scores_low(level: int) -> None:
    """An even picture has no item: nothing divides by zero, and the score is below any recognisable picture's."""
    blank = np.full((SIDE, SIDE, 3), level, dtype=np.uint8)
    prompt = SCENES[0].caption
    assert not correct(blank, prompt)
    assert 0 <= score(blank, prompt) < 0.4


def test_noise_is_survived() -> None:
    """Any bytes are a picture: parts stay in [0, 1]."""
    rng = np.random.default_rng(0)
    for prompt in (SCENES[0].caption, SCENES[-1].caption):
        for _ in range(20):
            measured = parts(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), prompt)
            assert set(measured) == set(WEIGHTS)
            assert all(0 <= value <= 1 for value in measured.values())


def test_scorer_is_the_function_on_tensors() -> None:
    """`OracleScorer` scores row by row, in fp32, and its parts weigh up to its score."""
    pairs = drawn(imperfect)[:12]
    images, prompts = [torch.from_numpy(picture) for picture, _ in pairs], [prompt for _, prompt in pairs]
    scorer = OracleScorer()
    scores = scorer.score(images, prompts)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx([score(*pair) for pair in pairs])
    weighted = sum(WEIGHTS[name] * value for name, value in scorer.parts(images, prompts).items())
    assert torch.allclose(torch.as_tensor(weighted), scores)
    assert sum(WEIGHTS.values()) == pytest.approx(1)
