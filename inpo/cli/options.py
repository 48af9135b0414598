"""Options that several verbs share, and what they become."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inpo.cli.faults import OUT
from inpo.errors import InputError

if TYPE_CHECKING:
    from inpo.control import Control

_EMPTY = Path("\0")
"""What no path can be stands for the empty text, which a `Path` would read as the current folder."""


def _path(text: str | Path) -> Path:
    return Path(text) if str(text) else _EMPTY


def _checked(out: Path) -> Path:
    if out == _EMPTY:
        raise InputError("--out is empty: name a file or a folder. An unset variable of the shell reads so")
    OUT.set(out)
    return out


def out_option(help: str) -> Any:
    """`--out`: never empty, and known to `inpo.cli.faults`."""
    return typer.Option("--out", help=help, parser=_path, metavar="PATH", callback=_checked)


Out = Annotated[Path, out_option("The folder to write.")]
Seed = Annotated[int, typer.Option(help="Seed of the initial noise; each (prompt, sample) draws its own from it.")]
Samples = Annotated[int, typer.Option(help="Images per prompt.")]
Steps = Annotated[int, typer.Option(help="Sampler steps.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance scale; 1 turns it off. Default: the family's (7.5 for SD).")]
Scheduler = Annotated[str, typer.Option(help="ddim, euler or dpmsolver++.")]
Resolution = Annotated[int | None, typer.Option(help="Side of the images in pixels. Default: the model's.")]
Batch = Annotated[int | None, typer.Option(help="Images per batch; does not change them. Default: 16, or 4 at 1024².")]
Precision = Annotated[str, typer.Option("--dtype", help="Compute precision: fp32, bf16 or fp16; the last two take half the memory.")]
Prompts = Annotated[str, typer.Option("--prompts", help="A file (.txt, .jsonl, .csv, .parquet) or a set: world:heldout.")]


@contextmanager
def as_typed(options: Collection[str]) -> Iterator[None]:
    """What is wrong with a setting `key=…` is said of the option `--key`, where the command has it: `options` are its parameters."""
    try:
        yield
    except InputError as error:
        key, equals, rest = str(error).removeprefix("model.").partition("=")
        if not equals or key not in options:
            raise
        raise InputError(f"--{key.replace('_', '-')}={rest.removesuffix(', or null')}") from error


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
