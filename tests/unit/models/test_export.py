"""Names in the original layout against diffusers' own reader, and low-rank updates against a singular value decomposition."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.models.config import Lora
from inpo.models.export.adapters import Adapters, Layer, kohya_naming, read_adapters, write_diffusers, write_kohya
from inpo.models.export.extract import extract, low_rank
from inpo.models.export.original import UNetNames, unet_tensors, vae_tensors
from inpo.models.families import SD as SD_FAMILY
from inpo.models.families import SDXL as SDXL_FAMILY
from inpo.models.lora import adapter_weights, attach, merge, write_adapter
from tests.tiny_models import tiny_unet

CPU = torch.device("cpu")
SD15 = {"cross_attention_dim": 768, "sample_size": 64}
SDXL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
    "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10), "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20), "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


@pytest.mark.parametrize(("config", "count"), [(SD15, 686), (SDXL, 1680)], ids=["SD1.5", "SDXL"])
def test_the_published_unets_names_are_those_that_diffusers_reads(config: dict[str, object], count: int) -> None:
    """On networks of the published shapes, without numbers: every tensor is back under its own name."""
    with torch.device("meta"):
        network = UNet2DConditionModel(**config)
    weights = network.state_dict()
    original = unet_tensors(weights)
    assert len(weights) == len(original) == count
    read = convert_ldm_unet_checkpoint({f"model.diffusion_model.{name}": each for name, each in original.items()}, network.config)
    assert {name: each.shape for name, each in read.items()} == {name: each.shape for name, each in weights.items()}
    assert all(read[name] is tensor for name, tensor in weights.items())


def test_the_published_vae() -> None:
    """The same for the VAE that SD and SDXL share the shape of; its attention is in kernels of 1×1."""
    with torch.device("meta"):
        network = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, norm_num_groups=32,
        )  # fmt: skip
    weights = network.state_dict()
    original = vae_tensors(weights)
    assert original["decoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    assert original["decoder.up.3.upsample.conv.weight"].shape == (512, 512, 3, 3)
    read = convert_ldm_vae_checkpoint({f"first_stage_model.{name}": each for name, each in original.items()}, network.config)
    assert {name: each.shape for name, each in read.items()} == {name: each.shape for name, each in weights.items()}


def test_names_by_hand() -> None:
    """Stable Diffusion 1.5's, as its authors' configuration counts them: 12 blocks down, 12 up, of which 2, 5 and 8 enlarge."""
    with torch.device("meta"):
        names = UNetNames.of(UNet2DConditionModel(**SD15).state_dict())
    for ours, theirs in {
        "conv_in.weight": "input_blocks.0.0.weight",
        "down_blocks.0.downsamplers.0.conv.bias": "input_blocks.3.0.op.bias",
        "down_blocks.1.attentions.0.proj_in.weight": "input_blocks.4.1.proj_in.weight",
        "down_blocks.3.resnets.1.time_emb_proj.weight": "input_blocks.11.0.emb_layers.1.weight",
        "mid_block.resnets.1.conv2.weight": "middle_block.2.out_layers.3.weight",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.3.resnets.2.conv_shortcut.bias": "output_blocks.11.0.skip_connection.bias",
        "conv_norm_out.weight": "out.0.weight",
    }.items():
        assert names.original(ours) == theirs
    assert names.original_layer("down_blocks.0.downsamplers.0.conv") == "input_blocks.3.0.op"
    with pytest.raises(InputError, match=r"'encoder_hid_proj\.weight' has no name in the layout"):
        names.original("encoder_hid_proj.weight")


def test_kohyas_names_for_sdxl_by_hand() -> None:
    """Those of the LoRA files that its programs write for SDXL: attention from block 4 on, and as many blocks up as down."""
    with torch.device("meta"):
        weights = UNet2DConditionModel(**SDXL).state_dict()
    naming = kohya_naming(SDXL_FAMILY, weights)
    for ours, theirs in {
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k": "input_blocks.4.1.transformer_blocks.0.attn1.to_k",
        "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj": "input_blocks.8.1.transformer_blocks.9.ff.net.0.proj",
        "mid_block.attentions.0.proj_in": "middle_block.1.proj_in",
        "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0": "output_blocks.0.1.transformer_blocks.0.attn2.to_out.0",
        "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
    }.items():
        assert naming(ours) == theirs
    assert kohya_naming(SD_FAMILY, {})("mid_block.attentions.0.proj_in") == "mid_block.attentions.0.proj_in"


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_low_rank_is_the_nearest(shape: tuple[int, int]) -> None:
    """The error is that of the singular values left out (Eckart and Young), and up and down are of one size."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = np.linalg.svd(matrix.numpy().astype(np.float64), compute_uv=False)
    for rank in (1, 3, 6):
        down, up = low_rank(matrix, rank)
        assert down.shape == (rank, shape[1])
        assert up.shape == (shape[0], rank)
        error = float((up.double() @ down.double() - matrix).square().sum())
        assert error == pytest.approx(float((values[rank:] ** 2).sum()), rel=1e-5, abs=1e-9)
    assert 0.5 < float(torch.linalg.matrix_norm(up, 2) / torch.linalg.matrix_norm(down, 2)) < 2


def test_an_update_of_zero_has_a_factor_of_zero() -> None:
    down, up = low_rank(torch.zeros(3, 4), 2)
    assert not (up @ down).any()
    assert bool(down.isfinite().all() and up.isfinite().all())


class Two(nn.Module):
    """A matrix and a kernel, with a norm that LoRA cannot have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.LayerNorm(3)


def test_the_energy_that_is_kept_by_hand() -> None:
    """ΔW = diag(3, 1, 0) and a bias and a norm that moved by 2 and √2: of 9 + 1 + 4 + 2 rank 1 keeps 9, rank 2 keeps 10."""
    base = Two()
    trained = copy.deepcopy(base)
    with torch.no_grad():
        trained.linear.weight += torch.diag(torch.tensor([3.0, 1.0, 0.0]))
        trained.linear.bias[0] += 2
        trained.norm.weight[:2] += 1
    for rank, kept in ((1, 9 / 16), (2, 10 / 16), (3, 10 / 16)):
        found = extract(trained, base, rank, device=CPU)
        assert found.kept == pytest.approx(kept, abs=1e-5)
        assert list(found.adapters.layers) == ["linear"]
    torch.testing.assert_close(
        found.adapters.layers["linear"].up @ found.adapters.layers["linear"].down, torch.diag(torch.tensor([3.0, 1, 0])), atol=1e-5, rtol=0
    )


def test_a_kernel_is_put_together_again_and_small_layers_are_filled_up() -> None:
    """At full rank up∘down is the kernel's update; the rank that the file states holds for all layers."""
    base = Two()
    trained = copy.deepcopy(base)
    with torch.no_grad():
        trained.conv.weight += torch.randn(trained.conv.weight.shape, generator=torch.Generator().manual_seed(0))
    found = extract(trained, base, 9, device=CPU)
    layer = found.adapters.layers["conv"]
    assert layer.down.shape == (9, 2, 3, 3)
    assert layer.up.shape == (4, 9, 1, 1)
    assert not layer.down[4:].any()
    x = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    made = nn.functional.conv2d(nn.functional.conv2d(x, layer.down), layer.up)
    torch.testing.assert_close(made, nn.functional.conv2d(x, trained.conv.weight - base.conv.weight), rtol=1e-4, atol=1e-5)
    assert found.kept == pytest.approx(1.0, abs=1e-6)


def test_what_cannot_be_extracted_is_said() -> None:
    """Equal networks, and networks of two shapes."""
    base = Two()
    with pytest.raises(InputError, match="equals its base"):
        extract(copy.deepcopy(base), base, 1, device=CPU)
    other = Two()
    other.linear = nn.Linear(3, 2)
    with pytest.raises(InputError, match=r"differ in 4 weights, first linear\.bias"):
        extract(other, base, 1, device=CPU)


@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_doras_magnitudes_in_kohyas_layout_are_the_definition(layer: str, tmp_path: Path) -> None:
    """W' = m · (W + B·A) / ‖W + B·A‖ for each output, from the file alone: `dora_scale` has the weight's number of axes."""
    network = Two()
    before = network.get_submodule(layer).weight.detach().clone()
    attach(network, lora := Lora(rank=2, alpha=3, targets=layer, dora=True), seed=0)
    with torch.no_grad():
        for name, weight in adapter_weights(network).items():
            weight.copy_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    write_adapter(tmp_path, network, lora, portable=True)
    write_kohya(tmp_path / "k.safetensors", read_adapters(tmp_path), torch.float32, naming=str)
    merge(network)
    file = load_file(tmp_path / "k.safetensors")
    key = f"lora_unet_{layer}"
    assert sorted(file) == [f"{key}.{end}" for end in ("alpha", "dora_scale", "lora_down.weight", "lora_up.weight")]
    down, up, scale = (file[f"{key}.{end}"] for end in ("lora_down.weight", "lora_up.weight", "dora_scale"))
    assert scale.shape == (len(before), *(1 for _ in before.shape[1:]))
    whole = before + (up.flatten(1) @ down.flatten(1)).reshape(before.shape) * file[f"{key}.alpha"] / len(down)
    norm = whole.flatten(1).norm(dim=1).reshape(scale.shape)
    torch.testing.assert_close(scale * whole / norm, network.get_submodule(layer).weight.detach(), rtol=1e-5, atol=1e-6)


def test_adapters_are_read_back_and_kept_in_halves(tmp_path: Path) -> None:
    """α/rank of a checkpoint is multiplied into up; fp16 halves the file."""
    network = Two()
    attach(network, lora := Lora(rank=2, alpha=6, targets="linear"), seed=0)
    with torch.no_grad():
        adapter_weights(network)["linear.lora_B.weight"].fill_(1.0)
    write_adapter(tmp_path, network, lora)
    found = read_adapters(tmp_path)
    assert torch.equal(found.layers["linear"].up, torch.full((3, 2), 3.0))
    write_diffusers(tmp_path / "half.safetensors", found, torch.float16, part="unet")
    half: dict[str, Tensor] = load_file(tmp_path / "half.safetensors")
    assert {name: each.dtype for name, each in half.items()} == {
        "unet.linear.lora_A.weight": torch.float16,
        "unet.linear.lora_B.weight": torch.float16,
    }
    assert not Adapters(1, {"a": Layer(torch.zeros(1, 1), torch.zeros(1, 1))}).dora


def names_of_comfyui(network: nn.Module) -> set[str]:
    """What ComfyUI's `model_lora_keys_unet` takes for a layer of a UNet, besides `lora_unet_…`: its diffusers names, with `processor`."""
    layers = (name.removesuffix(".weight") for name in network.state_dict() if name.endswith(".weight"))
    return {f"unet.{name.replace('.to_', '.processor.to_')}".replace(".processor.to_out.0", ".processor.to_out") for name in layers}


def test_which_layout_comfyui_reads(tmp_path: Path) -> None:
    """Of a UNet kohya's, whole; of diffusers' layout not one attention layer, as the page of exports says."""
    network = tiny_unet()
    attach(network, Lora(2), seed=0, attention=SD_FAMILY.lora_targets)
    write_adapter(tmp_path, network, Lora(2), part="unet")
    adapters = read_adapters(tmp_path)
    write_diffusers(tmp_path / "diffusers.safetensors", adapters, torch.float32, part="unet")
    write_kohya(tmp_path / "kohya.safetensors", adapters, torch.float32, naming=str)
    plain = tiny_unet()
    assert not {name.partition(".lora_")[0] for name in load_file(tmp_path / "diffusers.safetensors")} & names_of_comfyui(plain)
    known = {f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}" for name in plain.state_dict()}
    assert {name.partition(".")[0] for name in load_file(tmp_path / "kohya.safetensors")} <= known
    page = (Path(__file__).resolve().parents[3] / "docs" / "export.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| `lora` |"))
    assert "of SD3 also ComfyUI" in row
