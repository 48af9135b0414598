"""What a user types, through the real entrance: train, resume, generate, evaluate, report, and every refusal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import inpo
from inpo import compose
from inpo.evaluation.summary import Summary
from inpo.files import file_sha256
from inpo.verbs import alignment
from tests.end_to_end.conftest import Run, small
from tests.unit.data.making import png

RECIPES = {"inpo": "sd15-inpo", "diffusion-dpo": "sd15-dpo", "sft": "sd15-sft"}
WITHOUT_US = """
import sys, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], use_safetensors=True)
pipe.set_progress_bar_config(disable=True)
image = pipe("a red circle", num_inference_steps=2, height=16, width=16, generator=torch.Generator().manual_seed(0)).images[0]
assert image.size == (16, 16), image.size
assert "inpo" not in sys.modules
print("generated")
"""


@pytest.mark.parametrize("method", RECIPES)
def test_train_resume_and_use_without_us(method: str, run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Two steps and two more after a resume; the run folder is as documented; plain diffusers loads and samples the result."""
    out, settings = tmp_path / "run", small(tiny_pipeline, pairs_file, method)
    first = run("train", RECIPES[method], *settings, "--out", out)
    assert first.code == 0, first.err
    assert yaml.safe_load((out / "config.yaml").read_text())["method"]["name"] == method
    again = run("train", RECIPES[method], *settings, "train.steps=4", "--out", out, "--resume", "latest")
    assert again.code == 0, again.err
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(row["row"], row["field"]) for row in rejected] == [(13, "jpg_1")]
    assert json.loads((out / "summary.json").read_text())["methods"][method]["steps"] == 4
    done = subprocess.run([sys.executable, "-c", WITHOUT_US, str(out / "model")], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "generated", done.stderr


def test_an_older_versions_checkpoint_is_continued(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """It lacks settings that came later: at their defaults it is continued, at other values refused, and so is a setting that differs."""
    out, settings = tmp_path / "run", small(tiny_pipeline, pairs_file, "inpo")
    assert run("train", "sd15-inpo", *settings, "--out", out).code == 0
    folder = out / "checkpoints" / "step-000002"
    manifest, state = (json.loads((folder / name).read_text()) for name in ("manifest.json", "state.json"))
    for key in ("first_eta", "t_range", "times_per_trajectory"):
        del state["config"]["method"]["noising"][key]
    del state["config"]["method"]["safeguard"]
    (folder / "state.json").write_text(json.dumps(state))
    manifest["files"]["state.json"] = {"bytes": (folder / "state.json").stat().st_size, "sha256": file_sha256(folder / "state.json")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    more = "train", "sd15-inpo", *settings, "train.steps=4", "--out", out, "--resume", "latest"
    for other, said in (
        ("method.noising.first_eta=0.5", "method.noising.first_eta  checkpoint: None  this run: 0.5"),
        ("method.noising.inversion_steps=3", "method.noising.inversion_steps  checkpoint: 10  this run: 3"),
    ):
        refused = run(*more, other)
        assert (refused.code, said in refused.err) == (2, True), refused.err
    done = run(*more)
    assert done.code == 0, done.err


@pytest.mark.parametrize("variant", ["tiny_v_pipeline", "tiny_zero_snr_pipeline"])
def test_inpo_trains_v_prediction_models(variant: str, run: Run, request: pytest.FixtureRequest, pairs_file: Path, tmp_path: Path) -> None:
    """v is read from the model's own config; with zero terminal SNR, t = T − 1 is a time like any other."""
    settings = small(request.getfixturevalue(variant), pairs_file, "inpo", "train.pairs_per_step=8")
    done = run("train", "sd15-inpo", *settings, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1])
    assert line["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_bf16_starts_from_the_identity(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """bf16 with fp32 master weights: policy and reference round alike, so the first loss is log 2 and the run goes on."""
    settings = small(tiny_pipeline, pairs_file, "inpo", "model.dtype=bf16", "output.format=unet", "optimizer.name=adafactor")
    done = run("train", "sd15-inpo", *settings, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1])["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert (tmp_path / "run" / "model" / "unet" / "config.json").is_file()


def test_generate_from_a_prompt_file(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """One picture a line; a second call keeps them; names never come from prompts."""
    (tmp_path / "prompts.txt").write_text("a red circle\n<script>alert(1)</script>\n../../etc/passwd\n")
    command = ("generate", "--model", tiny_pipeline, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "pictures", "--steps", 2)
    assert run(*command).code == 0
    assert sorted(path.name for path in (tmp_path / "pictures").glob("*.png")) == ["00000_0.png", "00001_0.png", "00002_0.png"]
    assert run(*command).code == 0


def test_a_model_against_itself_is_a_tie_throughout(run: Run, tmp_path: Path) -> None:
    """Same seeds, same pictures: win rate exactly ½ by both scorers, gain 0; the report is there, and can be made again."""
    (tmp_path / "prompts.txt").write_text(
        "a small red square on a white background\na red circle above a blue square on a black background\n"
    )
    command = (
        "evaluate", "--candidate", "world", "--baseline", "world", "--prompts", tmp_path / "prompts.txt",
        "--scorers", "world:oracle,world:clip", "--steps", 2, "--guidance", 3, "--out", tmp_path / "judged",
    )  # fmt: skip
    done = run(*command)
    assert done.code == 0, done.err
    entry = json.loads((tmp_path / "judged" / "summary.json").read_text())["methods"]["candidate"]
    assert (entry["win_rate"], entry["low"], entry["high"], entry["mean_gain"]) == (0.5, 0.5, 0.5, 0.0)
    assert entry["second_scorer"]["win_rate"] == 0.5
    assert "0.500" in done.out
    assert "--candidate" in json.loads((tmp_path / "judged" / "environment.json").read_text())["command"]
    (tmp_path / "judged" / "report.html").unlink()
    assert run("report", tmp_path / "judged").code == 0
    assert (tmp_path / "judged" / "report.html").is_file()
    again = run(*command)
    assert (again.code, "--force" in again.err) == (2, True)
    assert run(*command, "--force").code == 0


def test_an_evaluation_touches_no_other_folder(run: Run, tmp_path: Path) -> None:
    """A run's folder is not an evaluation's: its summary stays."""
    (tmp_path / "config.yaml").write_text("model: {}")
    (tmp_path / "summary.json").write_text("{}")
    arguments = ("--candidate", "world", "--baseline", "world", "--prompts", "world:heldout", "--scorers", "world:oracle")
    refused = run("evaluate", *arguments, "--out", tmp_path, "--force")
    assert (refused.code, "config.yaml" in refused.err) == (2, True)
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_a_prompt_that_a_scorer_cannot_judge_is_found_before_any_picture(run: Run, tmp_path: Path) -> None:
    """By file and line, with what the scorer can read."""
    (tmp_path / "prompts.txt").write_text("a small red square on a white background\n\na cat\n")
    arguments = ("--candidate", "world", "--baseline", "world", "--prompts", tmp_path / "prompts.txt", "--scorers", "world:oracle")
    refused = run("evaluate", *arguments, "--out", tmp_path / "judged")
    assert refused.code == 2
    assert all(words in refused.err for words in ("prompts.txt, line 3: 'a cat'", "a big|small COLOUR SHAPE", "docs/world.md"))
    assert not (tmp_path / "judged").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--candidate", "wrold"), "--candidate='wrold': there is no folder wrold here (did you mean 'world'?)"),
        (("--baseline", "runs/bsae"), "--baseline='runs/bsae': there is no folder runs/bsae here (did you mean 'runs/base'?)"),
        (("--steps", 2000), "steps=2000"),
        (("--guidance", -1), "guidance=-1.0"),
    ],
)
def test_what_an_evaluation_cannot_use_is_named_as_it_was_typed(
    change: tuple[object, ...], words: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option and not a setting behind it, one line, and an earlier evaluation in the folder stays, whatever --force says."""
    (tmp_path / "runs" / "base").mkdir(parents=True)
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "summary.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    arguments = ("--candidate", "world", "--baseline", "world", "--prompts", "world:heldout", "--scorers", "world:oracle", "--force")
    refused = run("evaluate", *arguments, "--out", "judged", *change)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert words in refused.err
    assert (tmp_path / "judged" / "summary.json").is_file()


def test_the_options_reach_the_sampler(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Seed, samples, guidance and scheduler, as generation.json and the list of pictures have them."""
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    options = ("--seed", 3, "--samples", 2, "--steps", 2, "--guidance", 1, "--scheduler", "euler")
    done = run("generate", "--model", tiny_pipeline, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "pictures", *options)
    assert done.code == 0, done.err
    made = json.loads((tmp_path / "pictures" / "generation.json").read_text())
    assert {key: made[key] for key in ("seed", "steps", "guidance", "scheduler")} == {
        "seed": 3, "steps": 2, "guidance": 1.0, "scheduler": "euler",
    }  # fmt: skip
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_the_demos_options_reach_it(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []

    def remember(out: Path, *, force: bool, null: bool) -> Summary:
        asked.append((out, force, null))
        return Summary("demo", "base", {})

    monkeypatch.setattr("inpo.verbs.demo.run_demo", remember)
    assert [run("demo", "--out", tmp_path, *more).code for more in ((), ("--null",), ("--force",))] == [0, 0, 0]
    assert asked == [(tmp_path, False, False), (tmp_path, False, True), (tmp_path, True, False)]


def test_generating_beyond_the_schedule_writes_nothing(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    arguments = ("--prompts", "world:heldout", "--out", tmp_path / "pictures")
    refused = run("generate", "--model", tiny_pipeline, *arguments, "--steps", 2000)
    assert (refused.code, "steps=2000" in refused.err, (tmp_path / "pictures").exists()) == (2, True, False)
    refused = run("generate", "--model", tmp_path / "nothing", *arguments)
    assert (refused.code, f"--model='{tmp_path / 'nothing'}'" in refused.err) == (2, True)


def test_the_worlds_pairs_train_any_model(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """An endless source with a model that is not the world's: sample pictures of its prompts are made while it trains."""
    settings = [f"model.path={tiny_pipeline}", "data.resolution=16", "train.steps=1", "train.pairs_per_step=4", "optimizer.warmup_steps=0"]
    done = run("train", "world-inpo", *settings, "train.sample_every_steps=1", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "run" / "samples" / "step-000001").glob("*.png"))) == 8


def test_dry_run_trains_nothing_and_names_the_cost(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Sizes, memory, and METHOD's count: 2 train + 2 reference + 11 inversion image-forwards per pair at N = 10."""
    done = run("train", "sd15-inpo", *small(tiny_pipeline, pairs_file), "--out", tmp_path / "run", "--dry-run")
    assert done.code == 0, done.err
    assert "2 train + 2 reference + 11 inversion" in done.out
    assert re.search(r"pairs +\d+ to train on, \d+ held out, \d+ rejected; ", done.out)
    assert "Inversion: inversion_steps 10, eta 0.0" in done.out
    assert "Dpo: beta 2000.0" in done.out
    assert not (tmp_path / "run").exists()
    refused = run(
        "train", "sd15-inpo", *small(tiny_pipeline, pairs_file), "train.pairs_per_step=4000", "--out", tmp_path / "run", "--dry-run"
    )
    assert (refused.code, "4000" in refused.err) == (2, True)
    none_held = ("data.validation_fraction=0.0001", "train.keep_best=validation.loss")
    refused = run("train", "sd15-inpo", *small(tiny_pipeline, pairs_file), *none_held, "--out", tmp_path / "run", "--dry-run")
    assert (refused.code, "needs held-out pairs" in refused.err) == (2, True)
    steps = "method.noising.inversion_steps=1001"
    refused = run("train", "sd15-inpo", *small(tiny_pipeline, pairs_file), steps, "--out", tmp_path / "run", "--dry-run")
    assert (refused.code, "method.noising" in refused.err) == (2, True)


def test_help_fits_on_one_screen(run: Run) -> None:
    lines = run("--help").out.splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    assert not any(line.rstrip().endswith("...") for line in lines[1:])


def test_recipes_are_listed_and_printed(run: Run) -> None:
    listed = run("recipes").out.splitlines()
    names = [line.split()[0] for line in listed]
    assert set(names) >= {"world-inpo", "world-dpo", "world-sft", "sd15-inpo", "sd15-dpo", "sd15-sft"}
    # One column for the names, one for what they are.
    assert {line.index(line.split(maxsplit=1)[1]) for line in listed} == {max(map(len, names)) + 1}
    assert "beta: 2000.0" in run("recipes", "sd15-inpo").out
    assert run("recipes", "sd15-impo").code == 2


def test_validate_lists_what_is_wrong(run: Run, pairs_file: Path) -> None:
    """The broken picture by row and field, exit 2; no model is loaded for it."""
    done = run("data", "validate", pairs_file)
    assert done.code == 2
    assert "row 13" in done.out
    assert "jpg_1" in done.out


def test_validate_looks_only_at_the_rows_that_are_asked_for(run: Run, tmp_path: Path) -> None:
    """A listing whose one bad row is filtered out, beside pictures in another folder."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(png(ord(name)))
    (tmp_path / "lists").mkdir()
    listing = tmp_path / "lists" / "pairs.csv"
    listing.write_text("win,lose,caption,score\na.png,b.png,fine,1\na.png,gone.png,bad,0\n", encoding="utf-8")
    done = run("data", "validate", listing, "--where", "score > 0.5", "--root", tmp_path)
    assert (done.code, "1 file, 2 rows: 1 pair, 0 ties, 0 without a label, 1 left out by data.where" in done.out) == (0, True), done.out
    assert run("data", "validate", listing, "--root", tmp_path).code == 2


REFUSALS = {
    "a misspelt key": (["train.step=3"], "did you mean 'train.steps'"),
    "a model that is not there": (["model.path=/nowhere/at/all"], "/nowhere/at/all"),
    "pairs that are not there": (["data.path=/nowhere.parquet"], "/nowhere.parquet"),
    "too few pairs for a step": (["train.pairs_per_step=4000"], "4000"),
    "too many broken rows": (["data.max_rejected_fraction=0"], "1 of"),
    "ties as errors": (["data.ties=error"], "label"),
    "a picture size that the VAE cannot halve": (["data.resolution=9"], "resolution"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_one_line_and_exit_two(case: str, run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    overrides, words = REFUSALS[case]
    done = run("train", "sd15-inpo", *small(tiny_pipeline, pairs_file), *overrides, "--out", tmp_path / "run")
    assert done.code == 2
    said = done.err.splitlines()
    assert words in done.err
    assert sum(line.startswith("error: ") for line in said) == 1
    assert "Traceback" not in done.err


def test_a_folder_of_another_run_is_refused(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """A second run into the same folder needs --force or --resume; a foreign folder is never touched; an absent checkpoint is an error."""
    settings = small(tiny_pipeline, pairs_file, "sft")
    assert run("train", "sd15-sft", *settings, "--out", tmp_path / "run").code == 0
    refused = run("train", "sd15-sft", *settings, "--out", tmp_path / "run")
    assert (refused.code, "--resume latest" in refused.err) == (2, True)
    assert run("train", "sd15-sft", *settings, "--out", tmp_path / "run", "--force").code == 0
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "model").write_text("mine")
    assert run("train", "sd15-sft", *settings, "--out", tmp_path / "thesis", "--force").code == 2
    assert (tmp_path / "thesis" / "model").read_text() == "mine"
    absent = run("train", "sd15-sft", *settings, "--out", tmp_path / "run", "--resume", tmp_path / "run" / "checkpoints" / "step-000099")
    assert (absent.code, "step-000099" in absent.err) == (2, True)


def test_a_refused_first_try_does_not_block_the_second(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """A wrong path leaves nothing that took work: the corrected command runs into the same folder as it stands."""
    settings = small(tiny_pipeline, pairs_file, "sft")
    assert run("train", "sd15-sft", *settings, "data.path=/nowhere.parquet", "--out", tmp_path / "run").code == 2
    assert run("train", "sd15-sft", *settings, "data.max_rejected_fraction=0", "--out", tmp_path / "run").code == 2
    done = run("train", "sd15-sft", *settings, "--out", tmp_path / "run")
    assert done.code == 0, done.err


def test_a_foreign_folder_is_refused_whatever_it_holds(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.md").write_text("mine")
    refused = run("train", "sd15-sft", *small(tiny_pipeline, pairs_file, "sft"), "--out", tmp_path, "--force")
    assert (refused.code, "thesis.md" in refused.err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.md"]


def test_an_interruption_saves_and_says_how_to_go_on(
    run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM after the first step: exit 143, the whole command to continue; it continues. In Python a script stops there."""
    settings = small(tiny_pipeline, pairs_file, "sft", "train.sample_every_steps=1")
    monkeypatch.setattr(alignment.SampleGrid, "__call__", lambda self, step: os.kill(os.getpid(), signal.SIGTERM) if step == 1 else None)
    stopped = run("train", "sd15-sft", *settings, "--out", tmp_path / "run")
    assert stopped.code == 143
    assert "train.sample_every_steps=1 --out" in stopped.err
    monkeypatch.setattr(alignment.SampleGrid, "__call__", lambda self, step: None)
    assert run("train", "sd15-sft", *settings, "--out", tmp_path / "run", "--resume", "latest").code == 0
    monkeypatch.setattr(alignment.SampleGrid, "__call__", lambda self, step: os.kill(os.getpid(), signal.SIGINT))
    stopped = run("train", "sd15-sft", *settings, "--out", tmp_path / "run", "--force")
    assert stopped.code == 130
    assert re.search(r"nothing is saved, and the earlier run is as it was; start again with: .* --force$", stopped.err.strip())
    assert (tmp_path / "run" / "model").is_dir()
    with pytest.raises(KeyboardInterrupt, match="the untrained start is saved"):
        inpo.train(inpo.recipe("sd15-sft", settings), tmp_path / "python")


@pytest.mark.parametrize("held", [False, True])
def test_before_training_an_interruption_is_told_too(
    held: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_pipeline: Path, pairs_file: Path
) -> None:
    """Ctrl-C while the model loads: exit 130, one line with the command to type, and checkpoints of an earlier process as they were."""
    settings, out = small(tiny_pipeline, pairs_file, "sft"), tmp_path / "run"
    if held:
        assert run("train", "sd15-sft", *settings, "--out", out).code == 0

    def interrupt(*ignored: object, **settings: object) -> None:
        raise KeyboardInterrupt

    for module in (alignment, compose):
        monkeypatch.setattr(module, "load", interrupt)
    stopped = run("train", "sd15-sft", *settings, "--out", out, *(["--resume", "latest"] if held else []))
    [line] = [line for line in stopped.err.splitlines() if line.startswith("interrupted")]
    assert stopped.code == 130
    assert line.endswith("--resume latest" if held else f"--out {out}")
    assert ("the checkpoints in" in line, "nothing to save" in line) == (held, not held)
    (tmp_path / "prompts.txt").write_text("a cat\n")
    command = ("generate", "--model", tiny_pipeline, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "pictures")
    stopped = run(*command, "--force")
    assert (stopped.code, "0 pictures are kept in" in stopped.err, "--force" in stopped.err) == (130, True, False)


def test_wandb_that_is_not_installed_is_found_before_anything_is_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 2 and the line to type, in a dry run too."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    for more in ((), ("--dry-run",)):
        refused = run("train", "world-inpo", "report_to=[wandb]", "--out", tmp_path / "run", *more)
        assert (refused.code, "pip install 'inpo[wandb]'" in refused.err) == (2, True)
    assert not (tmp_path / "run").exists()
