"""The trainer with a real UNet, and the model's own way to disk and back: nothing is rounded on it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from inpo.models.config import Dtype, ModelConfig
from inpo.models.encoder import PROMPT
from inpo.models.loading import load
from inpo.training.subject import Subject
from inpo.types import Condition, PairBatch
from tests.tiny_denoiser import MemoryLoader
from tests.tiny_models import LATENT
from tests.training_runs import final_bytes, metrics, settings, train


class PromptedLoader(MemoryLoader):
    """Pairs with the shapes that the tiny pipeline wants."""

    def pairs(self, indices: Sequence[int]) -> PairBatch:
        """Random latents and prompts."""
        win, lose = (self._rows(name, LATENT, indices) for name in ("win", "lose"))
        prompt = self._rows("prompt", (5, 8), indices)
        return PairBatch(win, lose, Condition({PROMPT: prompt}), torch.ones(len(indices)), tuple(f"pair-{i}" for i in indices))


def subject(folder: Path, dtype: Dtype) -> Subject:
    """The pipeline's UNet and its frozen copy."""
    model = load(ModelConfig(str(folder), dtype=dtype, gradient_checkpointing=True))
    return Subject(model.policy, model.policy.reference(), model.save_policy, model.load_policy)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_resumed_unet_is_the_uninterrupted_one_bit_for_bit(tiny_pipeline: Path, tmp_path: Path, dtype: Dtype) -> None:
    """Full weights, with gradient checkpointing; bf16 keeps fp32 master weights. Before the first step every u is exactly 0."""
    use, loader = settings(steps=3, pairs_per_step=4, save_every_steps=2), PromptedLoader(10)
    train(tmp_path / "whole", use, loader=loader, subject=subject(tiny_pipeline, dtype))
    train(tmp_path / "cut", use, loader=loader, subject=subject(tiny_pipeline, dtype))
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-000003")
    train(tmp_path / "cut", use, loader=loader, subject=subject(tiny_pipeline, dtype), resume="latest")
    assert final_bytes(tmp_path / "cut", 3) == final_bytes(tmp_path / "whole", 3)
    lines = metrics(tmp_path / "cut")
    assert lines == metrics(tmp_path / "whole")
    assert all(bucket["margin"] == 0 and bucket["implicit_accuracy"] == 0.5 for bucket in lines[0]["by_bucket"].values())
    assert lines[2]["margin"] != 0
