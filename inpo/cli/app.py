"""The command line: parse, call, print. Every verb is a call of the same functions that Python users have.

Exit codes: 0 done; 2 bad input or configuration; 1 a fault; 130 or 143 interrupted, state saved.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from inpo.cli import compare, data, export, score
from inpo.cli.faults import disk_told
from inpo.cli.interruption import interrupted, interruptible, outside_training, pictures_kept
from inpo.cli.options import (
    Batch,
    Guidance,
    Out,
    Precision,
    Prompts,
    Resolution,
    Samples,
    Scheduler,
    Seed,
    Steps,
    as_typed,
    steering,
)
from inpo.errors import InputError, Interrupted, RunFault

if TYPE_CHECKING:
    from inpo.types import Dtype

app = typer.Typer(
    name="inpo",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
world_app = typer.Typer(help="The embedded world.", no_args_is_help=True)


def _version(asked: bool) -> None:
    if asked:
        from inpo import __version__

        print(f"inpo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Align text-to-image diffusion models with human preferences: DDIM-InPO and the methods it was compared with."""


app.add_typer(data.app, name="data")
app.add_typer(world_app, name="world")
app.add_typer(compare.app)
app.add_typer(export.app)
app.add_typer(score.app)


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo in that folder.")] = False,
    null: Annotated[bool, typer.Option("--null", help="Add the control that trains on shuffled labels.")] = False,
) -> None:
    """See a model become preferred, in minutes."""
    again = f"run it again with: inpo demo --force --out {shlex.quote(str(out))}"
    with interruptible(lambda: f"the demo is not complete; {again}"):
        from inpo.console import print_summary
        from inpo.verbs.demo import run_demo

        try:
            print_summary(run_demo(out, force=force, null=null))
        except Interrupted as stop:
            raise interrupted(str(stop), stop.signal, again) from None
    print(f"report: {out / 'report.html'}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe (see `inpo recipes`) or a .yaml file.", metavar="RECIPE|FILE.yaml")],
    out: Out,
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings, as train.steps=100.", metavar="[KEY=VALUE]…")] = None,
    resume: Annotated[str | None, typer.Option(help="'latest' or a checkpoint folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another run in that folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print sizes and cost, train nothing.")] = False,
) -> None:
    """Align a model with preference pairs."""
    command = ["inpo", "train", recipe, *(overrides or []), "--out", str(out)]
    with interruptible(lambda: outside_training(command, out, force=force)):
        from inpo.config import load_experiment
        from inpo.verbs.alignment import Resume, check_folder
        from inpo.verbs.alignment import train as run

        experiment = load_experiment(recipe, overrides or [])
        if dry_run:
            from inpo.verbs.plan import describe

            check_folder(experiment, out, Resume(resume, force))
            print(describe(experiment))
            return
        try:
            result = run(experiment, out, Resume(resume, force))
        except Interrupted as stop:
            if not stop.resumable:
                again = shlex.join([*command, *(["--resume", resume] if resume else []), "--force"])
                raise interrupted(str(stop), stop.signal, f"start again with: {again}") from None
            again = shlex.join([*command, "--resume", "latest"])
            raise interrupted(str(stop), stop.signal, f"continue with: {again}") from None
    from inpo.training.distributed import is_main

    if is_main():
        stopped = f" and stopped: {result.stopped}" if result.stopped else ""
        best = "" if result.result_step == result.step else f", with the weights of step {result.result_step}"
        print(f"trained {result.step} steps{stopped}; the model is in {out / 'model'}{best}")


@app.command()
def generate(
    model: Annotated[str, typer.Option("--model", help="A pipeline folder, a run folder, a hub id, or 'world'.")],
    prompts: Prompts,
    out: Out,
    seed: Seed = 0,
    samples: Samples = 1,
    steps: Steps = 50,
    guidance: Guidance = None,
    scheduler: Scheduler = "ddim",
    resolution: Resolution = None,
    batch: Batch = None,
    dtype: Precision = "fp32",
    controlnet: Annotated[str | None, typer.Option(help="A ControlNet for the images: a folder or a hub id.")] = None,
    control_image: Annotated[Path | None, typer.Option(help="The ControlNet's input: an image, or a folder with one per prompt.")] = None,
    control_scale: Annotated[float | None, typer.Option(help="Strength of the ControlNet. Default: 1.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Make all images again.")] = False,
) -> None:
    """Make pictures from prompts."""
    with interruptible(lambda: pictures_kept(out)), as_typed(locals()):
        from inpo.compose import generate_pictures, naming
        from inpo.generation import GenerationConfig, count_faults
        from inpo.models.config import ModelConfig

        config = GenerationConfig(seed, samples, steps, guidance, scheduler, batch, resolution)
        control = steering(controlnet, control_image, control_scale)
        with naming("--model"):
            network = ModelConfig(model, dtype=cast("Dtype", dtype))
        records = generate_pictures(network, prompts, out, config, control=control, force=force)
    faults = ", ".join(f"{count} {fault}" for fault, count in count_faults(records).items())
    print(f"{len(records)} pictures in {out}" + (f", of which {faults}: see images.jsonl" if faults else ""))


@app.command()
def evaluate(
    candidate: Annotated[str, typer.Option("--candidate", help="The model to judge.")],
    baseline: Annotated[str, typer.Option("--baseline", help="The model it is compared with.")],
    prompts: Prompts,
    scorers: Annotated[
        str, typer.Option("--scorers", help="Comma-separated: world:oracle, world:clip, pickscore:DIR, implicit:RUN. The first decides.")
    ],
    out: Out,
    seed: Seed = 0,
    samples: Samples = 1,
    steps: Steps = 50,
    guidance: Guidance = None,
    scheduler: Scheduler = "ddim",
    resolution: Resolution = None,
    batch: Batch = None,
    dtype: Precision = "fp32",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier evaluation in that folder.")] = False,
) -> None:
    """Compare two models under the same seeds."""
    with interruptible(lambda: pictures_kept(out)), as_typed(locals()):
        from inpo.console import print_summary
        from inpo.generation import GenerationConfig
        from inpo.verbs.comparison import Comparison
        from inpo.verbs.comparison import evaluate as run

        config = GenerationConfig(seed, samples, steps, guidance, scheduler, batch, resolution)
        job = Comparison(candidate, baseline, prompts, tuple(scorers.split(",")), config, cast("Dtype", dtype))
        print_summary(run(job, out, force=force))
    print(f"report: {out / 'report.html'}")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run, a demo, an evaluation or a comparison.")]) -> None:
    """Make a folder's report.html again."""
    from inpo.report import build_report

    print(build_report(folder))


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Print this recipe with the source of every number.")] = None) -> None:
    """List the recipes, or print one."""
    from inpo.config import recipe_names, recipe_text

    if name is not None:
        print(recipe_text(name), end="")
        return
    names = recipe_names()
    for each in names:
        print(f"{each:{max(map(len, names))}} {recipe_text(each).splitlines()[0].lstrip('# ')}")


@world_app.command("build")
def world_build(out: Out) -> None:
    """Make the world's pipeline, scorer and pairs anew from fixed seeds: about an hour on two cores."""
    from inpo.world.build import build

    build(out)


def main() -> None:
    """Runs the command line; one line and no traceback for what a user can mend, unless INPO_TRACEBACK is set."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"transformers|diffusers")
    # It warns on import, which diffusers does whether or not anything asks for 8 bits.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with disk_told():
            app()
    except (InputError, RunFault) as error:
        if os.environ.get("INPO_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


if __name__ == "__main__":
    main()
