"""Data and method that do not go together are refused at the entrance, in one line that names the key and what to use instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpo.config import Experiment, load_experiment
from inpo.errors import InputError
from inpo.verbs.alignment import train
from inpo.verbs.plan import describe
from tests.unit.data.layouts import as_parquet
from tests.unit.data.test_singles import as_folders, as_jsonl

SCORES = "data.score_columns=[score_0,score_1]"
SCORER = ["data.scorer=world:clip", "data.score_range=[13,21]"]


def experiment(*overrides: str) -> Experiment:
    """On the world's model and two steps."""
    return load_experiment("world-dpo", ["train.steps=2", "optimizer.warmup_steps=0", "train.pairs_per_step=2", *overrides])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.positive_ratio=0.8"], ["data.positive_ratio=0.8", "method.name='diffusion-dpo'", "method.name=diffusion-kto"]),
        (["method.name=inpo", "data.positive_ratio=0.8"], ["data.positive_ratio=0.8", "method.name='inpo'"]),
        (["method.name=diffusion-kto", "data.positive_ratio=0"], ["data.positive_ratio=0", "between 0 and 1"]),
        (["method.name=diffusion-kto", "data.positive_ratio=1.0"], ["data.positive_ratio=1.0", "between 0 and 1"]),
        (["method.name=diffusion-kto", "data.positive_ratio=.nan"], ["data.positive_ratio=nan", "between 0 and 1"]),
        (["method.name=smpo"], ["method.name='smpo'", "data.score_columns", "data.scorer and data.score_range"]),
        (["method.name=sft", SCORES], ["data.score_columns", "method.name='sft'", "leave it null"]),
        (["method.name=sft", *SCORER], ["data.scorer", "method.name='sft'", "leave it null"]),
        ([SCORES, *SCORER], ["data.scorer='world:clip'", "data.score_columns=['score_0', 'score_1']", "set one of them"]),
        (["data.scorer=world:clip"], ["data.scorer='world:clip'", "data.score_range=[low, high]"]),
        (
            ["method.name=diffusion-kto", "data.positive_ratio=0.8", "train.keep_best=validation.margin"],
            ["train.keep_best='validation.margin'", "nothing that this method measures"],
        ),
        (["data.score_range=[0,1]"], ["data.score_range=[0.0, 1.0]", "set data.score_columns or data.scorer"]),
        ([SCORES, "data.score_range=[1,0]"], ["data.score_range=[1.0, 0.0]", "the lower one first"]),
        ([SCORES, "data.score_range=[0,.inf]"], ["data.score_range=[0.0, inf]", "two finite numbers"]),
        (["data.score_columns=[a,a]"], ["data.score_columns=['a', 'a']", "two different columns"]),
    ],
)
def test_settings_that_do_not_suit_the_method(overrides: list[str], said: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        experiment(*overrides)
    assert "\n" not in str(caught.value)
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "compares two: use method.name=diffusion-kto, or give pairs"),
        (["method.name=sft"], "method.name='sft' compares two"),
        (["method.name=diffusion-kto", "data.positive_ratio=0.8"], "data.positive_ratio=0.8 makes such of pairs: leave it null"),
        (["method.name=diffusion-kto", SCORES], "data.score_columns compares the two pictures of a pair: leave it null"),
        (["method.name=smpo", *SCORER], "data.scorer compares the two pictures of a pair: leave it null"),
    ],
)
def test_single_pictures_where_pairs_are_wanted(tmp_path: Path, overrides: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the dry run and by the run, before a picture is decoded or a weight is read."""
    monkeypatch.setattr("inpo.data.index.scan", lambda *_, **__: pytest.fail("rows were examined"))
    monkeypatch.setattr("inpo.verbs.alignment.load", lambda *_: pytest.fail("weights were read"))
    for path in (as_jsonl(tmp_path / "a"), as_folders(tmp_path / "b")):
        made = experiment(f"data.path={path}", *overrides)
        for refused in (lambda made=made: describe(made), lambda made=made: train(made, tmp_path / "run")):
            with pytest.raises(InputError, match="single pictures, each with a label of its own") as caught:
                refused()
            assert said in str(caught.value)
            assert f"data.path={path}" in str(caught.value)


def test_pairs_and_single_pictures_do_not_mix(tmp_path: Path) -> None:
    """In one glob, and in one folder of folders."""
    as_jsonl(tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"win": "0.png", "lose": "1.png", "caption": "x"}\n')
    with pytest.raises(InputError, match=r"opinions\.jsonl holds single pictures and .*pairs\.jsonl pairs; name those of one kind"):
        describe(experiment(f"data.path={tmp_path}/*.jsonl", "method.name=diffusion-kto"))
    as_folders(tmp_path / "set")
    for side in ("win", "lose"):
        (tmp_path / "set" / side).mkdir()
        (tmp_path / "set" / side / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match="the folder holds both liked/ and disliked/ and sides of pairs; name one of them"):
        describe(experiment(f"data.path={tmp_path / 'set'}", "method.name=diffusion-kto"))
    (tmp_path / "half" / "liked").mkdir(parents=True)
    (tmp_path / "half" / "liked" / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match="the folder holds liked/ but nothing in disliked/"):
        describe(experiment(f"data.path={tmp_path / 'half'}", "method.name=diffusion-kto"))


def test_single_pictures_have_no_margin_to_watch(tmp_path: Path) -> None:
    """Known when the data are opened: by the dry run, and by the run before its first step."""
    path = as_jsonl(tmp_path / "a")
    made = experiment(
        f"data.path={path}",
        "method.name=diffusion-kto",
        "data.validation_fraction=0.4",
        "train.early_stop={metric: validation.implicit_accuracy}",
    )
    for refused in (lambda: describe(made), lambda: train(made, tmp_path / "run")):
        with pytest.raises(
            InputError, match=r"train\.early_stop\.metric='validation\.implicit_accuracy' is nothing that this method measures"
        ):
            refused()


def test_the_dry_run_counts_pictures_and_half_the_forwards(tmp_path: Path) -> None:
    """Of single pictures the network sees one where of a pair it sees two."""
    base = ["method.name=diffusion-kto", "data.validation_fraction=0"]
    single = describe(experiment(f"data.path={as_jsonl(tmp_path / 'a')}", *base))
    pairs = describe(experiment(f"data.path={as_parquet(tmp_path / 'b', 8)}", *base))
    out_of_pairs = describe(experiment(f"data.path={tmp_path / 'b' / 'pairs.parquet'}", "data.positive_ratio=0.8", *base))
    for text in (single, out_of_pairs):
        assert "single pictures    8 to train on, 0 held out, 0 rejected; 4 used" in text
        assert "UNet per picture   1 train + 1 reference + 0 inversion" in text
    assert "pairs              8 to train on, 0 held out, 0 rejected; 4 used" in pairs
    assert "UNet per pair      2 train + 2 reference + 0 inversion" in pairs


def test_settings_of_scores_survive_the_file(tmp_path: Path) -> None:
    """config.yaml holds them, and an experiment read from it is the same."""
    made = experiment("method.name=smpo", SCORES, "data.score_range=[0.1,0.3]", f"data.path={tmp_path}")
    assert made.data.score_columns == ("score_0", "score_1")
    (tmp_path / "config.yaml").write_text(made.to_yaml())
    assert load_experiment(str(tmp_path / "config.yaml")) == made
