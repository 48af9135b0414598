"""A model steered by a ControlNet makes the latents of diffusers' own ControlNet pipelines from the same noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline
from PIL import Image

from inpo.control import Control, ControlledModel
from inpo.generation import GenerationConfig, generate_latents, initial_latents, shots
from inpo.models.config import ModelConfig
from inpo.models.controlnet import load_controlnet
from inpo.models.loading import load
from tests.tiny_models import tiny_controlnet

PROMPTS = ["a red circle", "a blue square on a white background"]
PIPELINES = {"sd": StableDiffusionControlNetPipeline, "sdxl": StableDiffusionXLControlNetPipeline}


def pictures(folder: Path) -> list[Path]:
    """Two of noise, neither of the size that is made."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), dtype=np.uint8)
    for i, each in enumerate(noise):
        Image.fromarray(each).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["tiny_pipeline", "tiny_v_pipeline", "tiny_sdxl_pipeline", "tiny_sdxl_v_pipeline"])
def test_latents_are_those_of_diffusers(kind: str, guidance: float, scale: float, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Each prompt with its own picture, with and without guidance; and it is not what the model makes without."""
    folder: Path = request.getfixturevalue(kind)
    network = tiny_controlnet(folder, tmp_path / "controlnet")
    files = pictures(tmp_path / "pictures")
    model = load(ModelConfig(str(folder)))
    steered = ControlledModel(model, load_controlnet(str(network), model, "--controlnet"), Control("", files[0].parent).files(2), scale)
    config = GenerationConfig(steps=4, guidance=guidance)
    ours = generate_latents(steered, shots(PROMPTS, config), config)
    assert (ours - generate_latents(model, shots(PROMPTS, config), config)).abs().max() > 0.01

    controlnet = ControlNetModel.from_pretrained(network)
    pipe = PIPELINES[model.family.name].from_pretrained(folder, controlnet=controlnet, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        PROMPTS, image=[Image.open(file) for file in files], num_inference_steps=4, guidance_scale=guidance, height=16, width=16,
        controlnet_conditioning_scale=scale, output_type="latent",
        latents=initial_latents((4, 8, 8), [shot.seed for shot in shots(PROMPTS, config)]),
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_picture_for_all_and_batches_of_any_size(tiny_pipeline: Path, tmp_path: Path) -> None:
    """One file serves every prompt; cutting the work otherwise changes nothing; the model itself is as it was."""
    network = tiny_controlnet(tiny_pipeline, tmp_path / "controlnet")
    file = pictures(tmp_path / "pictures")[0]
    model = load(ModelConfig(str(tiny_pipeline)))
    before = model.fingerprint()
    steered = ControlledModel(model, load_controlnet(str(network), model, "--controlnet"), Control("", file).files(2), 1.0)
    config = GenerationConfig(steps=2, guidance=3.0, samples=2)
    wanted = shots(PROMPTS, config)
    whole = generate_latents(steered, wanted, config)
    parts = torch.cat([generate_latents(steered, wanted[i : i + 1], config) for i in range(4)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    assert model.fingerprint() == before
