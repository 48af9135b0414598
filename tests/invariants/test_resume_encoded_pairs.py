"""The trainer with the real loader: what is drawn anew for every position or epoch is drawn the same after a resume."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inpo.data.config import DataConfig
from inpo.data.loader import EncodedPairs
from inpo.types import Condition, LatentDistribution, PairRecord
from tests.tiny_denoiser import tiny_subject
from tests.training_runs import final_bytes, metrics, settings, train
from tests.unit.data.making import MadePairs, SmallEncoder, pair_record, png

WILD = DataConfig("made", resolution=16, flip=True, crop="random", latents="sample", prompt_dropout=0.3, validation_fraction=0.2)
USE = settings(steps=7, save_every_steps=3, keep=3)


class WidePairs(MadePairs):
    """Pictures with room for a crop to move in."""

    def __getitem__(self, index: int) -> PairRecord:
        """The pair, 24 pixels wide and 16 high."""
        return replace(pair_record(index), win=png(2 * index, 24, 16), lose=png(2 * index + 1, 24, 16))


class FittingEncoder(SmallEncoder):
    """Latents and conditions with the shapes that the tiny denoiser takes."""

    def encode_images(self, images: Tensor) -> LatentDistribution:
        """The three colours, and red again."""
        made = super().encode_images(images)
        return LatentDistribution(*(torch.cat([side, side[:, :1]], dim=1) for side in (made.mean, made.std)))

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Six numbers for each."""
        return Condition({"text": super().encode_prompts(prompts).tensors["text"].flatten(1)})


def run(out: Path, config: DataConfig, resume: str | None = None) -> list[Tensor]:
    """The policy's weights at the end of a run with everything fresh: model, source, encoder, loader."""
    subject = tiny_subject()
    with EncodedPairs(WidePairs(23), FittingEncoder(), config=config, seed=5, pairs_per_step=8) as loader:
        train(out, USE, loader=loader, subject=subject, resume=resume)
    return list(subject.policy.parameters())


@pytest.mark.parametrize("config", [WILD, replace(WILD, crop="center")], ids=["drawn anew", "kept between epochs"])
def test_a_cut_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, config: DataConfig) -> None:
    """Posterior noise, crops, mirrors, dropped prompts, the order of an epoch; 56 pairs in epochs of fewer than 23, cut in the second."""
    whole = run(tmp_path / "whole", config)
    run(tmp_path / "cut", config)
    for step in (6, 7):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step-{step:06d}")
    resumed = run(tmp_path / "cut", config, resume="latest")
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert final_bytes(tmp_path / "cut", 7) == final_bytes(tmp_path / "whole", 7)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
