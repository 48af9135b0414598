"""What `--dry-run` says of memory, against parameters counted in the loaded networks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from inpo.config import load_experiment
from inpo.verbs import plan
from inpo.verbs.plan import describe

Told = Callable[..., float]


def counted(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture(scope="module")
def unet(tiny_pipeline: Path) -> Any:
    return UNet2DConditionModel.from_pretrained(tiny_pipeline / "unet")


@pytest.fixture(scope="module")
def frozen(tiny_pipeline: Path) -> int:
    """Numbers of the VAE and the text encoder."""
    parts = (AutoencoderKL.from_pretrained(tiny_pipeline / "vae"), CLIPTextModel.from_pretrained(tiny_pipeline / "text_encoder"))
    return sum(map(counted, parts))


@pytest.fixture
def memory(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """The memory of the weights' share that a run of a method would be told, in bytes and not in GiB."""
    monkeypatch.setattr(plan, "GIB", 1)

    def told(name: str, *settings: str) -> float:
        common = (f"model.path={tiny_pipeline}", "model.dtype=fp32", "data.path=world:pairs", "data.resolution=16", f"method.name={name}")
        text = describe(load_experiment("sd15-sft", [*common, "optimizer.name=adamw", *settings]))
        (found,) = re.findall(r"^memory +([0-9.]+) GiB for weights, gradients and optimiser", text, re.MULTILINE)
        return float(found)

    return told


def test_memory_is_four_numbers_a_weight_and_one_more_for_the_reference(memory: Told, unet: Any, frozen: int) -> None:
    """In fp32: weight, gradient and Adam's two moments, 16 bytes; 4 of each that stays as it is, the reference's among them."""
    weights = counted(unet)
    assert memory("mapo") == memory("sft") == 16 * weights + 4 * frozen
    assert memory("diffusion-dpo") == memory("inpo") == 20 * weights + 4 * frozen
    assert memory("mapo", "train.average_decay=0.9") == 20 * weights + 4 * frozen


@pytest.mark.parametrize("rank", [2, 5])
def test_adapters_take_their_own_and_share_the_network_with_the_reference(memory: Told, unet: Any, frozen: int, rank: int) -> None:
    """A and B on every projection of attention; with or without a reference, the network is there once, and stays as it is."""
    layers = [layer for name, layer in unet.named_modules() if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))]
    adapters = sum(rank * (layer.in_features + layer.out_features) for layer in layers)
    assert adapters > 0
    for name in ("diffusion-dpo", "mapo"):
        assert memory(name, f"lora.rank={rank}") == 16 * adapters + 4 * (counted(unet) + frozen)
