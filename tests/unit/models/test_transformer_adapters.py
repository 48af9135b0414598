"""LoRA and DoRA on transformers: what the frozen weights are stored in changes nothing, and a folder of adapters is a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.testing import assert_close

from inpo.models.adapted import AdaptedModel
from inpo.models.config import Lora, ModelConfig
from inpo.models.loading import load
from inpo.models.lora import adapter_weights
from inpo.models.model import Model

FAMILIES = {"SD3": "tiny_sd3_pipeline", "PixArt-Σ": "tiny_pixart_pipeline"}
PROMPTS = ["a red circle on a white background", "", "a green square"]
ADAPTERS = [Lora(rank=2, alpha=3.0), Lora(rank=2, dora=True), Lora(rank=2, targets="all-linear")]


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(FAMILIES[str(request.param)])
    return path


def answer(model: Model) -> Tensor:
    """What the policy says at three times of its own schedule."""
    t = model.policy.schedule.draw(torch.tensor([0.999, 0.5, 0.01], dtype=torch.float64))
    x = torch.randn(3, *model.latent_shape(), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.policy(x, t, model.encoder.encode_prompts(PROMPTS))


def adapted(folder: Path, lora: Lora, dtype: str = "fp32") -> AdaptedModel:
    model = load(ModelConfig(str(folder), dtype=dtype), lora=lora)
    assert isinstance(model, AdaptedModel)
    return model


def move(model: Model) -> None:
    """Adapters that do something, the same ones wherever they are."""
    with torch.no_grad():
        for name, weight in adapter_weights(model.policy.network).items():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("lora", ADAPTERS[:2], ids=["lora", "dora"])
def test_fresh_adapters_change_no_number(folder: Path, lora: Lora, dtype: str) -> None:
    """LoRA's B is 0: the answers are the whole network's to the bit, though the frozen matrices are stored in half. DoRA: to rounding."""
    whole, model = load(ModelConfig(str(folder), dtype=dtype)), adapted(folder, lora, dtype)
    if lora.dora:
        assert_close(answer(model), answer(whole), atol=1e-5 if dtype == "fp32" else 2e-2, rtol=1e-3)
    else:
        assert torch.equal(answer(model), answer(whole))
    assert {p.dtype for p in model.policy.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("lora", ADAPTERS, ids=["lora", "dora", "all-linear"])
def test_a_folder_of_adapters_is_a_model(folder: Path, lora: Lora, tmp_path: Path) -> None:
    """By its base.json, with the adapters merged: the policy's answers to 1e-4. Names begin with `transformer.`, as for diffusers."""
    model = adapted(folder, lora)
    before = answer(model)
    move(model)
    model.save_adapter(tmp_path / "adapters")
    again = load(ModelConfig(str(tmp_path / "adapters")))
    assert type(again) is Model
    assert_close(answer(again), answer(model), atol=1e-4, rtol=1e-4)
    assert (answer(model) - before).abs().max() > 1e-4
    with safe_open(tmp_path / "adapters" / "pytorch_lora_weights.safetensors", "pt") as file:
        assert all(name.startswith("transformer.") for name in file.keys())  # noqa: SIM118
        assert json.loads(file.metadata()["lora_adapter_metadata"])["transformer.r"] == 2
    assert json.loads((tmp_path / "adapters" / "base.json").read_text())["path"] == str(folder)


def test_a_checkpoint_of_adapters_returns_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    """And the reference is the network without them, whatever they have become."""
    model, lora = adapted(folder, ADAPTERS[0], "bf16"), ADAPTERS[0]
    base = answer(model)
    move(model)
    model.save_policy(tmp_path / "policy")
    again = adapted(folder, lora, "bf16")
    again.load_policy(tmp_path / "policy")
    pairs = zip(adapter_weights(model.policy.network).values(), adapter_weights(again.policy.network).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(answer(again), answer(model))
    t = model.policy.schedule.draw(torch.tensor([0.999, 0.5, 0.01], dtype=torch.float64))
    x = torch.randn(3, *model.latent_shape(), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.reference()(x, t, model.encoder.encode_prompts(PROMPTS)), base)


def test_a_network_may_replace_the_base_of_adapters(folder: Path, tmp_path: Path) -> None:
    """`model.transformer` is recorded beside the adapters, and found again through them."""
    other = load(ModelConfig(str(folder)))
    with torch.no_grad():
        for parameter in other.policy.parameters():
            parameter.mul_(1.1)
    other.save_network(tmp_path / "own")
    model = load(ModelConfig(str(folder), transformer=str(tmp_path / "own")), lora=ADAPTERS[0])
    model.save_adapter(tmp_path / "adapters")  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "adapters" / "base.json").read_text())["transformer"] == str(tmp_path / "own")
    assert_close(answer(load(ModelConfig(str(tmp_path / "adapters")))), answer(other), atol=1e-5, rtol=1e-5)
