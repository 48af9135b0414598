"""`inpo data …`: pairs are looked at, scored, made of other people's annotations, and made of a model's own pictures."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, cast

import typer

from inpo.cli.interruption import interrupted
from inpo.cli.options import Batch, Guidance, Precision, Prompts, Resolution, Samples, Scheduler, Seed, Steps, as_typed, out_option
from inpo.errors import InputError

app = typer.Typer(help="Make preference pairs, and look at them before training.", no_args_is_help=True)

OutFile = Annotated[Path, out_option("The Parquet file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace that file.")]


def _refuse_built_in(path: str) -> None:
    from inpo.compose import WORLD_PAIRS, WORLD_SHUFFLED

    if path in (WORLD_PAIRS, WORLD_SHUFFLED):
        raise InputError(
            f"{path} is built in and endless: there is nothing to read to its end. inpo train makes such pairs as it needs them"
        )


@app.command("validate")
def validate(
    path: Annotated[str, typer.Argument(help="What data.path may be: Parquet, JSONL or CSV files, a folder of pictures, hub:owner/name.")],
    where: Annotated[list[str] | None, typer.Option(help='Use only rows that pass "nsfw < 0.1"; may be given several times.')] = None,
    root: Annotated[str | None, typer.Option(help="The folder that a listing's paths are relative to.")] = None,
    score_columns: Annotated[str | None, typer.Option(help="Scores in place of labels, as in score_0,score_1.")] = None,
) -> None:
    """List everything wrong with pairs or single pictures, with row and field, before a model is loaded. Exits with 2 if anything is."""
    from inpo.console import bar
    from inpo.data.config import DataConfig
    from inpo.data.validate import validate as run

    _refuse_built_in(path)
    columns = None if score_columns is None else cast("tuple[str, str]", tuple(score_columns.split(",")))
    config = DataConfig(path, root=root, where=tuple(where or ()), score_columns=columns)
    found = run(config, progress=bar("rows examined"))
    print("\n".join(found.lines()))
    if not found.ok:
        raise typer.Exit(2)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="An annotation file, or a folder with liked/ and disliked/.")],
    out: OutFile,
    format: Annotated[str, typer.Option(help="auto, hpdv2, hpdv3, imagereward or likes.")] = "auto",
    images: Annotated[Path | None, typer.Option(help="The folder that the annotations' paths start from.")] = None,
    pairs: Annotated[str, typer.Option(help="Which pairs of each ranking: all, adjacent or best-worst.")] = "all",
    per_caption: Annotated[int, typer.Option(help="The most pairs to make from the likes and dislikes of one caption.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed that chooses them.")] = 0,
    max_rejected_fraction: Annotated[float, typer.Option(help="The share of faulty rows past which nothing is written.")] = 0.1,
    force: Force = False,
) -> None:
    """Make pairs of rankings (HPDv2, HPDv3, ImageRewardDB) or of likes and dislikes."""
    from inpo.console import counter
    from inpo.data.importing import ImportConfig, import_pairs
    from inpo.data.importing.formats import FormatName
    from inpo.data.ranking import PairPolicy

    with as_typed(locals()):
        config = ImportConfig(
            path, cast(FormatName, format), images, cast(PairPolicy, pairs), per_caption=per_caption, seed=seed,
            max_rejected_fraction=max_rejected_fraction,
        )  # fmt: skip
        report = import_pairs(config, out, force=force, progress=counter("rows examined"))
    print("\n".join(report.lines()))


@app.command("score")
def score(
    path: Annotated[str, typer.Argument(help="Pairs: what data.path may be.")],
    scorer: Annotated[str, typer.Option("--scorer", help="Who scores: world:oracle, world:clip, pickscore:DIR, implicit:RUN.")],
    out: OutFile,
    where: Annotated[list[str] | None, typer.Option(help='Use only rows that pass "nsfw < 0.1"; may be given several times.')] = None,
    root: Annotated[str | None, typer.Option(help="The folder that a listing's paths are relative to.")] = None,
    max_rejected_fraction: Annotated[float, typer.Option(help="The share of faulty rows past which nothing is written.")] = 0.1,
    force: Force = False,
) -> None:
    """Write a pairs file once more with a scorer's scores, as soft labels to train on."""
    from inpo.compose import scorer as by_name
    from inpo.console import bar
    from inpo.data.config import DataConfig
    from inpo.data.scoring import score_pairs

    _refuse_built_in(path)
    config = DataConfig(path, root=root, where=tuple(where or ()), max_rejected_fraction=max_rejected_fraction)
    try:
        print("\n".join(score_pairs(config, by_name(scorer), out, force=force, progress=bar("rows scored")).lines()))
    except KeyboardInterrupt:
        raise interrupted("interrupted", signal.SIGINT, "the scores so far are kept, and the same command goes on from there") from None


@app.command("generate")
def generate(
    model: Annotated[str, typer.Option("--model", help="A pipeline folder, a run folder, a hub id, or 'world'.")],
    prompts: Prompts,
    scorer: Annotated[str, typer.Option("--scorer", help="Who ranks: world:oracle, world:clip, pickscore:DIR, implicit:RUN.")],
    out: OutFile,
    limit: Annotated[int | None, typer.Option(help="Use only the first N prompts.")] = None,
    samples: Samples = 4,
    pairs: Annotated[str, typer.Option(help="Which pairs of a prompt's images: best-worst, adjacent or all.")] = "best-worst",
    margin: Annotated[float, typer.Option(help="Scores at most this far apart are near ties.")] = 0.0,
    near_ties: Annotated[str, typer.Option(help="drop: leave near ties out; half: keep them with the label ½.")] = "drop",
    seed: Seed = 0,
    steps: Steps = 50,
    guidance: Guidance = None,
    scheduler: Scheduler = "ddim",
    resolution: Resolution = None,
    batch: Batch = None,
    dtype: Precision = "fp32",
    force: Force = False,
) -> None:
    """Make pairs of a model's own pictures, ranked by a scorer."""
    from inpo.data.ranking import PairPolicy
    from inpo.generation import GenerationConfig
    from inpo.types import Dtype
    from inpo.verbs.onpolicy import NearTies, OnPolicy, generate_pairs

    try:
        with as_typed(locals()):
            job = OnPolicy(
                model, prompts, scorer, limit=limit, pairs=cast(PairPolicy, pairs), margin=margin, near_ties=cast(NearTies, near_ties),
                generation=GenerationConfig(seed, samples, steps, guidance, scheduler, batch, resolution), dtype=cast(Dtype, dtype),
            )  # fmt: skip
            report = generate_pairs(job, out, force=force)
        print("\n".join(report.lines()))
    except KeyboardInterrupt:
        advice = f"what was made is in {out.with_suffix('.work')}, and the same command goes on from there"
        raise interrupted("interrupted", signal.SIGINT, advice) from None
