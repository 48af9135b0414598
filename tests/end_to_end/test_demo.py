"""`inpo demo` at a small size, through the same code: files, numbers, refusals, and the page in a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inpo import world
from inpo.errors import InputError
from inpo.evaluation.summary import Summary, read_summary
from inpo.generation import GenerationConfig
from inpo.verbs import demo
from inpo.verbs.demo import DemoSize, run_demo
from tests.end_to_end.browsing import check_page, opened
from tests.page_reader import flat_numbers

SMALL = DemoSize(
    overrides=(
        "train.steps=2",
        "train.pairs_per_step=4",
        "optimizer.warmup_steps=0",
        "train.sample_every_steps=2",
        "data.validation_fraction=0",
    ),
    prompts=6,
    generation=GenerationConfig(steps=2, guidance=world.GUIDANCE),
)


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "demo"
    assert isinstance(run_demo(out, null=True, size=SMALL), Summary)
    return out


def test_everything_is_where_the_contract_says(small_demo: Path) -> None:
    """Run folders for both methods and the control, the base's own folder, summary, report, pictures under the same seeds."""
    for name in ("inpo", "diffusion-dpo", "inpo-shuffled"):
        for file in ("config.yaml", "environment.json", "metrics.jsonl", "summary.json", "model/model_index.json"):
            assert (small_demo / name / file).is_file(), f"{name}/{file}"
    assert (small_demo / "base" / "model" / "model_index.json").is_file()
    assert (small_demo / "evaluation" / "scores.parquet").is_file()
    seeds = {
        name: [json.loads(line)["seed"] for line in (small_demo / "evaluation" / name / "images.jsonl").read_text().splitlines()]
        for name in ("base", "inpo", "diffusion-dpo", "inpo-shuffled", "base-again")
    }
    assert seeds["base"] == seeds["inpo"] == seeds["diffusion-dpo"] == seeds["inpo-shuffled"]
    assert not set(seeds["base"]) & set(seeds["base-again"])


def test_the_summary_has_training_and_evaluation(small_demo: Path) -> None:
    """Keys of CONTRACTS; the method comes first; the control against itself has no training; costs are METHOD's."""
    summary = read_summary(small_demo / "summary.json")
    assert (summary.kind, summary.baseline) == ("demo", "base")
    assert list(summary.methods) == ["inpo", "diffusion-dpo", "inpo-shuffled", "base-again"]
    inpo, dpo, again = (summary.methods[name] for name in ("inpo", "diffusion-dpo", "base-again"))
    assert (inpo.steps, inpo.n, inpo.seeds) == (2, 6, (0,))
    assert dpo.unet_forwards_per_pair == 4
    assert inpo.unet_forwards_per_pair is not None
    # Two inversion steps and four pairs a step, stratified: two pairs have k = 1 and two k = 2, and 2 k + 4 images are asked for.
    assert inpo.unet_forwards_per_pair == 7
    assert again.steps is None
    assert again.win_rate is not None
    assert set(inpo.parts) == {"fidelity", "composition", "sharpness", "contrast"}


def test_the_control_sees_the_same_pairs_in_another_order(small_demo: Path) -> None:
    """The shuffled control differs from InPO in its labels alone."""
    first, control = ((small_demo / name / "config.yaml").read_text() for name in ("inpo", "inpo-shuffled"))
    assert control == first.replace("path: world:pairs\n", "path: world:pairs-shuffled\n")


def test_a_second_demo_needs_force(small_demo: Path, tmp_path: Path) -> None:
    """An earlier demo is replaced only by --force; a folder of something else never is."""
    with pytest.raises(InputError, match="--force"):
        run_demo(small_demo, size=SMALL)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no earlier demo"):
        run_demo(tmp_path, force=True, size=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    # Settings in folders by that name are nothing that only a demo has.
    for file in ("base/config.yaml", "evaluation/thesis.txt"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("model:\n  path: world\n")
    with pytest.raises(InputError, match="holds no earlier demo"):
        run_demo(tmp_path, force=True, size=SMALL)
    assert (tmp_path / "evaluation" / "thesis.txt").is_file()


def test_force_replaces_the_whole_demo(tmp_path: Path) -> None:
    """Pictures of the first demo do not survive into the second, and base-again stays without --null."""
    only = DemoSize(SMALL.overrides, prompts=2, generation=GenerationConfig(steps=1, guidance=1.0))
    run_demo(tmp_path / "demo", size=SMALL)
    again = run_demo(tmp_path / "demo", force=True, size=only)
    assert isinstance(again, Summary)
    assert list(again.methods) == ["inpo", "diffusion-dpo", "base-again"]
    assert again.methods["inpo"].n == 2
    assert len(list((tmp_path / "demo" / "evaluation" / "inpo").glob("*.png"))) == 2


@pytest.mark.browser
def test_the_page_of_the_demo(browser: Any, small_demo: Path) -> None:
    """Chromium: silent, alone, whole; every number in summary.json stands in the page, equal."""
    page, said, asked = opened(browser, small_demo)
    check_page(page, said, asked, small_demo)
    shown = {
        element["key"]: float(element["value"])
        for element in page.evaluate(
            "[...document.querySelectorAll('[data-key]')].map(e => ({key: e.dataset.key, value: e.dataset.value}))"
        )
    }
    expected = flat_numbers(json.loads((small_demo / "summary.json").read_text()))
    for name in ("win_rate", "low", "high", "n", "mean_gain"):
        assert shown[f"methods.inpo.{name}"] == expected[f"methods.inpo.{name}"]


def test_the_demo_is_the_papers_regime() -> None:
    """400 steps, each pair seen once: 6,400 pairs of an endless source, and at least 192 held-out prompts that no method trained on."""
    from inpo.compose import prompt_set
    from inpo.config import load_experiment

    for recipe in demo.RECIPES.values():
        experiment = load_experiment(recipe)
        assert experiment.train.steps == 400
        assert experiment.train.pairs_per_step in (16, 32)
        assert experiment.data.path == "world:pairs"
    assert len(prompt_set(demo.PROMPTS)) >= 192
    assert not set(prompt_set(demo.PROMPTS)) & (set(prompt_set("world:train")) | set(prompt_set("world:validation")))
