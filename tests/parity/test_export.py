"""What is exported, read by diffusers alone: the same pictures as the model that it was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from inpo.errors import InputError
from inpo.models.adapted import AdaptedModel
from inpo.models.config import Lora, ModelConfig
from inpo.models.loading import load
from inpo.models.lora import adapter_weights
from inpo.randomness import torch_rng
from inpo.verbs.exporting import Export, export
from tests import layouts

MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd1": lambda folder: layouts.sd(folder, version=1),
    "sd2-v": lambda folder: layouts.sd(folder, version=2),
    "sdxl": layouts.sdxl,
    "sdxl-v": lambda folder: layouts.sdxl(folder, v=True),
}
CLASSES = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder of each kind."""
    return MAKERS[request.param](tmp_path_factory.mktemp("layouts") / request.param)


def pictures(pipe: DiffusionPipeline) -> np.ndarray:
    """Two prompts at a fixed seed, `[2,H,W,3]` in [0, 1]."""
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a red circle", "a small blue square"]
    settings = {"num_inference_steps": 3, "guidance_scale": 3.0, "generator": torch.Generator().manual_seed(0), "output_type": "np"}
    return pipe(prompts, height=16, width=16, **settings).images


def trained(folder: Path, lora: Lora, out: Path) -> tuple[Path, Path]:
    """Adapters that do something, and the pipeline with them merged."""
    model = load(ModelConfig(str(folder)), lora=lora)
    assert isinstance(model, AdaptedModel)
    with torch.no_grad():
        for name, weight in adapter_weights(model.policy.network).items():
            if ".lora_B." in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=torch_rng(0, name)))
            elif "magnitude" in name:
                weight.mul_(1 + 0.2 * torch.rand(weight.shape, generator=torch_rng(0, name)))
    model.save_adapter(out / "adapters")
    model.save_pipeline(out / "merged")
    return out / "adapters", out / "merged"


def test_a_single_file_is_the_same_pipeline(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`from_single_file` with the local folder's settings makes its pictures, and our own reader finds every weight bit for bit."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "one.safetensors"
    export(Export(str(folder), "single-file"), out)
    ours = load(ModelConfig(str(out), config=str(folder)))
    assert ours.fingerprint() == load(ModelConfig(str(folder))).fingerprint()
    theirs = CLASSES[ours.family.name].from_single_file(str(out), config=str(folder), local_files_only=True)
    np.testing.assert_allclose(pictures(theirs), pictures(DiffusionPipeline.from_pretrained(folder)), rtol=0, atol=1e-4)


TARGETS = {"attention": ("attention",), "all": ("all-linear", "conv")}


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("form", ["lora", "lora-kohya"])
def test_adapters_in_either_layout_make_the_same_pictures(folder: Path, form: str, targets: str, tmp_path: Path) -> None:
    """On every layer that LoRA can be on; α/rank = 3/2 is in the file."""
    adapters, merged = trained(folder, Lora(rank=2, alpha=3, targets=TARGETS[targets]), tmp_path)
    export(Export(str(adapters), form), tmp_path / "out.safetensors")
    pipe = DiffusionPipeline.from_pretrained(folder)
    base = pictures(pipe)
    pipe.load_lora_weights(tmp_path, weight_name="out.safetensors")
    found, wanted = pictures(pipe), pictures(DiffusionPipeline.from_pretrained(merged))
    assert np.abs(wanted - base).max() > 0.01
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_dora_makes_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    """Magnitudes apart, on matrices and kernels."""
    adapters, merged = trained(folder, Lora(rank=2, targets=TARGETS["all"], dora=True), tmp_path)
    export(Export(str(adapters), "lora"), tmp_path / "out.safetensors")
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.load_lora_weights(tmp_path, weight_name="out.safetensors")
    np.testing.assert_allclose(pictures(pipe), pictures(DiffusionPipeline.from_pretrained(merged)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("targets", "rank"), [("attention", None), ("all-linear", 2)], ids=["as they are", "by SVD"])
def test_adapters_of_a_transformer_make_the_same_pictures(tiny_sd3_pipeline: Path, targets: str, rank: int | None, tmp_path: Path) -> None:
    """Stable Diffusion 3's in diffusers' layout, trained ones as they are and merged ones by SVD; kohya's layout has no names for them."""
    adapters, merged = trained(tiny_sd3_pipeline, Lora(rank=2, alpha=3, targets=targets), tmp_path)
    job = Export(str(adapters), "lora") if rank is None else Export(str(merged), "lora", rank=rank, base=str(tiny_sd3_pipeline))
    done = export(job, tmp_path / "out.safetensors")
    assert done.kept is None or done.kept > 0.999
    pipe = DiffusionPipeline.from_pretrained(tiny_sd3_pipeline)
    pipe.load_lora_weights(tmp_path, weight_name="out.safetensors")
    np.testing.assert_allclose(pictures(pipe), pictures(DiffusionPipeline.from_pretrained(merged)), rtol=0, atol=1e-4)
    for form in ("lora-kohya", "single-file", "unet"):
        with pytest.raises(InputError, match="Stable Diffusion 3"):
            export(Export(str(adapters), form), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
