"""Hypothesis 6 of docs/experiments.md: the pairs of its comparison, and how large τ is for each kind of picture.

    python benchmarks/on_policy.py runs/pairs
    inpo compare examples/on-policy.yaml --out runs/on-policy

For every training prompt as often: two pictures of the world's base (`inpo data generate`), and two rendered ones as they are in
`world:pairs`; labels are drawn for both as the world draws them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from inpo import compose
from inpo.data.config import DataConfig
from inpo.data.loader import EncodedPairs
from inpo.data.sources import ParquetPairs
from inpo.data.writer import writing_pairs
from inpo.generation import GenerationConfig
from inpo.models.config import ModelConfig
from inpo.noising import Inversion
from inpo.randomness import PairNoise, stratified_uniform, torch_rng
from inpo.verbs.onpolicy import OnPolicy, generate_pairs
from inpo.world.pairs import PREFERENCE, judge, to_png
from inpo.world.shapes import imperfect, parse, prompts, render

REPEATS = 36
"""Pairs of each of the 264 training prompts, near ties counted: 6,400 are seen in 400 steps, and none should be seen twice."""
STEPS, GUIDANCE = 20, 3.0
"""Of the base's pictures: what the comparison samples with."""
MEASURED = 1024

Row = dict[str, object]


def own_rows(folder: Path) -> list[Row]:
    """Pairs of the base's own pictures with the oracle's scores, no near ties."""
    listed, out = folder / "prompts.txt", folder / "generated.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    listed.write_text("\n".join(prompts("train") * REPEATS) + "\n")
    if not out.exists():
        sampled = GenerationConfig(samples=2, steps=STEPS, guidance=GUIDANCE, batch=64)
        job = OnPolicy("world", str(listed), "world:oracle", margin=PREFERENCE.tie, generation=sampled)
        print(*generate_pairs(job, out).lines(), sep="\n", flush=True)
    columns = ["jpg_0", "jpg_1", "caption", "score_0", "score_1"]
    rows: list[Row] = pq.read_table(out, columns=columns).to_pylist()
    return rows


def rendered_rows() -> Iterator[Row]:
    """Rendered pairs of the same prompts, no near ties, in the first picture's favour by `score_0` − `score_1`."""
    rng = np.random.default_rng(6)
    for caption in prompts("train") * REPEATS:
        scene = parse(caption)
        first, second = (render(scene, rng, imperfect(scene, rng)) for _ in range(2))
        pair = judge(caption, (first, second), rng)
        if pair.label != 0.5:
            yield {"jpg_0": to_png(first), "jpg_1": to_png(second), "caption": caption, "score_0": pair.gap, "score_1": 0.0}


def write(path: Path, rows: list[Row], rng: np.random.Generator) -> None:
    """One set of pairs with drawn labels."""
    with writing_pairs(path, {}, force=True) as writer:
        for row in rows:
            label = float(rng.random() < PREFERENCE.probability(float(str(row["score_0"])) - float(str(row["score_1"]))))
            writer.write({name: row[name] for name in ("jpg_0", "jpg_1", "caption")} | {"label_0": label, "label_1": 1 - label})


def measure(path: Path) -> None:
    """Prints the rms of the base's τ over winners and losers, near the image, in the middle and near the noise."""
    model = compose.load(ModelConfig("world"), frozen=True)
    config = DataConfig(str(path), resolution=model.default_resolution, validation_fraction=0.0)
    t = model.policy.schedule.draw(stratified_uniform(MEASURED, torch_rng("on-policy")), (0.0, 1.0))
    with EncodedPairs(ParquetPairs.open(config), model.encoder, config=config, seed=0, pairs_per_step=MEASURED) as loader:
        pairs = loader.fetch(range(MEASURED))
    with torch.no_grad():
        found = Inversion()(model.policy, pairs, t, PairNoise(0, 0, tuple(range(MEASURED))), lose=True, batch_pairs=64)
    share = t / model.policy.schedule.draw(torch.ones(1, dtype=torch.float64), (0.0, 1.0))
    assert found.lose is not None
    for low, high in ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0)):
        rows = (share >= low) & (share < high)
        squares = [side.tau[rows].square().mean(dim=(1, 2, 3)) for side in (found.win, found.lose)]
        win, lose = (float(each.mean().sqrt()) for each in squares)
        apart = float((squares[0] - squares[1]).std())
        print(f"{path.parent.name}/{path.stem:9} t/T {low:.2f}-{high:.2f}  rms of τ: winners {win:.3f}, losers {lose:.3f};"
              f" ‖τ_w‖² − ‖τ_l‖² per number, deviation {apart:.3f}", flush=True)  # fmt: skip


def main(folder: Path) -> None:
    """The two files, then the measurement."""
    sets = {"own": own_rows(folder), "rendered": list(rendered_rows())}
    for number, (kind, rows) in enumerate(sets.items()):
        write(folder / "drawn" / f"{kind}.parquet", rows, np.random.default_rng((6, number)))
        gaps = np.array([abs(float(str(row["score_0"])) - float(str(row["score_1"]))) for row in rows])
        print(f"{kind}: pairs {len(rows)}, mean difference of scores {gaps.mean():.3f},"
              f" best attainable agreement with drawn labels {PREFERENCE.best_agreement(gaps):.3f}", flush=True)  # fmt: skip
    for kind in sets:
        measure(folder / "drawn" / f"{kind}.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
