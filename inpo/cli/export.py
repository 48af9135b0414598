"""`inpo export` and `inpo push`: a result leaves the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from inpo.cli.options import out_option

app = typer.Typer()

Run = Annotated[str, typer.Argument(help="A run folder, a pipeline folder, a hub id, or 'world'.", metavar="RUN")]


@app.command()
def export(
    run: Run,
    out: Annotated[Path, out_option("The folder to write, or for one file its name, ….safetensors.")],
    format: Annotated[str, typer.Option("--format", help="pipeline, unet (or transformer), lora, lora-kohya or single-file.")] = "pipeline",
    rank: Annotated[int | None, typer.Option(help="Extract a LoRA of this rank from a fully trained network, by SVD.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model that the extracted LoRA will be used on. Default: the run's.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Precision of a LoRA or a single file: fp32, bf16 or fp16.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
) -> None:
    """Write a result as other programs load it."""
    from inpo.types import Dtype
    from inpo.verbs.exporting import Export, Format
    from inpo.verbs.exporting import export as write

    job = Export(run, cast(Format, format), rank, base, cast("Dtype | None", dtype))
    print("\n".join(write(job, out, force=force).lines()))



@app.command()
def push(
    run: Annotated[str, typer.Argument(help="A run folder, or what `inpo export` wrote.", metavar="RUN")],
    to: Annotated[str, typer.Option("--to", help="The repository on the Hugging Face hub, owner/name.")],
    public: Annotated[bool, typer.Option("--public", help="Make the repository public. Default: private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files and their sizes; upload nothing.")] = False,
) -> None:
    """Upload a result with its card to the hub, privately."""
    from inpo.verbs.publishing import prepare
    from inpo.verbs.publishing import push as upload

    prepared = prepare(run, to)
    print("\n".join(prepared.lines()))
    if not dry_run:
        print(f"uploaded, {'public' if public else 'private'}: {upload(prepared, public=public)}")
