"""Preference alignment for text-to-image diffusion models: DDIM-InPO and the methods it stands among.

`import inpo` costs next to nothing: everything below, torch too, is imported when it is first used.

    from pathlib import Path

    import inpo

    experiment = inpo.recipe("sd15-inpo", ["data.path=pairs.parquet"])
    inpo.train(experiment, Path("runs/mine"))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inpo import methods, report
    from inpo.comparing import compare
    from inpo.compose import load, open_pairs
    from inpo.config import Experiment
    from inpo.config import load_experiment as recipe
    from inpo.data.importing import ImportConfig, import_pairs
    from inpo.ddim import invert, sample, transfer
    from inpo.evaluation.winrate import win_rate
    from inpo.generation import GenerationConfig, generate
    from inpo.models.config import Lora
    from inpo.noising import Forward, Inversion
    from inpo.schedule import Schedule
    from inpo.verbs import demo
    from inpo.verbs.alignment import train
    from inpo.verbs.comparison import Comparison, evaluate
    from inpo.verbs.exporting import Export, export
    from inpo.verbs.judging import Scoring, score_pictures
    from inpo.verbs.onpolicy import OnPolicy, generate_pairs
    from inpo.verbs.pair_accuracy import PairScoring, measure_accuracy

__version__ = "0.1.0"

_MODULES = {"demo": "inpo.verbs.demo", "methods": "inpo.methods", "report": "inpo.report"}
_NAMES = {
    "Comparison": "inpo.verbs.comparison",
    "evaluate": "inpo.verbs.comparison",
    "compare": "inpo.comparing",
    "load": "inpo.compose",
    "open_pairs": "inpo.compose",
    "train": "inpo.verbs.alignment",
    "Experiment": "inpo.config",
    "recipe": "inpo.config:load_experiment",
    "ImportConfig": "inpo.data.importing",
    "import_pairs": "inpo.data.importing",
    "invert": "inpo.ddim",
    "sample": "inpo.ddim",
    "transfer": "inpo.ddim",
    "win_rate": "inpo.evaluation.winrate",
    "Export": "inpo.verbs.exporting",
    "export": "inpo.verbs.exporting",
    "GenerationConfig": "inpo.generation",
    "generate": "inpo.generation",
    "Scoring": "inpo.verbs.judging",
    "score_pictures": "inpo.verbs.judging",
    "Lora": "inpo.models.config",
    "Forward": "inpo.noising",
    "Inversion": "inpo.noising",
    "OnPolicy": "inpo.verbs.onpolicy",
    "generate_pairs": "inpo.verbs.onpolicy",
    "PairScoring": "inpo.verbs.pair_accuracy",
    "measure_accuracy": "inpo.verbs.pair_accuracy",
    "Schedule": "inpo.schedule",
}

__all__ = [
    "Comparison",
    "Experiment",
    "Export",
    "Forward",
    "GenerationConfig",
    "ImportConfig",
    "Inversion",
    "Lora",
    "OnPolicy",
    "PairScoring",
    "Schedule",
    "Scoring",
    "compare",
    "demo",
    "evaluate",
    "export",
    "generate",
    "generate_pairs",
    "import_pairs",
    "invert",
    "load",
    "measure_accuracy",
    "methods",
    "open_pairs",
    "recipe",
    "report",
    "sample",
    "score_pictures",
    "train",
    "transfer",
    "win_rate",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _NAMES:
        raise AttributeError(f"module 'inpo' has no attribute {name!r}")
    module, _, attribute = _NAMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
