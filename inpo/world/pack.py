"""The packaged pairs: one Pick-a-Pic-shaped parquet, half sampled from the base, half rendered."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from diffusers import AutoencoderKL
from PIL import Image

from inpo.data.pairs import pair_id
from inpo.world.pairs import PREFERENCE, Judged, judge, render_pair
from inpo.world.shapes import Picture, prompts
from inpo.world.unet import Denoising, sample

log = logging.getLogger(__name__)

BASE, RENDERER = "world-base", "world-renderer"


@dataclass(frozen=True)
class Packing:
    """`sampled` pairs from the base in `steps` DDIM steps, and `rendered` ones."""

    sampled: int = 1450
    rendered: int = 1750
    steps: int = 20
    batch: int = 128
    seed: int = 14


def sampled_pairs(how: Packing, model: Denoising, vae: AutoencoderKL) -> Iterator[Judged]:
    """Pairs of the base's samples, the training prompts in turn."""
    captions, rng = prompts("train"), np.random.default_rng(how.seed)
    for start in range(0, how.sampled, how.batch):
        part = [captions[i % len(captions)] for i in range(start, min(start + how.batch, how.sampled))]
        seeds = (2 * start + 1_000_000 * how.seed + side for side in range(2))
        first, second = (sample(model, vae, part, steps=how.steps, seed=seed) for seed in seeds)
        log.info("pairs: %d of %d sampled", start + len(part), how.sampled)
        yield from (judge(caption, (a, b), rng) for caption, a, b in zip(part, first, second, strict=True))


def write_pairs(path: Path, how: Packing, model: Denoising, vae: AutoencoderKL) -> dict[str, float]:
    """Writes the parquet in a shuffled order and returns what is known of its labels."""
    rng = np.random.default_rng(how.seed + 1)
    pairs = [(BASE, pair) for pair in sampled_pairs(how, model, vae)]
    pairs += [(RENDERER, render_pair(rng)) for _ in range(how.rendered)]
    rows = [_row(*pairs[i]) for i in rng.permutation(len(pairs))]
    unique = {row["ranking_id"]: row for row in rows}
    pq.write_table(pa.Table.from_pylist(list(unique.values())), path, compression="zstd", row_group_size=400)
    gaps = {maker: np.array([pair.gap for made, pair in pairs if made == maker]) for maker in (BASE, RENDERER)}
    facts = {f"best_agreement_{maker}": PREFERENCE.best_agreement(gap) for maker, gap in gaps.items()}
    ties = float(np.mean([pair.label == 0.5 for _, pair in pairs]))
    return {**facts, "rows": len(unique), "ties": ties, "bytes": path.stat().st_size}


def _row(maker: str, pair: Judged) -> dict[str, object]:
    first, second = (_small_png(picture) for picture in pair.pictures)
    labels = {"label_0": pair.label, "label_1": 1 - pair.label, "has_label": True}
    makers = {"model_0": maker, "model_1": maker, "ranking_id": pair_id(first, second, pair.caption).hex()}
    return {"jpg_0": first, "jpg_1": second, **labels, "caption": pair.caption, **makers}


def _small_png(picture: Picture) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "png", optimize=True)
    return buffer.getvalue()
