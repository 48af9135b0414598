"""T5 waits on the CPU and visits where the VAE is, once for several prompts; in a run of half precision it is bf16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from inpo.config import load_experiment
from inpo.models import encoder
from inpo.models.config import ModelConfig
from inpo.models.loading import load
from inpo.models.model import Model
from inpo.models.parts import examine
from inpo.models.prompts import T5Tower
from inpo.models.sizes import model_sizes
from inpo.verbs.plan import _weights_bytes, describe
from tests.unit.data import making

PIPELINES = ["tiny_sd3_pipeline", "tiny_pixart_pipeline"]


def t5_of(model: Model) -> nn.Module:
    (found,) = (tower.network for tower in model.encoder.towers if isinstance(tower, T5Tower))
    return found


def test_it_is_where_the_others_are_while_it_reads(tiny_sd3_pipeline: Path) -> None:
    """`meta` stands for an accelerator. Once around several calls, home again after an error too, and no number has changed."""
    model = load(ModelConfig(str(tiny_sd3_pipeline)))
    t5, expected = t5_of(model), model.encoder.encode_prompts(["a red circle"])
    places: list[str] = []
    t5.register_forward_hook(lambda module, *_: places.append(next(module.parameters()).device.type))
    model.encoder.move("meta")
    assert (model.encoder.device.type, next(t5.parameters()).device.type) == ("meta", "cpu")
    with model.encoder.reading_prompts():
        for _ in range(2):
            made = model.encoder.encode_prompts(["a red circle", ""])
            assert {tensor.device.type for tensor in made.tensors.values()} == {"meta"}
    with pytest.raises(RuntimeError), model.encoder.reading_prompts():
        raise RuntimeError
    assert places == ["meta", "meta"]
    assert {tensor.device.type for tensor in (*t5.parameters(), *t5.buffers())} == {"cpu"}
    home = load(ModelConfig(str(tiny_sd3_pipeline)))
    assert all(torch.equal(a, b) for a, b in zip(t5.parameters(), t5_of(home).parameters(), strict=True))
    home.encoder.move("cpu")
    for name, tensor in home.encoder.encode_prompts(["a red circle"]).tensors.items():
        assert torch.equal(tensor, expected.tensors[name])


def test_it_travels_once_for_all_prompts_of_a_step(tiny_sd3_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(ModelConfig(str(tiny_sd3_pipeline)))
    model.encoder.move("meta")
    moved: list[torch.Tensor] = []
    guest = encoder._guest
    monkeypatch.setattr(encoder, "_guest", lambda tensor, device: (moved.append(tensor), guest(tensor, device))[1])
    with model.encoder.reading_prompts():
        for prompt in ("a", "b", "c"):
            model.encoder.encode_prompts([prompt])
    every = [*t5_of(model).parameters(), *t5_of(model).buffers()]  # a tensor that two layers share is once among them
    assert len(moved) == len(every)
    model.encoder.encode_prompts(["d"])
    assert len(moved) == 2 * len(every)


@pytest.mark.parametrize("kind", PIPELINES)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_it_is_bf16_in_a_run_of_half_precision(kind: str, dtype: str, request: pytest.FixtureRequest) -> None:
    """Never fp16. What it says is fp32, and coarser by about bf16's 2^-8; CLIP and the VAE are fp32 as ever."""
    folder = str(request.getfixturevalue(kind))
    half, whole = load(ModelConfig(folder, dtype=dtype)), load(ModelConfig(folder))
    assert {weight.dtype for weight in t5_of(half).parameters()} == {torch.bfloat16}
    assert {p.dtype for module in half.encoder.modules if module is not t5_of(half) for p in module.parameters()} == {torch.float32}
    coarse, fine = (model.encoder.encode_prompts(["a red circle"]).tensors["prompt"] for model in (half, whole))
    assert coarse.dtype == torch.float32
    assert 1e-5 < (coarse - fine).abs().max() / fine.abs().max() < 0.05


def test_the_plan_counts_it_as_it_is_stored(tiny_pixart_pipeline: Path, tmp_path: Path) -> None:
    """2 bytes a weight less in bf16, of T5 and of the reference; what is trained, its gradient and the VAE stay fp32."""
    pairs = making.write(tmp_path / "pairs.parquet", [making.row(i) for i in range(4)])
    rows = {}
    for dtype in ("fp32", "bf16"):
        settings = [
            f"model.path={tiny_pixart_pipeline}", f"data.path={pairs}", f"model.dtype={dtype}", "data.resolution=16",
            "train.pairs_per_step=2", "data.validation_fraction=0",
        ]  # fmt: skip
        rows[dtype] = load_experiment("pixart-dpo", settings)
    sizes = model_sizes(examine(ModelConfig(str(tiny_pixart_pipeline))))
    assert _weights_bytes(rows["fp32"], sizes) - _weights_bytes(rows["bf16"], sizes) == 2 * (sizes.t5 + sizes.network)
    assert "GiB for weights" in describe(rows["bf16"])
