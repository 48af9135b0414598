"""Adapters: off, the network is its base exactly; on and untrained, too; and a file says what they are to other programs."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from inpo import compose
from inpo.errors import InputError
from inpo.methods import METHODS
from inpo.models.config import Lora, ModelConfig
from inpo.models.loading import load
from inpo.models.lora import ADAPTER_FILE, AdaptersOff, adapted_layers, adapter_weights, attach, merge, read_adapter, write_adapter
from inpo.models.stable_diffusion import PROMPT, StableDiffusionDenoiser
from inpo.objectives import Dpo
from inpo.schedule import vp_from_config
from inpo.training.stop import Stop
from inpo.training.trainer import Trainer
from inpo.types import Condition, Dtype, PairBatch
from tests.tiny_denoiser import MemoryLoader, plain_subject
from tests.tiny_models import scheduler_config, tiny_unet
from tests.training_runs import SETTINGS

KINDS = [Lora(rank=2, alpha=3, dora=dora, targets=targets) for dora in (False, True) for targets in ("attention", ("all-linear", "conv"))]
BOTH = pytest.mark.parametrize("lora", KINDS, ids=lambda lora: f"{'dora' if lora.dora else 'lora'}-{lora.target_names[-1]}")
STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def denoiser(dtype: Dtype = "fp32", *, checkpointing: bool = False) -> StableDiffusionDenoiser:
    """A tiny UNet of fixed weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = tiny_unet()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    return StableDiffusionDenoiser(unet, vp_from_config(scheduler_config()), "epsilon", pixels_per_latent=2, dtype=dtype).eval()


def adapted(
    lora: Lora, dtype: Dtype = "fp32", *, seed: int = 0, moved: bool = False, checkpointing: bool = False
) -> StableDiffusionDenoiser:
    """The same with adapters; `moved` gives them weights as training might."""
    policy = denoiser(dtype, checkpointing=checkpointing)
    attach(policy.unet, lora, seed=seed, stored=STORED[dtype])
    if moved:
        move(policy)
    return policy


def move(policy: nn.Module) -> None:
    """Changes every adapter weight, B and magnitudes too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in adapter_weights(policy.unet).values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


def inputs() -> tuple[Tensor, Tensor, Condition]:
    """Latents at three times, with prompts."""
    generator = torch.Generator().manual_seed(2)
    x_t, prompt = torch.randn(3, 4, 8, 8, generator=generator), torch.randn(3, 5, 8, generator=generator)
    return x_t, torch.tensor([1, 400, 999]), Condition({PROMPT: prompt})


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("dtype", STORED)
@BOTH
def test_off_is_a_frozen_copy_exactly(lora: Lora, dtype: Dtype, checkpointing: bool) -> None:
    """Whatever the adapters have become, the reference answers with the base's bits; in bf16 with those of fp32 weights under autocast."""
    frozen = denoiser(dtype).reference()
    policy = adapted(lora, dtype, moved=True, checkpointing=checkpointing)
    answer, expected = AdaptersOff(policy)(*inputs()), frozen(*inputs())
    assert torch.equal(answer, expected)
    assert not torch.equal(policy(*inputs()), expected)


@pytest.mark.parametrize("dtype", STORED)
@BOTH
def test_untrained_adapters_change_nothing(lora: Lora, dtype: Dtype) -> None:
    """B = 0, and a magnitude is the very norm it is divided by: the policy is the base, so every margin u is 0 at step 0."""
    with torch.no_grad():
        assert torch.equal(adapted(lora, dtype)(*inputs()), denoiser(dtype)(*inputs()))


DORA = Lora(rank=2, alpha=3, targets=("all-linear", "conv"), dora=True)


def test_magnitudes_are_those_of_the_device_that_computes(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another device adds a norm up in another order. Here its last bit changes with the move, and the policy is its reference still."""
    norm, move = torch.linalg.norm, StableDiffusionDenoiser.to

    def moved(self: nn.Module, device: object) -> nn.Module:
        monkeypatch.setattr(torch.linalg, "norm", lambda *a, **how: torch.nextafter(norm(*a, **how), torch.tensor(torch.inf)))
        return move(self, device)

    monkeypatch.setattr(StableDiffusionDenoiser, "to", moved)
    policy = load(ModelConfig(str(tiny_pipeline)), lora=DORA).policy
    dora = adapted_layers(policy.unet)["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"].lora_magnitude_vector["default"]
    assert dora.weight.requires_grad
    with torch.no_grad():
        assert torch.equal(policy(*inputs()), AdaptersOff(policy)(*inputs()))


@dataclass
class Prompted(MemoryLoader):
    """Pairs that the world's UNet reads, all of one condition."""

    condition: Condition = field(default_factory=lambda: Condition({}))

    def pairs(self, indices: Sequence[int]) -> PairBatch:
        """As they are, of another shape."""
        win, lose = (self._rows(name, (4, 8, 8), indices) for name in ("win", "lose"))
        return PairBatch(win, lose, self.condition[[0] * len(indices)], torch.ones(len(indices)), tuple(map(str, indices)))


@pytest.mark.parametrize("end", [0.0, torch.inf], ids=["down", "up"])
def test_a_last_bit_in_every_layer_is_no_other_network(end: float) -> None:
    """The world's UNet, all magnitudes one unit in the last place off: training starts in fp32 at the largest published β."""
    model = compose.load("world", DORA)
    loader, policy = Prompted(condition=model.encoder.encode_prompts(["a red circle"])), model.policy
    with torch.no_grad():
        for layer in adapted_layers(policy).values():
            magnitude = layer.lora_magnitude_vector["default"].weight
            magnitude.copy_(torch.nextafter(magnitude, torch.full_like(magnitude, end)))
    method = replace(METHODS["diffusion-dpo"], objective=Dpo(beta=5000.0))
    line = Trainer(plain_subject(policy, AdaptersOff(policy)), loader, method=method, settings=SETTINGS, stop=Stop()).step_once(0).line
    assert 0 < abs(line["loss"] - math.log(2)) < 1e-3


@BOTH
def test_the_switch_leaves_what_is_trained_alone(lora: Lora) -> None:
    """requires_grad as before, also after an error inside; the reference's answer has no gradient, the policy's has."""
    policy = adapted(lora, moved=True)
    trained = {name: weight.requires_grad for name, weight in policy.named_parameters()}
    off = AdaptersOff(policy)
    assert not off(*inputs()).requires_grad
    with pytest.raises(RuntimeError):
        off(torch.zeros(1, 7, 8, 8), *inputs()[1:])
    assert {name: weight.requires_grad for name, weight in policy.named_parameters()} == trained
    assert policy(*inputs()).requires_grad
    assert (off.schedule, off.prediction_type) == (policy.schedule, policy.prediction_type)


@BOTH
def test_a_reference_between_forward_and_backward_does_not_reach_the_gradient(lora: Lora) -> None:
    """Gradient checkpointing recomputes after the reference was asked: had it stayed off, no adapter would get a gradient."""
    plain, recomputed = (adapted(lora, moved=True, checkpointing=on) for on in (False, True))
    for policy in (plain, recomputed):
        prediction = policy(*inputs())
        AdaptersOff(policy)(*inputs())
        prediction.square().mean().backward()
    pairs = list(zip(adapter_weights(plain.unet).values(), adapter_weights(recomputed.unet).values(), strict=True))
    assert all(a.grad is not None and torch.equal(a.grad, b.grad) for a, b in pairs)
    assert any(a.grad.any() for a, _ in pairs)


@pytest.mark.parametrize("dtype", STORED)
@BOTH
def test_only_adapters_are_trained_and_they_are_fp32(lora: Lora, dtype: Dtype) -> None:
    """Frozen matrices and kernels are stored in the computing dtype, norms in fp32; no dropout anywhere."""
    policy = adapted(lora, dtype)
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in policy.named_parameters() if "lora_" in name}
    assert {weight.dtype for weight in adapter_weights(policy.unet).values()} == {torch.float32}
    layers = adapted_layers(policy.unet)
    assert {layer.get_base_layer().weight.dtype for layer in layers.values()} == {STORED[dtype]}
    assert not any(isinstance(module, nn.Dropout) and module.p for layer in layers.values() for module in layer.modules())


def test_there_is_one_network_in_memory() -> None:
    """Storage of policy and reference together: the base's weights once, and the adapters'."""
    base = sum(weight.numel() for weight in denoiser().parameters())
    policy = adapted(KINDS[0])
    off = AdaptersOff(policy)
    assert not isinstance(off, nn.Module)
    storages = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in policy.parameters()}
    adapters = sum(weight.numel() for weight in adapter_weights(policy.unet).values())
    assert sum(storages.values()) == 4 * (base + adapters)
    assert adapters < base / 5


def test_a_is_drawn_from_the_seed_and_the_layer_alone() -> None:
    """Same seed, same A, whatever the global generator does and whichever other layers have adapters; another seed, another A."""
    few, many = (Lora(rank=2, targets=targets) for targets in ("to_q", "attention"))
    first = adapter_weights(adapted(many).unet)
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    second, other = adapter_weights(adapted(few).unet), adapter_weights(adapted(few, seed=1).unet)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(weight, first[name]) for name, weight in second.items())
    drawn = {name: weight for name, weight in second.items() if ".lora_A." in name}
    assert not any(torch.equal(weight, other[name]) for name, weight in drawn.items())
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn.values(), 2) if a.shape == b.shape)
    for weight in drawn.values():
        # kaiming_uniform(a = √5): uniform within ±1/√fan_in.
        assert 0.5 < float(weight.detach().abs().max()) * weight[0].numel() ** 0.5 <= 1


@BOTH
def test_merged_weights_answer_as_the_adapters_did(lora: Lora) -> None:
    """W + (α/r) B A, for DoRA scaled to its magnitudes; names and shapes are the base's again, and all of it may be trained."""
    policy = adapted(lora, moved=True)
    with torch.no_grad():
        before = policy(*inputs())
        merge(policy.unet)
        torch.testing.assert_close(policy(*inputs()), before, rtol=0, atol=1e-5)
    base = denoiser()
    assert [(n, p.shape, p.requires_grad) for n, p in policy.named_parameters()] == [
        (n, p.shape, p.requires_grad) for n, p in base.named_parameters()
    ]


def test_alpha_scales_the_difference() -> None:
    """Merged LoRA weights less the base's are (α/r) B A: twice α, twice the difference."""
    once, twice = (adapted(Lora(rank=2, alpha=alpha), moved=True) for alpha in (2, 4))
    base = denoiser().state_dict()
    for policy in (once, twice):
        merge(policy.unet)
    name = next(name for name in base if name.endswith("attn1.to_q.weight"))
    one, two = (policy.state_dict()[name] - base[name] for policy in (once, twice))
    assert one.abs().max() > 0.001
    torch.testing.assert_close(two, 2 * one, rtol=1e-4, atol=1e-7)


@BOTH
def test_a_checkpoint_is_bit_exact_and_read_in_place(lora: Lora, tmp_path: Path) -> None:
    """Optimisers hold the parameters themselves, so reading must not replace them."""
    policy, fresh = adapted(lora, moved=True), adapted(lora, seed=5)
    parameters = list(fresh.parameters())
    write_adapter(tmp_path, policy.unet, lora)
    read_adapter(tmp_path, fresh.unet)
    assert all(a is b for a, b in zip(parameters, fresh.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), fresh.parameters(), strict=True))


@pytest.mark.parametrize("portable", [False, True])
def test_equal_adapters_are_equal_files(portable: bool, tmp_path: Path) -> None:
    """Byte for byte, every time: a checkpoint's sha256 says whether two runs are the same."""
    lora = Lora(rank=2, alpha=3)
    network = adapted(lora).unet
    files = set()
    for _ in range(16):
        write_adapter(tmp_path, network, lora, portable=portable)
        files.add((tmp_path / ADAPTER_FILE).read_bytes())
    assert len(files) == 1


def test_a_portable_file_needs_no_metadata(tmp_path: Path) -> None:
    """α/r is inside B, and α says r: with and without the metadata a reader finds the same difference."""
    lora = Lora(rank=2, alpha=3)
    policy = adapted(lora, moved=True)
    write_adapter(tmp_path, policy.unet, lora, portable=True)
    with safe_open(tmp_path / ADAPTER_FILE, "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
        stored = {name.removeprefix("unet."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert (metadata["unet.r"], metadata["unet.lora_alpha"], metadata["unet.use_dora"]) == (2, 2, False)
    for name, weight in adapter_weights(policy.unet).items():
        assert torch.equal(stored[name], weight * 1.5 if ".lora_B." in name else weight)


def test_adapters_of_another_shape_are_refused_before_any_weight_moves(tmp_path: Path) -> None:
    """Another rank, other targets, a file cut short."""
    write_adapter(tmp_path, adapted(Lora(rank=4)).unet, Lora(rank=4))
    policy = adapted(Lora(rank=2))
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(InputError, match=r"other adapters than this network's: they differ in \d+ weights"):
        read_adapter(tmp_path, policy.unet)
    (tmp_path / ADAPTER_FILE).write_bytes((tmp_path / ADAPTER_FILE).read_bytes()[:-9])
    with pytest.raises(InputError, match="no complete safetensors file"):
        read_adapter(tmp_path, policy.unet)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 0}, "lora.rank=0 must be a whole number of at least 1"),
        ({"rank": 2.5}, "lora.rank=2.5"),
        ({"alpha": 0}, "lora.alpha=0 must be a finite number above 0"),
        ({"alpha": float("inf")}, "lora.alpha=inf"),
        ({"targets": ()}, "lora.targets=() names no layer"),
        ({"targets": ""}, "lora.targets=''"),
    ],
)
def test_impossible_settings(settings: dict[str, object], words: str) -> None:
    """Refused by the name that the user typed."""
    with pytest.raises(InputError, match="lora") as caught:
        Lora(**settings)
    assert words in str(caught.value)
