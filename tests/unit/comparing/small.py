"""A comparison of seconds, on the embedded world: two methods, two seeds, four prompts, four steps."""

from __future__ import annotations

from pathlib import Path

import yaml

TREE: dict[str, object] = {
    "title": "A small one",
    "settings": {
        "model": {"path": "world"},
        "data": {"path": "world:pairs", "validation_fraction": 0.001},
        "optimizer": {"lr": 1e-4, "warmup_steps": 0},
        "train": {"steps": 4, "pairs_per_step": 4, "micro_batch_pairs": 4, "save_every_steps": 2},
    },
    "evaluation": {
        "prompts": "world:heldout", "scorers": ["world:oracle", "world:clip"], "limit": 4, "at": [2, 4], "sampler_steps": 2,
        "guidance": 3.0, "also_sampler_steps": [1],
    },
    "knobs": {"prompts": "world:validation", "trials": 2, "limit": 3, "grid": {"optimizer.lr": [1e-5, 1e-4]}},
    "seeds": 2,
    "arms": {
        "inpo": {"method": "inpo", "settings": {"method.objective.beta": 500.0}},
        "dpo": {"method": "diffusion-dpo", "grid": {"method.objective.beta": ["x0.1", "x0.2"]}},
        "shuffled": {
            "method": "diffusion-dpo", "knobs_of": "dpo", "seeds": 1, "settings": {"data.path": "world:pairs-shuffled"}, "control": True,
        },
    },
}  # fmt: skip


def write(path: Path, **changes: object) -> str:
    """The file, with sections replaced."""
    path.write_text(yaml.safe_dump({**TREE, **changes}, sort_keys=False), encoding="utf-8")
    return str(path)
