"""The run folder through the real entrance: what is in it, and what --force does to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpo.training.run import CONTENTS
from tests.end_to_end.conftest import Run, small
from tests.unit.data import making

EVERYTHING = ("train.sample_every_steps=1", "report_to=[tensorboard]")

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")


def files(folder: Path) -> dict[Path, bytes]:
    """Every file's bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_all_that_a_run_writes_is_known_as_a_runs(
    run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What --force does not know it would leave for the next run to find. The list is what a run with everything on really leaves.

    What W&B leaves is in the list too, and tested with W&B. No file knows the tokens of the environment, and nothing prints them.
    """
    for name in TOKENS:
        monkeypatch.setenv(name, f"canary-{name}")
    done = run("train", "sd15-inpo", *small(tiny_pipeline, pairs_file, "inpo", *EVERYTHING), "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert run("report", tmp_path / "run").code == 0
    assert not [path for path, content in files(tmp_path / "run").items() if b"canary" in content]
    assert "canary" not in done.out + done.err
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written <= set(CONTENTS)
    assert written >= set(CONTENTS) - {"evaluation", "rejected-refused.jsonl", "wandb", "wandb.json"}


def test_repaired_pairs_replace_the_ones_that_were_refused(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Too many broken rows; the file is mended; --force then starts over them, with its own index and its own list."""
    rows = [making.row(i) for i in range(12)]
    pairs = making.write(tmp_path / "pairs.parquet", [*rows, making.row(12, caption=""), making.row(13, caption="")])
    command = ("train", "sd15-inpo", *small(tiny_pipeline, pairs), "data.max_rejected_fraction=0.1", "--out", tmp_path / "run")
    refused = run(*command)
    assert (refused.code, "2 of 14 rows are broken" in refused.err) == (2, True)
    assert len((tmp_path / "run" / "rejected.jsonl").read_text().splitlines()) == 2
    making.write(pairs, [*rows, making.row(12), making.row(13, caption="")])
    done = run(*command, "--force")
    assert done.code == 0, done.err
    assert len((tmp_path / "run" / "rejected.jsonl").read_text().splitlines()) == 1


def test_a_refused_replacement_leaves_the_earlier_run(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """Data that are not there, a model that is none: found after the folder was taken, and still nothing is lost."""
    out = tmp_path / "run"
    command = ("train", "sd15-inpo", *small(tiny_pipeline, pairs_file))
    assert run(*command, "--out", out).code == 0
    before = files(out)
    for wrong in ("data.path=/nowhere.parquet", "model.path=/nowhere/at/all", "train.pairs_per_step=4000"):
        refused = run(*command, wrong, "--out", out, "--force")
        assert (refused.code, files(out)) == (2, before)
