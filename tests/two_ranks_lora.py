"""Adapters on two gloo processes: `two_ranks_lora.py FOLDER PIPELINE` is run once per rank and writes what each of them holds there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from inpo.models.config import Lora, ModelConfig
from inpo.models.loading import load
from inpo.models.lora import adapter_weights
from inpo.training.distributed import add_up_gradients
from inpo.training.settings import OptimizerConfig
from inpo.training.subject import Subject
from tests.invariants.test_resume_stable_diffusion import PromptedLoader
from tests.training_runs import settings, trainer

STEPS = 2


def gradient_and_weights(pipeline: Path, *, dora: bool, seed: int, micro: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradient of a step of six pairs at adapters that have moved, and the weights after two steps from fresh ones of `seed`."""
    use = settings(OptimizerConfig(lr=1e-3, warmup_steps=0), pairs_per_step=6, micro_batch_pairs=micro)
    model = load(ModelConfig(str(pipeline), gradient_checkpointing=True), lora=Lora(rank=2, dora=dora), seed=seed)
    made = trainer(PromptedLoader(10), Subject(model.policy, model.reference(), model.save_policy, model.load_policy), use=use)
    for step in range(STEPS):
        made.step_once(step)
    weights = {name: weight.detach().clone() for name, weight in made.weights.items()}
    move(model.policy.unet)
    made.gradient(made.gradient.points(STEPS))
    add_up_gradients(made.weights.values())
    found = {name: weight.grad.clone() for name, weight in made.weights.items() if weight.grad is not None}
    made.close()
    return found, weights


def move(unet: torch.nn.Module) -> None:
    """Puts the same numbers into every adapter, wherever training took it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapter_weights(unet).items():
            noise = 0.1 * torch.randn(weight.shape, generator=generator)
            weight.copy_(noise if "magnitude" not in name else 1 + noise)


if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    for dora in (False, True):
        gradient, weights = gradient_and_weights(Path(sys.argv[2]), dora=dora, seed=rank, micro=2)
        save_file(gradient, Path(sys.argv[1]) / f"gradient-{dora}-{rank}.safetensors")
        save_file(weights, Path(sys.argv[1]) / f"weights-{dora}-{rank}.safetensors")
    torch.distributed.destroy_process_group()
