"""Options that several verbs share, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from inpo.generation import GenerationConfig

Out = Annotated[Path, typer.Option("--out", help="The folder to write.")]
Seed = Annotated[int, typer.Option(help="Seed of the first noise; picture (prompt, sample) has its own.")]
Samples = Annotated[int, typer.Option(help="Pictures per prompt.")]
Steps = Annotated[int, typer.Option(help="Sampler steps.")]
Guidance = Annotated[float, typer.Option(help="Classifier-free guidance; 1 is none.")]
Scheduler = Annotated[str, typer.Option(help="ddim, euler or dpmsolver++.")]
Prompts = Annotated[str, typer.Option("--prompts", help="A file (.txt, .jsonl, .csv, .parquet) or a set: world:heldout.")]


def generation(seed: int, samples: int, steps: int, guidance: float, scheduler: str) -> GenerationConfig:
    """The settings of `inpo generate`. Raises `InputError` for a value that cannot be."""
    from inpo.generation import GenerationConfig

    return GenerationConfig(seed=seed, samples=samples, steps=steps, guidance=guidance, scheduler=scheduler)
