"""Scenes, captions, prompt sets and pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from inpo.errors import InputError
from inpo.world.shapes import (
    BACKGROUNDS,
    CLEAN,
    COLOURS,
    SHAPES,
    Imperfection,
    Scene,
    coverage,
    everything,
    imperfect,
    parse,
    prompts,
    render,
    slip,
)

SETS = ("train", "validation", "heldout")


def compositions(name: str) -> set[object]:
    scenes = [parse(prompt) for prompt in prompts(name)]
    return {(frozenset(scene.items), "" if scene.relation else scene.background) for scene in scenes}


def test_parse_undoes_caption_for_every_scene() -> None:
    """The grammar is unambiguous: no two scenes share a caption, and each comes back."""
    scenes = everything()
    assert len({scene.caption for scene in scenes}) == len(scenes)
    assert all(parse(scene.caption) == scene for scene in scenes)


@pytest.mark.parametrize("text", ["", "a big red circle", "a big pink circle on a white background", "A big red circle on a white back"])
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    """A prompt that is no caption is an input error that quotes it and shows one that is."""
    with pytest.raises(InputError, match=r"not a caption of the world.*background"):
        parse(text)


def test_prompt_sets_are_disjoint_in_compositions() -> None:
    """What is held out is the combination of items, not just the wording."""
    train, validation, heldout = (compositions(name) for name in SETS)
    assert len(train | validation | heldout) == len(train) + len(validation) + len(heldout)


def test_every_prefix_mixes_one_item_and_two() -> None:
    """Judging the first n prompts judges both kinds alike, whatever n; and there are enough held-out ones."""
    for name in SETS:
        assert [bool(parse(prompt).relation) for prompt in prompts(name)[:6]] == [False, True] * 3
        assert len(set(prompts(name))) == len(prompts(name))
    assert len(prompts("heldout")) >= 200


def test_an_unknown_prompt_set_names_the_known_ones() -> None:
    """A misspelt set is an input error."""
    with pytest.raises(InputError, match="world:heldout"):
        prompts("test")


def test_training_prompts_cover_every_word() -> None:
    """Nothing that is asked for in held-out prompts is a word that training never saw."""
    words = {name: Counter(word for prompt in prompts(name) for word in prompt.split()) for name in ("train", "heldout")}
    assert set(words["heldout"]) <= set(words["train"])
    assert {*COLOURS, *SHAPES, *BACKGROUNDS} <= set(words["train"])


def test_coverage_measures_area() -> None:
    """Anti-aliasing keeps areas to a few per cent of the exact ones: πr², and the squares' and triangles' own."""
    exact = {"circle": np.pi, "square": 4 * 0.886**2, "triangle": 2 * 1.15**2}
    for shape in SHAPES:
        for radius in (5.5, 10.5):
            assert coverage(shape, (16.2, 15.7), radius).sum() == pytest.approx(exact[shape] * radius**2, rel=0.03)


def test_pictures_have_the_named_colours_in_the_named_places() -> None:
    """The middle of each item has its colour, the corner the background's; "left of" puts the first item left."""
    scene = parse("a red circle left of a blue square on a gray background")
    picture = render(scene, np.random.default_rng(0))
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8
    assert tuple(picture[16, 8]) == COLOURS["red"]
    assert tuple(picture[16, 24]) == COLOURS["blue"]
    assert tuple(picture[0, 0]) == BACKGROUNDS["gray"]


def test_every_item_of_every_scene_is_inside_the_picture() -> None:
    """No clean picture clips its items: the border shows the background alone."""
    rng = np.random.default_rng(0)
    for scene in everything()[::7]:
        picture = render(scene, rng)
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (border == BACKGROUNDS[scene.background]).all()


def test_the_same_generator_draws_the_same_picture() -> None:
    """All chance comes from the argument."""
    scene = everything()[0]
    first, second = (render(scene, rng, imperfect(scene, rng)) for rng in (np.random.default_rng(3), np.random.default_rng(3)))
    assert (first == second).all()


def test_a_slip_changes_the_caption_and_stays_in_the_world() -> None:
    """A wrong attribute makes another scene of the world, never the same one."""
    rng = np.random.default_rng(0)
    known = set(everything())
    for scene in everything()[::5]:
        wrong = slip(scene, rng)
        assert wrong != scene
        assert wrong in known


def test_fading_blurring_and_mottling_do_what_they_say() -> None:
    """Fading halves distances to grey, blurring keeps the mean, mottling moves an even background."""
    scene: Scene = parse("a big red circle on a black background")
    rng = np.random.default_rng(0)
    clean = render(scene, rng).astype(float)
    faded = render(scene, rng, replace(CLEAN, fade=0.5)).astype(float)
    blurred = render(scene, rng, Imperfection(blur=1.0)).astype(float)
    mottled = render(scene, rng, Imperfection(noise=10.0)).astype(float)
    assert np.abs((faded - 128) - 0.5 * (clean - 128)).max() <= 1
    assert blurred.mean() == pytest.approx(clean.mean(), abs=0.5)
    assert np.abs(np.diff(blurred[16], axis=0)).max() < 0.7 * np.abs(np.diff(clean[16], axis=0)).max()
    assert mottled[:4].std() > clean[:4].std() + 2
