"""`inpo score`: pictures, or preference pairs, through scorers."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from inpo.cli.interruption import interrupted
from inpo.cli.options import out_option
from inpo.errors import InputError

app = typer.Typer()


@app.command()
def score(
    scorer: Annotated[
        str, typer.Option("--scorer", help="One or more, comma-separated: world:oracle, world:clip, pickscore:DIR, implicit:RUN.")
    ],
    out: Annotated[Path, out_option("The file to write: .parquet, .csv or .jsonl; with --pairs, .json.")],
    images: Annotated[Path | None, typer.Option("--images", help="A folder that inpo generate wrote, or any folder of images.")] = None,
    prompts: Annotated[str | None, typer.Option("--prompts", help="The images' prompts, a file or a set; not for generated ones.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="One prompt for all images.")] = None,
    pairs: Annotated[str | None, typer.Option("--pairs", help="Instead of --images: what data.path may be, or held-out:RUN.")] = None,
    limit: Annotated[int | None, typer.Option(help="With --pairs: use only the first N pairs. Default: 512.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Score everything again and replace that file.")] = False,
) -> None:
    """Rank pictures of a prompt, or measure a scorer on pairs.

    With --images every picture is scored and those of each prompt are ranked; with --pairs it is measured how often a scorer prefers
    what people preferred.
    """
    names = tuple(scorer.split(","))
    if (images is None) == (pairs is None):
        raise InputError("give --images, a folder of pictures to score, or --pairs, preference pairs to measure the scorers on")
    if pairs is not None and (prompts is not None or prompt is not None):
        raise InputError("--pairs bring their prompts with them: leave --prompts and --prompt out")
    if images is not None and limit is not None:
        raise InputError(f"--limit={limit} is of --pairs: with --images every picture is scored, so leave it out")
    try:
        if images is not None:
            from inpo.verbs.judging import Scoring, score_pictures

            print("\n".join(score_pictures(Scoring(names, images, prompts, prompt), out, force=force).lines()))
        elif pairs is not None:
            from inpo.verbs.pair_accuracy import PairScoring, lines, measure_accuracy

            job = PairScoring(names, pairs) if limit is None else PairScoring(names, pairs, limit)
            print("\n".join(lines(measure_accuracy(job, out, force=force))))
            print(f"page: {out.with_suffix('.html')}")
    except KeyboardInterrupt:
        advice = f"what was scored is kept at {out}, and the same command goes on from there"
        raise interrupted("interrupted", signal.SIGINT, advice) from None
