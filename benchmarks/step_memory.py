"""One optimiser step of SD1.5's and SDXL's real architectures on the CPU, in a process that may have 20 GiB and no more.

    python benchmarks/step_memory.py                  every variant, one after the other
    python benchmarks/step_memory.py sd15-full-adamw  this one

Weights are random: what a step needs does not depend on them. Configurations are those of unet/config.json in
stable-diffusion-v1-5/stable-diffusion-v1-5 and stabilityai/stable-diffusion-xl-base-1.0 on the Hugging Face hub; the numbers of
parameters are checked. Latents are 16×16 (the models' own are 64×64 and 128×128), one pair, gradient checkpointing on, so the figures
are those of weights, gradients and optimiser; activations of real pictures come on top.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inpo.methods import method
from inpo.models.stable_diffusion import StableDiffusionDenoiser
from inpo.noising import Inversion
from inpo.schedule import vp_from_config
from inpo.training import OptimizerConfig, Settings, TrainConfig
from inpo.training.stop import Stop
from inpo.training.subject import Subject
from inpo.training.trainer import Trainer
from inpo.types import Condition, Denoiser, Dtype, PairBatch

GIB = 1 << 30
LIMIT = 20 * GIB
SIDE = 16
RANK = 16
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
UNETS: dict[str, dict[str, object]] = {
    "sd15": {
        "attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "sample_size": 64,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sdxl": {
        "attention_head_dim": (5, 10, 20), "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "sample_size": 128,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), "use_linear_projection": True,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
PARAMETERS = {"sd15": 859_520_964, "sdxl": 2_567_463_684}


@dataclass(frozen=True)
class Variant:
    """What is trained, and how. `lora`: adapters of rank 16 on the attention layers, the frozen network stored in `dtype`. `method`: by
    name; one that needs no reference has none in memory."""

    unet: str
    optimizer: OptimizerConfig
    lora: bool = False
    dtype: Dtype = "fp32"
    method: str = "inpo"


VARIANTS = {
    "sd15-lora": Variant("sd15", OptimizerConfig(), lora=True),
    "sdxl-lora-bf16": Variant("sdxl", OptimizerConfig(), lora=True, dtype="bf16"),
    "sdxl-lora": Variant("sdxl", OptimizerConfig(), lora=True),
    "sd15-full-adafactor": Variant("sd15", OptimizerConfig(name="adafactor")),
    "sd15-full-adamw8bit": Variant("sd15", OptimizerConfig(name="adamw8bit")),
    "sd15-full-adamw8bit-mapo": Variant("sd15", OptimizerConfig(name="adamw8bit"), method="mapo"),
    "sd15-full-adamw": Variant("sd15", OptimizerConfig()),
}


@dataclass(frozen=True)
class OnePair:
    """The same random pair at every position."""

    pair: PairBatch

    def fetch(self, positions: Sequence[int]) -> PairBatch:
        """It."""
        return self.pair[[0] * len(positions)]

    def validation(self) -> Sequence[PairBatch]:
        """Nothing is held out."""
        return []


def random_unet(name: str) -> nn.Module:
    """The architecture with small random weights, made in place: the usual initialisation takes minutes."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[name])
    unet.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in unet.named_parameters():
            if parameter.dim() > 1:
                parameter.uniform_(-0.03, 0.03, generator=generator)
            else:
                parameter.fill_(float(key.endswith("weight")))
    assert sum(parameter.numel() for parameter in unet.parameters()) == PARAMETERS[name]
    unet.enable_gradient_checkpointing()
    return unet


def one_pair(name: str) -> PairBatch:
    """Latents, prompt embeddings and, for SDXL, the pooled one."""
    tensors: dict[str, Tensor] = {"prompt": torch.randn(1, 77, int(str(UNETS[name]["cross_attention_dim"])))}
    if name == "sdxl":
        tensors["text_embeds"] = torch.randn(1, 1280)
    win, lose = torch.randn(2, 1, 4, SIDE, SIDE)
    return PairBatch(win, lose, Condition(tensors), torch.ones(1), ("pair",))


def subject(variant: Variant) -> Subject:
    """Policy and reference: a frozen copy, for a LoRA the same network with its adapters off, or none."""
    policy = StableDiffusionDenoiser(
        random_unet(variant.unet), vp_from_config(BETAS), "epsilon", pixels_per_latent=8, dtype=variant.dtype
    )  # fmt: skip
    reference: Denoiser | None = None
    if variant.lora:
        from inpo.models.config import Lora
        from inpo.models.lora import AdaptersOff, attach

        attach(policy.network, Lora(rank=RANK), seed=0, stored=torch.bfloat16 if variant.dtype == "bf16" else torch.float32)
        reference = AdaptersOff(policy)
    elif method(variant.method).objective.needs.reference:
        reference = policy.reference()
    return Subject(policy, reference, lambda folder: None, lambda folder: None, dtype=variant.dtype)


def measure(name: str) -> None:
    """One step; prints a row."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    torch.manual_seed(0)
    variant = VARIANTS[name]
    chosen = method(variant.method)
    if isinstance(chosen.noising, Inversion):
        chosen = replace(chosen, noising=replace(chosen.noising, inversion_steps=1))
    settings = Settings(TrainConfig(steps=1, pairs_per_step=1, micro_batch_pairs=1), replace(variant.optimizer, warmup_steps=0))
    trainer = Trainer(subject(variant), OnePair(one_pair(variant.unet)), method=chosen, settings=settings, stop=Stop())
    began = time.monotonic()
    line = trainer.step_once(0).line
    seconds, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trained = sum(parameter.numel() for parameter in trainer.weights.values())
    print(f"{name:25} {trained / 1e6:10.1f} {peak / GIB:10.2f} {seconds:10.0f}   {line['loss']:.6f}", flush=True)


def main(names: Sequence[str]) -> None:
    """Each variant in a process of its own: the peak of one says nothing about the next."""
    print(f"torch {torch.__version__}, {SIDE}×{SIDE} latents, one pair, gradient checkpointing, at most {LIMIT // GIB} GiB")
    print(f"{'variant':25} {'trained, M':>10} {'peak, GiB':>10} {'step, s':>10}   loss", flush=True)
    for name in names:
        code = f"import sys; sys.path[:0] = ['benchmarks', '.']; import step_memory; step_memory.measure({name!r})"
        ended = subprocess.run([sys.executable, "-c", code])
        if ended.returncode:
            print(f"{name:25} failed with exit code {ended.returncode}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(VARIANTS))
