"""`inpo score --pairs`: the preferred picture should have the larger score, over all t and by t, on pairs that were not trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from inpo import compose
from inpo.config import load_experiment
from inpo.data.order import held_out
from inpo.errors import InputError
from inpo.evaluation.accuracy import Accuracy, read_accuracy
from inpo.verbs import alignment, pair_accuracy
from inpo.verbs.pair_accuracy import PairScoring, lines, measure_accuracy
from inpo.world.pairs import WorldPairs
from tests.end_to_end.conftest import small
from tests.unit.data import making
from tests.unit.evaluation.conftest import Brightness


class ByTime(Brightness):
    """Brightness at t = 0.25 and its opposite at t = 0.75, three times as strong."""

    t = (0.25, 0.75)
    part_count = 2

    def by_time(self, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        score = self.score(images, prompts)
        return torch.stack([score, -3 * score], dim=1).double()


def flat(level: int) -> bytes:
    return making.encoded(making.noise_picture(0) * 0 + level)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Four pairs: the brighter picture is preferred in three of them, in either column; a tie is left out."""
    shades = [(200, 100, 1.0), (50, 150, 0.0), (90, 10, 1.0), (240, 20, 0.0), (30, 60, 0.5)]
    rows = [
        making.row(i, jpg_0=flat(a), jpg_1=flat(b), label_0=label, label_1=1 - label, caption=f"prompt {i}")
        for i, (a, b, label) in enumerate(shades)
    ]
    return making.write(tmp_path / "pairs.parquet", rows)


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> dict[str, Brightness]:
    found = {"bright": Brightness("bright"), "timed": ByTime("timed")}
    monkeypatch.setattr(pair_accuracy, "scorer", lambda name: found[name])
    return found


def measure(pairs: Path | str, *names: str, out: Path, force: bool = False, limit: int = 512) -> Accuracy:
    return measure_accuracy(PairScoring(names, str(pairs), limit), out, force=force)


@pytest.mark.usefixtures("judges")
def test_shares_over_all_t_and_by_t(pairs: Path, tmp_path: Path) -> None:
    """Gaps of brightness +100, +100, +80, −220 of 255: three of four right, at t = 0.25; at 0.75 their opposites; over all −1 times."""
    found = measure(pairs, "bright", "timed", out=tmp_path / "a.json")
    bright, timed = found.scorers["bright"], found.scorers["timed"]
    assert (found.n, bright.overall.accuracy, bright.by_t, found.attainable) == (4, 0.75, (), None)
    assert bright.overall.gap == pytest.approx(60 / 4 / 255, abs=1e-6)
    assert [(part.k, part.t, part.agreement.accuracy) for part in timed.by_t] == [(1, (0.25,), 0.75), (2, (0.75,), 0.25)]
    assert (timed.overall.accuracy, timed.overall.gap) == (0.25, pytest.approx(-60 / 4 / 255, abs=1e-6))
    assert read_accuracy(tmp_path / "a.json") == found
    assert "<h1>" in (tmp_path / "a.html").read_text(encoding="utf-8")
    said = list(lines(found))
    assert said[0] == f"4 pairs of {pairs}"
    assert said[1].startswith("bright: accuracy 0.750 [0.301, 0.954], mean gap +0.0588 [")
    assert "  k = 1, t = 0.25: 0.750 [0.301, 0.954]" in said


def test_what_was_scored_is_kept(judges: dict[str, Brightness], pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the first pair, the next call is shown three; a third one none; half a line of a killed call is scored again."""
    monkeypatch.setattr(pair_accuracy, "TOGETHER", 1)
    judge, whole = judges["bright"], judges["bright"].score

    def once(images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
        if judge.shown:
            raise KeyboardInterrupt
        return whole(images, prompts)

    monkeypatch.setattr(judge, "score", once)
    with pytest.raises(KeyboardInterrupt):
        measure(pairs, "bright", out=tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()
    monkeypatch.setattr(judge, "score", whole)
    first = measure(pairs, "bright", out=tmp_path / "a.json")
    assert judge.shown == 8
    kept = tmp_path / "a.pairs.jsonl"
    assert {line["scorer"] for line in map(json.loads, kept.read_text().splitlines())} == {"bright"}
    kept.write_text(kept.read_text()[:-20])
    assert measure(pairs, "bright", out=tmp_path / "a.json") == first
    assert judge.shown == 10
    assert len(kept.read_text().splitlines()) == 4
    measure(pairs, "bright", out=tmp_path / "a.json", force=True)
    assert judge.shown == 18


def judged(path: Path, *labels: float) -> Path:
    """Rows that judge the same two pictures for the same caption, 200 against 100 bright; a label of 1 prefers the brighter one."""
    pictures = {"jpg_0": flat(200), "jpg_1": flat(100), "caption": "a cat"}
    return making.write(path, [making.row(i, **pictures, label_0=label, label_1=1 - label) for i, label in enumerate(labels)])


@pytest.mark.usefixtures("judges")
def test_a_pair_that_was_judged_both_ways_is_right_once(tmp_path: Path) -> None:
    """Both rows have one id. Whoever prefers the brighter picture agrees with one of them: ½, with gaps that cancel."""
    found = measure(judged(tmp_path / "pairs.parquet", 1.0, 0.0), "bright", "timed", out=tmp_path / "a.json")
    assert [(scorer.overall.accuracy, scorer.overall.gap) for scorer in found.scorers.values()] == [(0.5, 0.0), (0.5, 0.0)]
    assert (found.n, [part.agreement.accuracy for part in found.scorers["timed"].by_t]) == (2, [0.5, 0.5])


def test_a_pair_that_was_labelled_anew_is_judged_by_its_new_label(judges: dict[str, Brightness], tmp_path: Path) -> None:
    """The second call, of the same file and `out`, finds scores of the other orientation; a third one asks nobody."""
    before = measure(judged(tmp_path / "pairs.parquet", 1.0), "bright", out=tmp_path / "a.json").scorers["bright"]
    after = measure(judged(tmp_path / "pairs.parquet", 0.0), "bright", out=tmp_path / "a.json").scorers["bright"]
    assert (before.overall.accuracy, after.overall.accuracy) == (1.0, 0.0)
    assert before.overall.gap == -after.overall.gap > 0
    shown = judges["bright"].shown
    measure(judged(tmp_path / "pairs.parquet", 1.0), "bright", out=tmp_path / "a.json")
    assert judges["bright"].shown == shown


def test_scores_without_a_winner_are_not_read(judges: dict[str, Brightness], pairs: Path, tmp_path: Path) -> None:
    """Lines of an earlier version may be of either orientation: they are scored again, and leave the file."""
    first, kept = measure(pairs, "bright", out=tmp_path / "a.json"), tmp_path / "a.pairs.jsonl"
    old = [json.loads(line) for line in kept.read_text().splitlines()]
    for line in old:
        del line["winner"]
        line["win"], line["lose"] = line["lose"], line["win"]
    kept.write_text("".join(json.dumps(line) + "\n" for line in old))
    assert measure(pairs, "bright", out=tmp_path / "a.json") == first
    assert judges["bright"].shown == 16
    assert all("winner" in json.loads(line) for line in kept.read_text().splitlines())


@pytest.mark.usefixtures("judges")
def test_only_as_many_as_asked_for(pairs: Path, tmp_path: Path) -> None:
    assert measure(pairs, "bright", out=tmp_path / "a.json", limit=2).n == 2


def test_a_score_that_is_none_leaves_its_pair_out(judges: dict[str, Brightness], pairs: Path, tmp_path: Path) -> None:
    judges["bright"]._nan_level = 240
    found = measure(pairs, "bright", out=tmp_path / "a.json").scorers["bright"]
    assert (found.excluded, found.overall.n, found.overall.accuracy) == (1, 3, 1.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Path:
    """A run on thirty pairs, of which some are held out."""
    folder = tmp_path_factory.mktemp("held-out")
    file = making.write(folder / "pairs.parquet", [making.row(i) for i in range(30)])
    experiment = load_experiment("sd15-inpo", small(tiny_pipeline, file, "inpo", "optimizer.lr=0.01", "data.validation_fraction=0.2"))
    alignment.train(experiment, folder / "run")
    return folder / "run"


def test_held_out_pairs_are_those_that_the_run_did_not_train_on(run: Path, tmp_path: Path) -> None:
    """By the hash of their ids, as in training; with an implicit scorer: ten parts, and each pair's scores by t beside the result."""
    found = measure(f"held-out:{run}", f"implicit:{run}", out=tmp_path / "a.json")
    source = compose.open_pairs(str(run.parent / "pairs.parquet"))
    expected = {source[i].id for i in range(30) if held_out(source[i].id, 0.2)}
    kept = [json.loads(line) for line in (tmp_path / "a.pairs.jsonl").read_text().splitlines()]
    assert {line["pair"] for line in kept} == expected
    assert found.n == len(expected) > 1
    judge = found.scorers[f"implicit:{run}"]
    assert [part.t for part in judge.by_t] == [(50.0 + 100 * i,) for i in range(10)]
    assert {len(line["win"]) for line in kept} == {10}
    gap = sum(sum(line["win"]) / 10 - sum(line["lose"]) / 10 for line in kept) / len(kept)
    assert judge.overall.gap == pytest.approx(gap)


def test_pairs_behind_single_pictures_are_measured(
    run: Path, tmp_path: Path, judges: dict[str, Brightness], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A KTO run that learned from one picture of each pair (data.positive_ratio) held out the same pairs, both pictures of each."""
    kto = tmp_path / "kto"
    kto.mkdir()
    (kto / "model").symlink_to(run / "model")
    pairs = run.parent / "pairs.parquet"
    settings = small(Path(str(run)), pairs, "diffusion-kto", "data.validation_fraction=0.2", "data.positive_ratio=0.8")
    (kto / "config.yaml").write_text(load_experiment("sd15-kto", settings).to_yaml())
    found = [measure(f"held-out:{each}", "bright", out=tmp_path / f"{each.name}.json") for each in (kto, run)]
    assert found[0].scorers == found[1].scorers
    assert found[0].n > 1


def test_of_pairs_without_end_come_those_after_the_last_trained_on(run: Path, tmp_path: Path, judges: dict[str, Brightness]) -> None:
    """Two steps of four pairs on the world's own: pairs 8 and 9 come first. Nobody can agree with all labels that chance has drawn."""
    world = tmp_path / "world"
    world.mkdir()
    (world / "model").symlink_to(run / "model")
    text = (run / "config.yaml").read_text().replace(str(run.parent / "pairs.parquet"), "world:pairs")
    (world / "config.yaml").write_text(text)
    found = measure(f"held-out:{world}", "bright", out=tmp_path / "a.json", limit=2)
    kept = [json.loads(line)["pair"] for line in (tmp_path / "a.pairs.jsonl").read_text().splitlines()]
    assert kept == [WorldPairs()[8].id, WorldPairs()[9].id]
    assert found.attainable is not None
    assert 0.5 < found.attainable <= 1
    assert judges["bright"].shown == 4
    # Labels that a scorer made were not drawn by chance.
    scored = yaml.safe_load(text)
    scored["data"] |= {"scorer": "world:clip", "score_range": [13.0, 21.0]}
    (world / "config.yaml").write_text(yaml.safe_dump(scored))
    assert measure(f"held-out:{world}", "bright", out=tmp_path / "b.json", limit=2).attainable is None


def test_the_oracle_agrees_as_often_as_anybody_can(tmp_path: Path) -> None:
    """Of 200 of the world's pairs, its accuracy is the attainable one to three deviations of a share (3 √(p(1−p)/200) = 0.08)."""
    found = measure("world:pairs", "world:oracle", out=tmp_path / "a.json", limit=200)
    assert found.attainable is not None
    assert abs(found.scorers["world:oracle"].overall.accuracy - found.attainable) < 0.08


@pytest.mark.usefixtures("judges")
def test_what_cannot_be_measured(pairs: Path, run: Path, tmp_path: Path) -> None:
    """A file of another result, names that no result has, single pictures, a run that held nothing out: one line each."""
    measure(pairs, "bright", out=tmp_path / "a.json")
    with pytest.raises(InputError, match=r"a\.json holds the accuracy of bright on .*pairs\.parquet; choose another file"):
        measure(pairs, "timed", out=tmp_path / "a.json")
    with pytest.raises(InputError, match=r"accuracy on pairs is written as JSON; name a file that ends in \.json, like"):
        measure(pairs, "bright", out=tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"is a folder; name the file to write, like .*accuracy\.json"):
        measure(pairs, "bright", out=tmp_path)
    with pytest.raises(InputError, match="--limit=0 must be a whole number of at least 1"):
        PairScoring(("bright",), "x", 0)
    single = tmp_path / "single"
    for side in ("liked", "disliked"):
        (single / side).mkdir(parents=True)
        (single / side / f"{side}.png").write_bytes(making.png(len(side)))
        (single / side / f"{side}.txt").write_text("a cat")
    with pytest.raises(InputError, match="a single picture, and accuracy is of pairs: give pairs of two pictures"):
        measure(single, "bright", out=tmp_path / "b.json")
    none = tmp_path / "none"
    none.mkdir()
    (none / "model").symlink_to(run / "model")
    (none / "config.yaml").write_text((run / "config.yaml").read_text().replace("validation_fraction: 0.2", "validation_fraction: 0.0"))
    with pytest.raises(InputError, match=r"that run held no pairs out \(data.validation_fraction=0\); name a file of pairs"):
        measure(f"held-out:{none}", "bright", out=tmp_path / "b.json")


def test_prompts_that_a_scorer_cannot_judge_are_named_by_row(judges: dict[str, Brightness], pairs: Path, tmp_path: Path) -> None:
    def check(prompts: Sequence[str]) -> None:
        if prompts == ["prompt 2"]:
            raise InputError("no")

    judges["bright"].check_prompts = check  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="row 2: no"):
        measure(pairs, "bright", out=tmp_path / "a.json")
