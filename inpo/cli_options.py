"""Options that several verbs share, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inpo.errors import InputError

if TYPE_CHECKING:
    from inpo.control import Control
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


def steering(controlnet: str | None, image: Path | None, scale: float | None) -> Control | None:
    """What `--controlnet` and its options ask for; None without them. Raises `InputError` for one without the other."""
    from inpo.control import Control

    if controlnet is not None and image is not None:
        return Control(controlnet, image, 1.0 if scale is None else scale)
    if controlnet is None and image is None and scale is None:
        return None
    options = {"--controlnet": controlnet, "--control-image": image, "--control-scale": scale}
    given = [name for name, value in options.items() if value is not None]
    raise InputError(f"{' and '.join(given)} alone: a ControlNet needs --controlnet and --control-image, what it is and what it reads")
