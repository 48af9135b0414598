"""A scorer in PickScore's format, held to transformers' own path on a tiny random CLIP model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inpo.errors import InputError
from inpo.evaluation.rewards.pickscore import PickScore
from inpo.evaluation.rewards.preprocessing import read_transform
from tests.tiny_models import tiny_tokenizer

PROMPTS = ["a red circle", "a big blue square on a white background left of a photo", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIPModel with 16-pixel pictures and 24 tokens, saved as PickScore is."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    path = tmp_path_factory.mktemp("scorer")
    tokenizer = tiny_tokenizer(24)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 24, **ids}
    torch.manual_seed(0)
    vision = {**tower, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(path)
    return path


def pictures(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.mark.parametrize("size", [(16, 16), (33, 20), (20, 33), (64, 64), (501, 333), (17, 16), (5, 9)])
def test_pixels_equal_transformers(folder: Path, size: tuple[int, int]):
    """Bit for bit, for odd, even, wide, tall and tiny pictures."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pixels = pictures(size)[0].numpy()
    theirs = CLIPImageProcessorPil.from_pretrained(folder)(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(read_transform(folder)(pixels), theirs)


def test_score_equals_the_published_formula(folder: Path):
    """exp(logit_scale) · cos, which is what CLIPModel itself puts on the diagonal of its logits."""
    from transformers import AutoTokenizer, CLIPModel

    images = pictures((16, 16), (20, 40), (64, 32))
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = torch.stack([torch.from_numpy(read_transform(folder)(image.numpy())) for image in images])
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=pixels, **tokens).logits_per_image.diagonal()
    scores = PickScore(folder).score(images, PROMPTS)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, logits, rtol=1e-5, atol=1e-5)


def test_a_score_does_not_depend_on_its_batch(folder: Path):
    """One at a time, two at a time, and all at once agree."""
    images = pictures((16, 16), (20, 40), (64, 32))
    together = PickScore(folder).score(images, PROMPTS)
    torch.testing.assert_close(PickScore(folder, batch_size=2).score(images, PROMPTS), together, rtol=1e-5, atol=1e-5)
    alone = torch.cat([PickScore(folder).score([image], [prompt]) for image, prompt in zip(images, PROMPTS, strict=True)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_nothing_to_score(folder: Path):
    """An empty batch has an empty answer; lengths that differ are a fault."""
    scorer = PickScore(folder)
    assert scorer.score([], []).shape == (0,)
    with pytest.raises(ValueError, match="1 images but 0 prompts"):
        scorer.score(pictures((16, 16)), [])


def test_spec_follows_the_contents_not_the_place(folder: Path, tmp_path: Path):
    """A copy elsewhere has the same spec; a changed preprocessing setting another one."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert PickScore(copy, name="world").spec == PickScore(folder).spec
    config = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps({**config, "resample": 2}))
    assert PickScore(copy).spec != PickScore(folder).spec


def test_settings_may_stand_in_the_processors_file(folder: Path, tmp_path: Path):
    """transformers 5 writes `processor_config.json` when a whole CLIPProcessor is saved; sizes of old files are plain numbers."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    values = {"image_processor": {**config, "size": 16, "crop_size": 16}}
    (copy / "processor_config.json").write_text(json.dumps(values))
    assert read_transform(copy) == read_transform(folder)


def test_exact_size_and_switches(folder: Path, tmp_path: Path):
    """{"height", "width"} resizes exactly; without resize and crop, pixels are only normalised."""
    config = json.loads((folder / "preprocessor_config.json").read_text())
    exact = {**config, "size": {"height": 6, "width": 9}, "do_center_crop": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(exact))
    assert read_transform(tmp_path)(pictures((20, 20))[0].numpy()).shape == (3, 6, 9)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**exact, "do_resize": False}))
    assert read_transform(tmp_path)(pictures((20, 21))[0].numpy()).shape == (3, 20, 21)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_rescale": False}, "do_rescale"),
        ({"size": {"shortest_edge": "16"}}, "'size'"),
        ({"image_mean": [0.5]}, "'image_mean' must be three numbers"),
        ({"image_std": ["a", 1, 1]}, "must be a number"),
        ({"resample": "bicubic"}, "'resample'"),
    ],
)
def test_wrong_settings(folder: Path, tmp_path: Path, change: dict[str, object], message: str):
    """File and key are named."""
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=message):
        read_transform(tmp_path)


def broken(folder: Path, tmp_path: Path, fault: str) -> Path:
    """A copy of the folder with one thing wrong."""
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    weights = copy / "model.safetensors"
    if fault == "pickle":
        torch.save(load_file(weights), copy / "pytorch_model.bin")
        weights.unlink()
    elif fault == "lacking":
        tensors = load_file(weights)
        del tensors["visual_projection.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif fault == "foreign":
        (copy / "config.json").write_text('{"model_type": "bert"}')
    elif fault == "no JSON":
        (copy / "config.json").write_text("{")
    else:
        (copy / fault).unlink()
    return copy


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("pickle", r"pytorch_model\.bin is a pickle"),
        ("lacking", r"weights are missing: visual_projection\.weight"),
        ("truncated", "cannot be loaded"),
        ("foreign", "model_type is 'bert'"),
        ("no JSON", "not a model's configuration"),
        ("config.json", "no config.json"),
        ("model.safetensors", "no model.safetensors"),
        ("preprocessor_config.json", "no preprocessor_config.json"),
    ],
)
def test_broken_folders(folder: Path, tmp_path: Path, fault: str, message: str):
    """Each is told apart; a pickle is never opened, and weights are never made up."""
    with pytest.raises(InputError, match=message):
        PickScore(broken(folder, tmp_path, fault))


def test_absent_folder(tmp_path: Path):
    """Named, and not looked for on a hub."""
    with pytest.raises(InputError, match="no folder"):
        PickScore(tmp_path / "none")


def test_import_costs_no_transformers():
    """The module is imported by whoever lists scorers."""
    code = "import sys, inpo.evaluation.rewards.pickscore; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
