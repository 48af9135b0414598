"""The embedded world: a small pipeline, captioned pictures, and a preference whose truth is known."""

from __future__ import annotations

from pathlib import Path

GUIDANCE = 3.0
"""Classifier-free guidance at which the world's pipeline is sampled and judged."""


def assets() -> Path:
    """The folder of everything that `inpo world build` made."""
    return Path(__file__).parent / "assets"


def pipeline_path() -> Path:
    """A diffusers `StableDiffusionPipeline` folder."""
    return assets() / "pipeline"


def scorer_path() -> Path:
    """A CLIP in PickScore's format: model, tokenizer and image processor in one folder."""
    return assets() / "scorer"


def pairs_path() -> Path:
    """The packaged pairs, a parquet of Pick-a-Pic's shape."""
    return assets() / "pairs.parquet"
