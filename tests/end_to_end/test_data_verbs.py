"""`inpo data import`, `generate`, `score` and `validate` through the real entrance: what they write trains a model; they can be stopped."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from inpo.data.config import DataConfig
from inpo.data.sources import ParquetPairs
from inpo.generation import GenerationConfig
from inpo.verbs import onpolicy
from inpo.verbs.onpolicy import OnPolicy, generate_pairs
from inpo.world.oracle import OracleScorer
from tests.end_to_end.conftest import Run, small
from tests.unit.data import making
from tests.unit.data.importing.annotations import hpdv3, imagereward, pictures, write_json
from tests.unit.data.test_singles import as_folders
from tests.unit.data.test_singles import as_jsonl as as_opinions


def test_imported_rankings_are_valid_and_train(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Four pictures in ImageRewardDB's rows: six pairs, a broken row listed; validate finds nothing, and InPO takes two steps."""
    pictures(tmp_path / "images", [f"{i}.png" for i in range(4)])
    rows = [imagereward(f"{i}.png", i + 1, "a") for i in range(4)] + [imagereward("gone.png", 1, "b")]
    out = tmp_path / "pairs.parquet"
    command = ("data", "import", write_json(tmp_path / "train.json", rows), "--images", tmp_path / "images", "--out", out)
    refused = run(*command)
    assert (refused.code, "train.json, row 4, image_path: there is no such file" in refused.err, out.exists()) == (2, True, False)
    done = run(*command, "--max-rejected-fraction", 0.3)
    assert (done.code, "pairs: 6, ties: 0, from rows of imagereward: 5" in done.out, "1 × image_path" in done.out) == (0, True, True), (
        done.err
    )
    assert run("data", "validate", out).code == 0
    trained = run("train", "world-inpo", *small(tiny_pipeline, out, "inpo", "data.validation_fraction=0"), "--out", tmp_path / "run")
    assert trained.code == 0, trained.err
    again = run(*command)
    assert (again.code, "--force" in again.err) == (2, True)
    assert run(*command, "--max-rejected-fraction", 0.3, "--pairs", "best-worst", "--force").code == 0
    assert pq.read_metadata(out).num_rows == 1


def test_a_shape_that_is_not_known_is_one_line(run: Run, tmp_path: Path) -> None:
    refused = run(
        "data", "import", write_json(tmp_path / "a.json", [hpdv3(["a", "b"])]), "--format", "hpdv4", "--out", tmp_path / "p.parquet"
    )
    assert (refused.code, len(refused.err.splitlines()), "did you mean 'hpdv3'" in refused.err) == (2, 1, True)


def test_pairs_of_the_worlds_own_pictures(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Winners score higher with the oracle, asked again on the bytes in the file; the file is valid and trains InPO for two steps."""
    out = tmp_path / "pairs.parquet"
    command = (
        "data",
        "generate",
        "--model",
        "world",
        "--prompts",
        "world:train",
        "--scorer",
        "world:oracle",
        "--steps",
        2,
        "--guidance",
        3,
    )
    done = run(*command, "--limit", 4, "--samples", 4, "--pairs", "adjacent", "--out", out)
    assert done.code == 0, done.err
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 12
    for row in rows:
        shown = [torch.from_numpy(np.array(Image.open(io.BytesIO(row[name])))) for name in ("jpg_0", "jpg_1")]
        scores = OracleScorer().score(shown, [row["caption"]] * 2)
        torch.testing.assert_close(scores, torch.tensor([row["score_0"], row["score_1"]]))
        assert row["label_0"] == float(scores[0] > scores[1])
    assert run("data", "validate", out).code == 0
    soft = ParquetPairs.open(DataConfig(str(out), score_columns=("score_0", "score_1")))
    assert [soft[i].win for i in range(soft.size)] == [row["jpg_0"] if row["label_0"] else row["jpg_1"] for row in rows]
    trained = run("train", "world-inpo", *small(tiny_pipeline, out, "inpo", "data.validation_fraction=0"), "--out", tmp_path / "run")
    assert trained.code == 0, trained.err


def test_ctrl_c_says_how_to_go_on_and_the_pairs_are_those_of_one_go(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """130 after a first batch; the same command makes the rest. One go, and batches of another size, give the same file."""
    (tmp_path / "prompts.txt").write_text(
        "a small red square on a white background\na red circle above a blue square on a black background\n"
    )
    command = ("data", "generate", "--model", "world", "--prompts", tmp_path / "prompts.txt", "--scorer", "world:oracle", "--steps", 2)
    out, config = tmp_path / "stopped.parquet", GenerationConfig(steps=2, samples=4, batch=3)
    monkeypatch.setattr(onpolicy, "bar", interrupting)
    with pytest.raises(KeyboardInterrupt):
        generate_pairs(OnPolicy("world", str(tmp_path / "prompts.txt"), "world:oracle", generation=config), out)
    stopped = run(*command, "--out", tmp_path / "other.parquet")
    assert (stopped.code, "the same command goes on from there" in stopped.err, "Traceback" in stopped.err) == (130, True, False)
    monkeypatch.undo()
    made = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "stopped.work" / "pictures").glob("*.png")}
    assert len(made) == 3
    assert not out.exists()
    assert run(*command, "--out", out).code == 0
    assert all((tmp_path / "stopped.work" / "pictures" / name).stat().st_mtime_ns == time for name, time in made.items())
    assert run(*command, "--out", tmp_path / "whole.parquet").code == 0
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def interrupting(title: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        raise KeyboardInterrupt

    return show


def test_other_settings_need_force(run: Run, tmp_path: Path) -> None:
    """Pictures of another seed are not mixed in: refused, or made anew with --force. A prompt that the oracle cannot judge comes first."""
    (tmp_path / "prompts.txt").write_text("a small red square on a white background\n")
    command = ("data", "generate", "--model", "world", "--prompts", tmp_path / "prompts.txt", "--scorer", "world:oracle", "--steps", 2)
    out = tmp_path / "pairs.parquet"
    assert run(*command, "--out", out).code == 0
    before = out.read_bytes()
    out.unlink()
    refused = run(*command, "--seed", 1, "--out", out)
    assert (refused.code, "seed 0 → 1" in refused.err) == (2, True)
    assert run(*command, "--seed", 1, "--out", out, "--force").code == 0
    assert out.read_bytes() != before
    (tmp_path / "prompts.txt").write_text("a cat\n")
    refused = run(*command, "--out", tmp_path / "cat.parquet")
    assert (refused.code, "a cat" in refused.err, (tmp_path / "cat.work").exists()) == (2, True, False)


def test_margin_and_near_ties_are_options(run: Run, tmp_path: Path) -> None:
    """Under a margin that no two scores reach every pair is a near tie: dropped, or kept with the label ½. Pictures and scores stay."""
    (tmp_path / "prompts.txt").write_text("a small red square on a white background\n")
    command = ("data", "generate", "--model", "world", "--prompts", tmp_path / "prompts.txt", "--scorer", "world:oracle", "--steps", 2)
    command += ("--samples", 3, "--pairs", "all", "--out", tmp_path / "o.parquet", "--force")
    dropped = run(*command, "--margin", 1000)
    assert (dropped.code, "no pair came of 3 pictures: 3 near ties" in dropped.err) == (2, True), dropped.err
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "o.work" / "pictures").glob("*.png")}
    for options, labels in ((("--margin", 1000, "--near-ties", "half"), {0.5}), ((), {0.0, 1.0})):
        done = run(*command, *options)
        assert done.code == 0, done.err
        rows = pq.read_table(tmp_path / "o.parquet").to_pylist()
        assert (len(rows), {row["label_0"] for row in rows} | {row["label_1"] for row in rows}) == (3, labels)
    assert {file: file.stat().st_mtime_ns for file in made} == made


def test_per_caption_is_an_option(run: Run, tmp_path: Path) -> None:
    """Two liked and three disliked pictures of one caption: six pairs at the most, or as many as are asked for."""
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(making.png(i))
    rows = [{"image": f"{i}.png", "caption": "a circle", "label": i < 2} for i in range(5)]
    path = write_json(tmp_path / "likes.json", rows)
    for options, pairs in (((), 6), (("--per-caption", 2), 2)):
        assert run("data", "import", path, "--out", tmp_path / "o.parquet", "--force", *options).code == 0
        assert pq.read_metadata(tmp_path / "o.parquet").num_rows == pairs


def test_scored_pairs_train_smpo_and_dpo(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Through the world's second scorer: what `inpo data score` prints is what training needs. Scored twice is refused without --force."""
    pairs, out = making.write(tmp_path / "pairs.parquet", [making.row(i) for i in range(12)]), tmp_path / "scored.parquet"
    command = ("data", "score", pairs, "--scorer", "world:clip", "--out", out)
    done = run(*command)
    assert done.code == 0, done.err
    assert "pairs scored by world:clip: 12" in done.out
    columns = re.search(r"data\.score_columns=\[\w+,\w+\]", done.out)
    assert columns is not None
    assert run("data", "validate", out, "--score-columns", "score_0,score_1").code == 0
    for method in ("smpo", "diffusion-dpo"):
        settings = small(tiny_pipeline, out, method, columns[0], "data.validation_fraction=0")
        trained = run("train", "world-inpo", *settings, "--out", tmp_path / method)
        assert trained.code == 0, trained.err
        losses = [json.loads(line)["loss"] for line in (tmp_path / method / "metrics.jsonl").read_text().splitlines()]
        # Policy and reference are one before the first step: however sure a pair is, it costs log 2.
        assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
        assert len(losses) == 2
        assert math.isfinite(losses[1])
    assert yaml.safe_load((tmp_path / "smpo" / "config.yaml").read_text())["data"]["score_columns"] == ["score_0", "score_1"]
    again = run(*command)
    assert (again.code, "--force" in again.err) == (2, True)
    assert run(*command, "--force").code == 0


def test_a_scoring_that_is_stopped_says_how_to_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = making.write(tmp_path / "pairs.parquet", [making.row(i) for i in range(4)])

    def stop(*_: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr("inpo.evaluation.rewards.pickscore.PickScore.score", stop)
    stopped = run("data", "score", pairs, "--scorer", "world:clip", "--out", tmp_path / "out.parquet")
    assert (stopped.code, stopped.err) == (130, "interrupted; the scores so far are kept, and the same command goes on from there\n")


def test_single_pictures_are_validated_and_train_kto(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """A listing and two folders: counted as what they are, trained on with one picture an example; a bad label is a problem, by row."""
    listing = as_opinions(tmp_path / "listing")
    for path in (listing, as_folders(tmp_path / "folders")):
        done = run("data", "validate", path)
        assert (done.code, "8 single pictures, 6 desired, 0 without a label" in done.out) == (0, True), done.out
    trained = run(
        "train", "world-inpo", *small(tiny_pipeline, listing, "diffusion-kto", "data.validation_fraction=0"), "--out", tmp_path / "run"
    )
    assert trained.code == 0, trained.err
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (line["unet_forwards_per_pair"], line["lose_error"], line["implicit_accuracy"]) == (2, None, None)
    refused = run("train", "world-inpo", *small(tiny_pipeline, listing, "inpo"), "--out", tmp_path / "refused")
    assert (refused.code, len(refused.err.splitlines()), "method.name=diffusion-kto" in refused.err) == (2, 2, True), refused.err
    listing.write_text(listing.read_text() + '\n{"image": "0.png", "caption": "x", "label": "good"}')
    found = run("data", "validate", listing)
    assert (found.code, "opinions.jsonl, row 8, label: is not one of true, 1, 1.0, like" in found.out) == (2, True)
