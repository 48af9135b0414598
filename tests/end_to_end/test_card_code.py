"""The code in a card is run, once for each form: what it loads makes the pictures of the model that the card stands beside."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard

from inpo.cli import app
from inpo.verbs.publishing import prepare
from tests.end_to_end.conftest import small
from tests.end_to_end.test_export import LORA, latents
from tests.single_files import write_single_file
from tests.tiny_models import tiny_sd

CARD = "README.md"


def inpo(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["inpo", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        assert not ended.value.code, arguments


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path, pairs_file: Path) -> Path:
    """Runs from bases of every kind: a folder, a folder with another UNet and VAE, a run of adapters, a single file."""
    out = tmp_path_factory.mktemp("runs")
    shutil.copytree(tiny_pipeline, out / "base")
    shutil.copytree(tiny_sd(out, seed=5), out / "other")
    # A card names a folder by its last part: seen from here, that is this one.
    (out / "vae").symlink_to(out / "other" / "vae")
    write_single_file(tiny_pipeline, out / "one.safetensors")
    settings = {
        "full": ("optimizer.lr=0.01",),
        "adapters": LORA,
        "on-full": (*LORA, "model.unet=full", "model.vae=other/vae"),
        "alone": ("optimizer.lr=0.01", "output.format=unet", "model.vae=other"),
        "on-adapters": (*LORA, "model.path=adapters"),
        "on-file": (*LORA, "model.path=one.safetensors", "model.config=base"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        patch.setenv("XDG_CACHE_HOME", str(out / "cache"))
        for name, more in settings.items():
            inpo("train", "sd15-sft", *small(Path("base"), pairs_file, "sft", "train.steps=1", *more), "--out", name)
            inpo("export", name, "--out", f"{name}-whole")
    return out


def check(card: Path, runs: Path, whole: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the card's code where its folders lie, compares its latents with those of the pipeline `whole`, and returns it."""
    monkeypatch.chdir(runs)
    code = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)[0]
    names: dict[str, DiffusionPipeline] = {}
    exec(compile(code, str(card), "exec"), names)
    torch.testing.assert_close(latents(names["pipe"]), latents(DiffusionPipeline.from_pretrained(whole)), rtol=0, atol=1e-4)
    assert torch.equal(next(names["pipe"].vae.parameters()), next(DiffusionPipeline.from_pretrained(whole).vae.parameters()))
    return code


@pytest.mark.parametrize(("name", "words"), [
    ("full", "from_pretrained('full/model')"),
    ("adapters", "load_lora_weights('adapters/model'"),
    ("on-full", "network = UNet2DConditionModel.from_pretrained('full/model/unet')\nvae = AutoencoderKL.from_pretrained('vae')"),
    ("alone", "from_pretrained('base', unet=network, vae=vae)"),
    ("on-adapters", "from_pretrained('base')\npipe.load_lora_weights('adapters/model'"),
    ("on-file", "from_single_file('one.safetensors', config='base')"),
])  # fmt: skip
def test_the_card_of_a_run(name: str, words: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on the base that it was trained from, with what replaced parts of it."""
    assert words in check(runs / name / "model" / CARD, runs, f"{name}-whole", monkeypatch)
    assert "base_model" not in ModelCard.load(runs / name / "model" / CARD).data.to_dict()


@pytest.mark.parametrize(("name", "form", "out", "words"), [
    ("full", "pipeline", "e-pipeline", "from_pretrained('e-pipeline')"),
    ("full", "unet", "e-unet", "from_pretrained('base', unet=network)"),
    ("adapters", "unet", "e-merged", "from_pretrained('base', unet=network)"),
    ("full", "single-file", "e-file.safetensors", "from_single_file('e-file.safetensors'"),
    ("full", "single-file", "e-files", "from_single_file('e-files/e-files.safetensors'"),
    ("adapters", "lora", "e-lora", "load_lora_weights('e-lora', weight_name='pytorch_lora_weights.safetensors')"),
    ("adapters", "lora", "e-lora.safetensors", "load_lora_weights('.', weight_name='e-lora.safetensors')"),
    ("adapters", "lora-kohya", "e-kohya", "load_lora_weights('e-kohya', weight_name='e-kohya.safetensors')"),
    ("on-full", "lora", "e-on-full", "from_pretrained('base', unet=network, vae=vae)"),
])  # fmt: skip
def test_the_card_of_an_export(name: str, form: str, out: str, words: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders and files."""
    monkeypatch.chdir(runs)
    inpo("export", name, "--format", form, "--out", out)
    card = runs / out / CARD if not out.endswith(".safetensors") else (runs / out).with_suffix(".md")
    if form == "single-file":
        # A file has no settings, and the tiny ones are none that diffusers knows.
        own = (runs / out if out.endswith(".safetensors") else runs / out / f"{out}.safetensors").relative_to(runs)
        text = card.read_text()
        assert f"from_single_file('{own}')" in text
        card.write_text(text.replace(f"'{own}')", f"'{own}', config='base')"))
    assert words in check(card, runs, f"{name}-whole", monkeypatch)


def test_a_lora_is_put_on_what_it_was_measured_from(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--base another run; and of adapters on adapters, the base below both."""
    monkeypatch.chdir(runs)
    for name, out, base in (("on-adapters", "e-both", ()), ("adapters", "e-from-other", ("--base", "other"))):
        inpo("export", name, "--format", "lora", "--rank", 64, *base, "--out", out)
    code = check(runs / "e-both" / CARD, runs, "on-adapters-whole", monkeypatch)
    assert "from_pretrained('base')\npipe.load_lora_weights('e-both'" in code
    assert "from_pretrained('other')\npipe.load_lora_weights('e-from-other'" in (runs / "e-from-other" / CARD).read_text()
    inpo("export", "base", "--format", "lora", "--rank", 2, "--base", "full", "--out", "e-of-base")
    assert "from_pretrained('full/model')\npipe.load_lora_weights('e-of-base'" in (runs / "e-of-base" / CARD).read_text()


def test_a_push_renames_the_result_and_nothing_else(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was renamed since, and one whose base has the run's own name."""
    monkeypatch.chdir(runs)
    shutil.copytree("adapters", "renamed", dirs_exist_ok=True)
    card = prepare("renamed", "me/x").card
    assert "pipe.load_lora_weights('me/x', weight_name='pytorch_lora_weights.safetensors')" in card
    assert "\n# x\n" in card
    assert "'adapters" not in card
    named = (runs / "adapters" / "model" / CARD).read_text().replace("('base'", "('adapters/model'")
    (runs / "renamed" / "model" / CARD).write_text(named)
    card = prepare("renamed", "me/x").card
    assert "from_pretrained('adapters/model')" in card
    assert "load_lora_weights('me/x'" in card


def test_a_push_of_files_names_them_on_the_hub(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that they have by now."""
    monkeypatch.chdir(runs)
    for form, name in (("lora", "p-lora"), ("single-file", "p-whole")):
        inpo("export", "adapters", "--format", form, "--out", f"{name}.safetensors")
        for ending in (".safetensors", ".md"):
            (runs / f"{name}{ending}").rename(f"{name}-2{ending}")
    assert "load_lora_weights('me/x', weight_name='p-lora-2.safetensors')" in prepare("p-lora-2.safetensors", "me/x").card
    wanted = "from_single_file('https://huggingface.co/me/x/blob/main/p-whole-2.safetensors'"
    assert wanted in prepare("p-whole-2.safetensors", "me/x").card
