"""What makes pictures fit a card: size, number at once and precision, as options of every command that makes pictures."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from inpo.errors import InputError
from inpo.generation import GenerationConfig, generate_latents, sampling, shots
from inpo.models.config import ModelConfig
from inpo.models.families import FAMILIES, Family
from inpo.models.loading import load
from inpo.models.targets import ADAPTABLE
from tests.end_to_end.conftest import Run

PROMPTS = "a small red square on a white background\na red circle above a blue square on a black background\n"
ASKED = ("--resolution", 32, "--batch", 1, "--dtype", "bf16", "--steps", 2, "--guidance", 3)


@pytest.fixture
def commands(tmp_path: Path, tiny_pipeline: Path) -> Mapping[str, tuple[object, ...]]:
    """Each command that makes pictures, without its options."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(PROMPTS)
    return {
        "generate": ("generate", "--model", tiny_pipeline, "--prompts", prompts, "--out", tmp_path / "out"),
        "evaluate": (
            "evaluate", "--candidate", tiny_pipeline, "--baseline", "world", "--prompts", prompts, "--scorers", "world:oracle",
            "--out", tmp_path / "out",
        ),
        "data generate": (
            "data", "generate", "--model", tiny_pipeline, "--prompts", prompts, "--scorer", "world:oracle", "--near-ties", "half",
            "--out", tmp_path / "o.parquet",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["generate", "evaluate", "data generate"])
def test_size_number_and_precision_are_options(
    name: str, commands: Mapping[str, tuple[object, ...]], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture at a time of 32 pixels by a bf16 network, as every generation.json says."""
    asked: list[tuple[int, torch.dtype]] = []
    monkeypatch.setattr("inpo.generation.folder.generate_latents", lambda model, batch, config: _remembered(asked, model, batch, config))
    done = run(*commands[name], *ASKED)
    assert done.code == 0, done.err
    assert {number for number, _ in asked} == {1}
    assert {stored for _, stored in asked} == {torch.bfloat16}
    files = list(tmp_path.rglob("generation.json"))
    assert len(files) == (2 if name == "evaluate" else 1)
    assert [(made["resolution"], made["dtype"]) for made in map(json.loads, map(Path.read_text, files))] == [(32, "bf16")] * len(files)
    assert {Image.open(picture).size for picture in tmp_path.rglob("*.png")} == {(32, 32)}


def _remembered(asked: list[tuple[int, torch.dtype]], model: object, batch: object, config: GenerationConfig) -> torch.Tensor:
    asked.append((len(batch), next(m.weight.dtype for m in model.policy.network.modules() if isinstance(m, ADAPTABLE))))
    return sampling.generate_latents(model, batch, config)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_guidance_is_the_familys_unless_it_is_set(family: Family) -> None:
    """As diffusers' pipeline has it."""
    assert family.guidance == inspect.signature(getattr(diffusers, family.pipeline).__call__).parameters["guidance_scale"].default
    model = SimpleNamespace(guidance=family.guidance)
    assert [sampling.guidance_of(model, GenerationConfig(guidance=asked)) for asked in (None, 0.0, 3.0)] == [family.guidance, 0.0, 3.0]


def test_pictures_say_with_which_guidance_they_were_made(run: Run, commands: Mapping[str, tuple[object, ...]], tmp_path: Path) -> None:
    """Unset it is the number itself: the same pictures, which a second call keeps."""
    for given in ((), ("--guidance", 7.5)):
        assert run(*commands["generate"], "--steps", 2, *given).code == 0
        assert json.loads((tmp_path / "out" / "generation.json").read_text())["guidance"] == 7.5
    other = run(*commands["generate"], "--steps", 2, "--guidance", 3)
    assert (other.code, "guidance 7.5 → 3" in other.err) == (2, True)


@pytest.mark.parametrize(
    ("side", "asked", "size"), [(8, None, 16), (64, None, 16), (96, None, 7), (128, None, 4), (512, None, 1), (128, 9, 9)]
)
def test_larger_pictures_are_made_fewer_at_once(side: int, asked: int | None, size: int) -> None:
    """As many latents as 16 of 64×64 have, and never more than 16 pictures, unless a number is set."""
    model = SimpleNamespace(latent_shape=lambda _: (4, side, side))
    config = GenerationConfig(batch=asked)
    cut = list(sampling.batches(model, shots(["a"] * 17, config), config))
    assert [len(batch) for batch in cut[:-1]] == [size] * (len(cut) - 1)
    assert sum(map(len, cut)) == 17


@pytest.mark.parametrize("name", ["generate", "evaluate", "data generate"])
@pytest.mark.parametrize("what", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"), MemoryError()])
def test_memory_that_does_not_suffice_is_one_line_with_the_option(
    name: str, what: Exception, commands: Mapping[str, tuple[object, ...]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise what

    monkeypatch.setattr("inpo.generation.folder.generate_latents", fail)
    failed = run(*commands[name], "--steps", 2, "--batch", 7)
    assert (failed.code, failed.err.count("error: ")) == (1, 1)
    assert "lower --batch (now 7), then --resolution, or set --dtype bf16" in failed.err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--dtype", "half"), "--dtype='half' is not known"),
        (("--batch", 0), "--batch=0 must be a whole number of at least 1"),
        (("--resolution", 0), "--resolution=0 must be a whole number of at least 1\n"),
        (("--resolution", 25), "resolution 25 is not a positive multiple of"),
        (("--samples", 0), "--samples=0 must be"),
        (("--scheduler", "dim"), "--scheduler='dim' is not known (did you mean 'ddim'?)"),
    ],
)
def test_wrong_values_are_refused_by_option(
    option: tuple[object, ...], words: str, commands: Mapping[str, tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    """Before a weight is read, with the dashes that were typed, and without null, which no option can be."""
    for command in commands.values():
        refused = run(*command, *option)
        assert (refused.code, words in refused.err) == (2, True), refused.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "tiny") == ["prompts.txt"]


def test_a_model_that_is_not_trained_is_stored_as_it_computes_and_draws_the_same(tiny_pipeline: Path) -> None:
    """Half the memory for matrices and kernels, and not one number else, with guidance; in fp32 nothing is stored otherwise."""
    config = GenerationConfig(steps=3, guidance=3.0)
    wanted = shots(["a red circle", "a blue square"], config)
    for dtype in ("bf16", "fp32"):
        trained, frozen = (load(ModelConfig(str(tiny_pipeline), dtype=dtype), frozen=frozen) for frozen in (False, True))
        assert torch.equal(generate_latents(trained, wanted, config), generate_latents(frozen, wanted, config))
        assert not any(weight.requires_grad for weight in frozen.policy.parameters())
        sizes = [sum(weight.nbytes for weight in model.policy.parameters()) for model in (trained, frozen)]
        assert sizes[1] / sizes[0] < 0.6 if dtype == "bf16" else sizes[0] == sizes[1]


def test_pictures_of_an_older_version_are_gone_on_with(run: Run, commands: Mapping[str, tuple[object, ...]], tmp_path: Path) -> None:
    """Its generation.json names no dtype; another precision is refused, for it makes other pictures."""
    command = (*commands["generate"], "--steps", 2)
    assert run(*command).code == 0
    file = tmp_path / "out" / "generation.json"
    settings = json.loads(file.read_text())
    assert settings.pop("dtype") == "fp32"
    file.write_text(json.dumps(settings))
    (tmp_path / "out" / "00001_0.png").unlink()
    assert run(*command).code == 0
    assert (tmp_path / "out" / "00001_0.png").is_file()
    refused = run(*command, "--dtype", "bf16")
    assert (refused.code, "or --force" in refused.err) == (2, True)


def test_a_batch_changes_no_picture_in_half_precision(tiny_pipeline: Path) -> None:
    """As in fp32: each picture's noise is its own."""
    config = GenerationConfig(steps=3, guidance=3.0)
    wanted, model = shots(["a red circle", "a blue square"], config), load(ModelConfig(str(tiny_pipeline), dtype="bf16"), frozen=True)
    alone = torch.cat([generate_latents(model, [shot], config) for shot in wanted])
    assert_close(alone, generate_latents(model, wanted, config), atol=0.05, rtol=0)


def test_python_names_the_key(tiny_pipeline: Path) -> None:
    with pytest.raises(InputError, match=r"^batch=0 must be"):
        GenerationConfig(batch=0)
