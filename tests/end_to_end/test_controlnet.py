"""`inpo generate --controlnet`: an aligned run with a ControlNet of its base, resumed with the same one alone, and refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.conftest import Run, small
from tests.tiny_models import tiny_controlnet


@pytest.fixture
def scene(tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two prompts, a ControlNet, a picture, and a folder of two."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    tiny_controlnet(tiny_pipeline, tmp_path / "net")
    (tmp_path / "two").mkdir()
    for i, name in enumerate(("two/a.png", "two/b.png", "one.png")):
        noise = np.random.default_rng(i).integers(0, 256, (30, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "two" / "notes.txt").write_text("which is which")
    return tmp_path


def command(model: object, *more: object) -> tuple[object, ...]:
    return ("generate", "--model", model, "--prompts", "prompts.txt", "--steps", 2, *more)


def read(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.glob("*.png"))]


def test_an_aligned_model_is_steered(scene: Path, run: Run, tiny_pipeline: Path, pairs_file: Path) -> None:
    """As the paper does it: the base's ControlNet beside the trained UNet. A folder gives each prompt its own picture."""
    trained = run("train", "sd15-sft", *small(tiny_pipeline, pairs_file, "sft", "train.steps=1"), "--out", "run")
    assert trained.code == 0, trained.err
    one, two = ("--control-image", "one.png"), ("--control-image", "two")
    for out, more in (("plain", ()), ("one", ("--controlnet", "net", *one)), ("two", ("--controlnet", "net", *two))):
        done = run(*command("run", *more, "--out", f"out-{out}"))
        assert done.code == 0, done.err
    plain, first, second = (read(scene / f"out-{out}") for out in ("plain", "one", "two"))
    assert len({*plain, *first, *second}) == 6
    # Scale 0 is no ControlNet.
    assert run(*command("run", "--controlnet", "net", *one, "--control-scale", 0, "--out", "none")).code == 0
    assert read(scene / "none") == plain


def test_a_folder_goes_on_with_the_same_control_alone(scene: Path, run: Run, tiny_pipeline: Path) -> None:
    """Another picture, scale or network, or none of them, is refused and named; the same one keeps what is there."""
    given = ("--controlnet", "net", "--control-image", "one.png")
    assert run(*command(tiny_pipeline, *given, "--out", "out")).code == 0
    settings = json.loads((scene / "out" / "generation.json").read_text())
    assert settings["control"].keys() == {"controlnet", "scale", "images"}
    (scene / "out" / "00001_0.png").unlink()
    assert run(*command(tiny_pipeline, *given, "--out", "out")).code == 0
    assert len(read(scene / "out")) == 2
    tiny_controlnet(tiny_pipeline, scene / "other", seed=1)
    for changed in (
        (*given, "--control-scale", 0.5), ("--controlnet", "net", "--control-image", "two/a.png"),
        ("--controlnet", "other", "--control-image", "one.png"), (),
    ):  # fmt: skip
        refused = run(*command(tiny_pipeline, *changed, "--out", "out"))
        assert (refused.code, "made with other settings (control {" in refused.err) == (2, True), refused.err


@pytest.mark.parametrize(("arguments", "words"), [
    (("--controlnet", "net"), "--controlnet alone: a ControlNet needs --controlnet and --control-image"),
    (("--control-image", "one.png", "--control-scale", "2"), "--control-image and --control-scale alone"),
    (("--controlnet", "net", "--control-image", "one.png", "--control-scale", "-1"), "--control-scale=-1.0 must be a finite number"),
    (("--controlnet", "net", "--control-image", "none.png"), "--control-image none.png: there is no such file or folder"),
    (("--controlnet", "net", "--control-image", "prompts.txt"), "--control-image prompts.txt: bytes of an unknown kind"),
    (("--controlnet", "net", "--control-image", "net"), "--control-image net holds 0 pictures for 2 prompts"),
    (("--controlnet", "nowhere", "--control-image", "one.png"), "--controlnet='nowhere': there is no folder nowhere here"),
    (("--controlnet", "{base}/unet", "--control-image", "one.png"), "is a UNet2DConditionModel; a ControlNetModel is expected"),
    (("--controlnet", "xl", "--control-image", "one.png"), "addition_embed_type is text_time in it and None in the UNet"),
    (("--controlnet", "wide", "--control-image", "one.png"), "block_out_channels is [8, 8] in it and [4, 8] in the UNet"),
    (("--controlnet", "pool", "--control-image", "one.png"), "global_pool_conditions), which is not supported"),
    (("--controlnet", "small", "--control-image", "one.png"), "makes pictures 4 times smaller, and this model's VAE 2 times"),
    (("--controlnet", "half", "--control-image", "one.png"), "holds no weights"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(
    arguments: tuple[str, ...], words: str, scene: Path, run: Run, tiny_pipeline: Path, tiny_sdxl_pipeline: Path
) -> None:
    """Exit 2, naming option, value and what to do; no picture is made."""
    changes = {"wide": {"block_out_channels": (8, 8)}, "pool": {"global_pool_conditions": True}}
    changes["small"] = {"conditioning_embedding_out_channels": (4, 4, 8)}
    for name, change in changes.items():
        tiny_controlnet(tiny_pipeline, scene / name, **change)
    tiny_controlnet(tiny_sdxl_pipeline, scene / "xl")
    shutil.copytree(scene / "net", scene / "half", ignore=shutil.ignore_patterns("*.safetensors"))
    refused = run(*command(tiny_pipeline, *(each.format(base=tiny_pipeline) for each in arguments), "--out", "out"))
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused.err
    assert words in refused.err
    assert not list((scene / "out").glob("*.png"))


def test_a_model_without_a_unet_has_no_controlnet(scene: Path, run: Run, tiny_sd3_pipeline: Path) -> None:
    """Exit 2, naming the family."""
    refused = run(*command(tiny_sd3_pipeline, "--controlnet", "net", "--control-image", "one.png", "--out", "out"))
    assert (refused.code, "goes beside a UNet, and Stable Diffusion 3 has none" in refused.err) == (2, True), refused.err
