"""Cells are made once, anywhere, and merged by copying; what is broken is refused, what is foreign never mixed in."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inpo.comparing import Choice, compare, job, make
from inpo.comparing.cells import Cell, commits_of, read_cell, write_cell
from inpo.comparing.job import listing, look_up
from inpo.comparing.plan import Planned
from inpo.config import Experiment, load_experiment
from inpo.errors import InputError, RunFault
from inpo.evaluation.compared import read_compared
from inpo.evaluation.summary import read_summary
from inpo.training.lock import Lock
from inpo.verbs import alignment
from tests.unit.comparing.small import TREE, write


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The small comparison, whole."""
    root = tmp_path_factory.mktemp("comparison")
    file = write(root / "small.yaml")
    compare(file, root / "out")
    return file, root / "out"


def numbers(cell: Cell) -> object:
    """What must not depend on where and when a cell was made."""
    return cell.identity, cell.settings, cell.points, cell.training["drift"], cell.training["end"]


def cells(folder: Path) -> dict[str, Cell]:
    return {path.name: read_cell(path) for path in sorted((folder / "cells").glob("*.json"))}


def mean_score(runs: list[Cell]) -> float:
    """By the oracle, at the end, sampled as the table is."""
    points = [point for run in runs for point in run.points if point.key == (4, 2, 3.0)]
    return float(np.mean([point.scores["world:oracle"] for point in points]))


def test_a_whole_comparison(made: tuple[str, Path]) -> None:
    """Base, base again, two trials for each arm with a grid, and 2 + 2 + 1 runs; nothing is left in work/; pictures of one seed each."""
    file, out = made
    assert len(cells(out)) == 1 + 1 + 4 + 5
    assert list((out / "work").iterdir()) == []
    assert {path.name.split(".")[0] for path in (out / "pictures").iterdir()} == {"base", "inpo", "dpo", "shuffled"}
    lines = list(listing(look_up(file, out), Choice()))
    assert all(line.startswith("there") for line in lines[:-1])
    assert lines[-1].startswith("11 cells are there; the missing ones listed take 0 ")


def test_a_cell_says_what_it_is_made_of(made: tuple[str, Path]) -> None:
    """Both scorers and the oracle's parts for every prompt at every point; cost in network forwards counted, not estimated."""
    cell = next(cell for name, cell in cells(made[1]).items() if name.startswith("dpo.seed-0."))
    assert [point.key for point in cell.points] == [(2, 2, 3.0), (4, 2, 3.0), (4, 1, 3.0)]
    oracle = {"world:oracle", *(f"world:oracle#{part}" for part in ("fidelity", "composition", "sharpness", "contrast"))}
    assert all(set(point.scores) == {*oracle, "world:clip"} for point in cell.points)
    assert all([len(row) for row in rows] == [1] * 4 for point in cell.points for rows in point.scores.values())
    # Diffusion-DPO: two images through the policy and two through the reference for each of 4 pairs a step.
    assert [point.forwards for point in cell.points] == [2 * 16, 4 * 16, 4 * 16]
    assert cell.training["unet_forwards_per_pair"] == 4
    assert 0 < float(str(cell.training["drift"])) < 0.1
    assert {"python", "packages", "git_commit", "cpu"} <= set(cell.versions)


def test_the_best_trial_on_validation_prompts_is_chosen(made: tuple[str, Path]) -> None:
    file, out = made
    state = look_up(file, out)
    trials = state.plan.trials("inpo")
    scores = [score for score in state.trial_scores(trials) if score is not None]
    assert state.choice("inpo") == trials[scores.index(max(scores))].knobs
    assert state.choice("shuffled") == state.choice("dpo")
    runs = [cell for name, cell in cells(out).items() if name.startswith("inpo.seed-")]
    assert [run.settings["optimizer.lr"] for run in runs] == [state.choice("inpo")["optimizer.lr"]] * 2  # type: ignore[index]


def test_what_is_there_is_not_made_again(made: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a cell was made again")

    monkeypatch.setattr("inpo.comparing.job.make", refuse)
    compare(*made)


def test_two_folders_made_apart_are_one_by_copying(made: tuple[str, Path], tmp_path: Path) -> None:
    """Equal bit for bit with the folder that was made in one sitting, but for timings."""
    file, whole = made
    for cell in (whole / "cells").glob("*knobs-*.json"):
        for machine in ("a", "b"):
            (tmp_path / machine / "cells").mkdir(parents=True, exist_ok=True)
            shutil.copy(cell, tmp_path / machine / "cells")
    compare(file, tmp_path / "a", Choice(only=("inpo",), seeds=(1,)))
    compare(file, tmp_path / "b", Choice(only=("base", "shuffled")))
    shutil.copytree(tmp_path / "b" / "cells", tmp_path / "a" / "cells", dirs_exist_ok=True)
    merged, complete = cells(tmp_path / "a"), cells(whole)
    assert set(complete) - set(merged) == {name for name in complete if name.startswith(("dpo.seed", "inpo.seed-0"))}
    for name, cell in merged.items():
        if cell.role == "base":
            assert cell.points == complete[name].points
        else:
            assert numbers(cell) == numbers(complete[name])


def test_cells_of_other_settings_are_not_mixed_in(made: tuple[str, Path], tmp_path: Path) -> None:
    """The same arms at another β: of the trials and runs nothing is taken, of the base everything."""
    arms = {"inpo": {"method": "inpo", "settings": {"method.objective.beta": 400.0}}}
    state = look_up(write(tmp_path / "other.yaml", arms=arms), made[1])
    assert [state.find(cell) is not None for cell in state.planned()] == [True, True, False, False]


def test_a_cell_with_fewer_points_is_made_again(made: tuple[str, Path], tmp_path: Path) -> None:
    """And one with more is taken: the points that are asked for do not change a number."""
    evaluation = {**TREE["evaluation"]}  # type: ignore[dict-item]
    for at, there in (([4], True), ([1, 2, 4], False)):
        state = look_up(write(tmp_path / "other.yaml", evaluation={**evaluation, "at": at}), made[1])
        assert (state.find(state.plan.table("inpo", state.choice("inpo") or {})[0]) is not None) is there


def test_a_cell_that_is_made_again_is_looked_at_again(made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its old name it has the points now that it lacked: once is enough."""
    file, whole = made
    shutil.copytree(whole / "cells", tmp_path / "cells")
    old = next((tmp_path / "cells").glob("inpo.seed-1.*.json"))
    complete = read_cell(old)
    write_cell(old, replace(complete, points=complete.points[1:]))
    again = []

    def fetch(cell: Planned, work: Path, out: Path) -> None:
        assert not again
        again.append(cell.stem)
        write_cell(old, complete)

    monkeypatch.setattr(job, "make", fetch)
    compare(file, tmp_path)
    assert again == [old.stem]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-100], "is no cell of a comparison"),
        (lambda text: text.replace('"optimizer.lr":0.0001', '"optimizer.lr":0.0002', 1), "is not what its digest"),
        (lambda text: json.dumps({**json.loads(text), "prompts": ["one"]}), "has scores for another number of prompts than 1"),
        (lambda text: json.dumps({**json.loads(text), "colour": "red"}), "is no cell of a comparison"),
        (lambda text: "[]", "is no cell of a comparison"),
        (lambda text: text.replace('"forwards":', '"forwards":1', 1), "its content is not what was written"),
        (lambda text: re.sub(r'("world:oracle":\[\[)', r"\g<1>0.5,", text, count=1), "has 2 scores for a prompt, of which 1 samples"),
    ],
)
def test_a_broken_cell_is_refused_by_name(made: tuple[str, Path], tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(made[1] / "cells", tmp_path / "cells")
    victim = next(path for path in sorted((tmp_path / "cells").iterdir()) if '"optimizer.lr":0.0001' in path.read_text())
    victim.write_text(damage(victim.read_text()))
    with pytest.raises(InputError, match=message) as refused:
        compare(made[0], tmp_path)
    assert str(victim) in str(refused.value)


def test_a_cell_without_a_sum_of_its_content_is_read(made: tuple[str, Path], tmp_path: Path) -> None:
    """As older versions wrote them. A sum is written with every cell, and is of no part of the cell itself."""
    path = next((made[1] / "cells").glob("inpo.seed-0.*.json"))
    values = json.loads(path.read_text())
    assert re.fullmatch("[0-9a-f]{64}", values.pop("content_sha256"))
    (tmp_path / path.name).write_text(json.dumps(values))
    assert read_cell(tmp_path / path.name) == read_cell(path)


def test_a_cell_without_a_scorers_scores_is_made_again(made: tuple[str, Path]) -> None:
    state = look_up(*made)
    planned = state.plan.table("inpo", state.choice("inpo") or {})[0]
    cell = state.find(planned)
    assert cell is not None
    cut = [replace(point, scores={name: rows for name, rows in point.scores.items() if name != "world:clip"}) for point in cell.points]
    assert not planned.accepts(replace(cell, points=cut))


def test_a_method_without_its_safeguard_is_another_one(tmp_path: Path) -> None:
    """`method.safeguard: null` of a guarded method: another digest, and a cell of the one is never taken for the other."""
    arms = {"with": {"method": "diffusion-sdpo"}, "without": {"method": "diffusion-sdpo", "settings": {"method.safeguard": None}}}
    plan = look_up(write(tmp_path / "a.yaml", arms=arms, knobs=None), tmp_path).plan
    guarded, plain = (plan.table(name, {})[0] for name in arms)
    assert guarded.digest != plain.digest
    empty = Cell("a", "table", 0, "", {}, {}, list(guarded.judge.prompts), [])
    for planned, other in ((guarded, plain), (plain, guarded)):
        points = [make.Point(*key, 0.0, {label: [[0.5]] * 4 for label in planned.judge.labels}) for key in planned.keys]
        assert planned.accepts(replace(empty, points=points, settings=planned.settings))
        assert not planned.accepts(replace(empty, points=points, settings=other.settings))


def test_an_arm_that_no_scorer_can_judge_is_marked(made: tuple[str, Path], tmp_path: Path) -> None:
    """Of dpo no picture has a score: its row says so, and the others' are there. Of inpo one prompt is left out, as is said."""
    file, whole = made
    shutil.copytree(whole / "cells", tmp_path / "cells")
    for pattern, lost in (("dpo.seed-*", 4), ("inpo.seed-1.*", 1)):
        for path in (tmp_path / "cells").glob(pattern):
            cell = read_cell(path)
            scores = [{name: [[None]] * lost + rows[lost:] for name, rows in point.scores.items()} for point in cell.points]
            write_cell(path, replace(cell, points=[replace(p, scores=s) for p, s in zip(cell.points, scores, strict=True)]))
    compare(file, tmp_path, Choice(table=True))
    text = (tmp_path / "table.md").read_text()
    assert "| dpo | 2 | 4 | | no prompt has a score in every run |" in text
    assert "| inpo (prompts left out: 1, no score in some run) | 2 | 4 |" in text
    assert text.count("left out") == 1
    assert "cannot be judged.</b> No prompt has a score in every run." in (tmp_path / "report.html").read_text()
    assert list(read_summary(tmp_path / "summary.json").methods) == ["inpo", "shuffled", "base-again"]
    assert read_compared(tmp_path).duels == []


def test_a_cell_names_every_commit_that_made_it(made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun by one, and ended by another that the checkout has moved to: both, in turn. Older cells know one."""
    work = tmp_path / "work"
    work.mkdir()
    for commit, noted in (("a" * 40, 1), ("a" * 40, 1), ("b" * 40 + "-dirty", 2)):
        monkeypatch.setattr(make, "git_commit", lambda commit=commit: commit)
        assert len(make._worked_on(work)) == noted
    cell = next(cell for name, cell in cells(made[1]).items() if name.startswith("inpo.seed-0."))
    assert cell.versions["git_commits"] == [cell.versions["git_commit"]]
    assert commits_of(replace(cell, versions={"git_commits": make._worked_on(work)})) == ["a" * 9, "b" * 9 + "-dirty"]
    assert commits_of(replace(cell, versions={"git_commit": "c" * 40})) == ["c" * 9]
    assert f"* inpo: {commits_of(cell)[0]}\n" in (made[1] / "table.md").read_text()
    assert f"InPO {commits_of(cell)[0]};" in (made[1] / "report.html").read_text()


def test_the_bases_score_is_that_of_the_tables_sampling(made: tuple[str, Path], tmp_path: Path) -> None:
    """Not that of whichever point stands first in its cell: one made for another file may begin with another."""
    file, whole = made
    shutil.copytree(whole / "cells", tmp_path / "cells")
    path = next((tmp_path / "cells").glob("base.seed-0.*"))
    cell = read_cell(path)
    write_cell(path, replace(cell, points=cell.points[::-1]))
    compare(file, tmp_path, Choice(table=True))
    assert read_compared(tmp_path).base_score == read_compared(whole).base_score


def test_a_renamed_cell_is_refused(made: tuple[str, Path], tmp_path: Path) -> None:
    shutil.copytree(made[1] / "cells", tmp_path / "cells")
    victim = sorted((tmp_path / "cells").iterdir())[0]
    victim.rename(victim.with_name("base.seed-0.0123456789abcdef.json"))
    with pytest.raises(InputError, match="was changed or renamed"):
        compare(made[0], tmp_path)


def test_an_interrupted_cell_goes_on_from_its_checkpoint(made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the pictures of step 2 are made, after the step was saved: the rest is trained, nothing twice, all numbers equal."""
    file, whole = made
    (tmp_path / "out" / "cells").mkdir(parents=True)
    for cell in (whole / "cells").glob("*knobs-*.json"):
        shutil.copy(cell, tmp_path / "out" / "cells")
    judge, looked = make.Look._judge, []

    def killed(self: make.Look, model: object, key: tuple[int, int, float]) -> None:
        looked.append(key)
        if len(looked) == 1:
            raise KeyboardInterrupt
        judge(self, model, key)  # type: ignore[arg-type]

    monkeypatch.setattr(make.Look, "_judge", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(file, tmp_path / "out", Choice(only=("inpo",), seeds=(0,)))
    assert [path.name for path in (tmp_path / "out" / "work").glob("*/run/checkpoints/*")] == ["step-000002"]
    compare(file, tmp_path / "out", Choice(only=("inpo",), seeds=(0,)))
    assert looked == [(2, 2, 3.0), (2, 2, 3.0), (4, 2, 3.0), (4, 1, 3.0)]
    name = next(name for name in cells(whole) if name.startswith("inpo.seed-0."))
    assert numbers(cells(tmp_path / "out")[name]) == numbers(cells(whole)[name])


def test_an_interrupted_run_that_is_past_a_step_begins_again(
    made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at step 2; now step 1 is asked for too, whose pictures need its weights. Numbers are those of a run that was not cut."""
    whole, judge = made[1], make.Look._judge
    small: dict[str, Any] = {"arms": {"inpo": {"method": "inpo", "settings": {"method.objective.beta": 500.0}}}, "knobs": None, "seeds": 1}

    def killed(self: make.Look, model: object, key: tuple[int, int, float]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(make.Look, "_judge", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(write(tmp_path / "a.yaml", **small), tmp_path / "out", Choice(only=("inpo",)))
    assert list((tmp_path / "out" / "work").glob("*/run/checkpoints/step-000002"))
    monkeypatch.setattr(make.Look, "_judge", judge)
    evaluation = {**TREE["evaluation"], "at": [1, 2, 4]}  # type: ignore[dict-item]
    compare(write(tmp_path / "b.yaml", evaluation=evaluation, **small), tmp_path / "out", Choice(only=("inpo",)))
    (cell,) = cells(tmp_path / "out").values()
    assert [point.key for point in cell.points] == [(1, 2, 3.0), (2, 2, 3.0), (4, 2, 3.0), (4, 1, 3.0)]
    same = next(each for name, each in cells(whole).items() if name.startswith("inpo.seed-0.") and each.digest == cell.digest)
    assert cell.points[1:] == same.points


def test_what_another_process_makes_is_left_to_it(made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the same command may be started once a core: each takes what is free, waits for what is not, and makes nothing twice."""
    file, whole = made
    shutil.copytree(whole / "cells", tmp_path / "cells")
    theirs, *ours = sorted((tmp_path / "cells").glob("base*.json"), reverse=True)
    for path in (theirs, *ours):
        path.unlink()
    held = tmp_path / "work" / theirs.stem
    held.mkdir(parents=True)
    lock, waited = Lock(held / "lock.json"), []

    def finish(seconds: float) -> None:
        waited.append([path.name.split(".")[0] for path in sorted((tmp_path / "cells").glob("base*"))])
        shutil.copy(whole / "cells" / theirs.name, tmp_path / "cells")
        lock.release()

    monkeypatch.setattr(job, "time", SimpleNamespace(sleep=finish))
    compare(file, tmp_path)
    assert waited == [["base-again"]]
    assert theirs.read_bytes() == (whole / "cells" / theirs.name).read_bytes()


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        (json.dumps({"pid": 77, "host": "elsewhere", "start": 1.0}), r"in use by process 77 on elsewhere; .*delete .*lock\.json"),
        ("torn", r"lock\.json does not say who holds it .* delete it"),
    ],
)
def test_what_holds_a_cell_is_told_once(
    made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, lock: str, message: str
) -> None:
    """A worker that died on another machine, or a lock that is not whole, would be waited for without end: the file to delete is named."""
    file, whole = made
    shutil.copytree(whole / "cells", tmp_path / "cells")
    late = next((tmp_path / "cells").glob("inpo.seed-1.*.json"))
    late.unlink()
    held = tmp_path / "work" / late.stem / "lock.json"
    held.parent.mkdir(parents=True)
    held.write_text(lock)
    rounds = []

    def deleted(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 2:
            held.unlink()
            shutil.copy(whole / "cells" / late.name, late)

    monkeypatch.setattr(job, "time", SimpleNamespace(sleep=deleted))
    compare(file, tmp_path)
    said = capsys.readouterr().err
    assert len(re.findall(message, said)) == 1
    assert said.count("waiting for cells") == 1


def test_trials_of_the_arm_that_chooses_are_made_for_another(
    made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--only shuffled`, whose knobs are dpo's: dpo's two trials come first, and nothing else of dpo's."""
    fetched = []

    def fetch(cell: Planned, work: Path, out: Path) -> None:
        fetched.append((cell.arm, cell.role))
        (out / "cells").mkdir(exist_ok=True)
        shutil.copy(made[1] / "cells" / f"{cell.stem}.json", out / "cells")

    monkeypatch.setattr(job, "make", fetch)
    compare(made[0], tmp_path, Choice(only=("shuffled",)))
    assert fetched == [("dpo", "knobs"), ("dpo", "knobs"), ("shuffled", "table")]


@pytest.mark.parametrize("broken", [[0], [0, 1]])
def test_a_trial_without_a_score_is_the_last(made: tuple[str, Path], tmp_path: Path, broken: list[int]) -> None:
    """What no scorer could judge is never chosen while another trial has a score; and the tables can be written."""
    file, whole = made
    shutil.copytree(whole / "cells", tmp_path / "cells")
    state = look_up(file, whole)
    trials = state.plan.trials("inpo")
    for place in broken:
        path = tmp_path / "cells" / f"{trials[place].stem}.json"
        cell = read_cell(path)
        points = [replace(point, scores={name: [[None]] * len(rows) for name, rows in point.scores.items()}) for point in cell.points]
        write_cell(path, replace(cell, points=points))
    compare(file, tmp_path, Choice(table=True))
    assert look_up(file, tmp_path).choice("inpo") == trials[0 if len(broken) == 2 else 1].knobs


def test_an_arm_that_starts_elsewhere_is_judged_against_the_files_base(tmp_path: Path) -> None:
    """Be it the first in the file: gains of all arms are over `settings.model`, which is said, and no forwards are set against others'."""
    small = {"train.steps": 1}
    arms: dict[str, object] = {"plain": {"method": "sft", "settings": small}}
    common: dict[str, Any] = {"evaluation": {**TREE["evaluation"], "at": []}, "knobs": None, "seeds": 1, "base_again": 0}  # type: ignore[dict-item]
    alignment.train(load_experiment("world-sft", ["train.steps=1", "optimizer.lr=0.001", "optimizer.warmup_steps=0"]), tmp_path / "first")
    arms = {"then": {"method": "inpo", "settings": {**small, "model.unet": str(tmp_path / "first")}, "note": "second stage"}, **arms}
    state = compare(write(tmp_path / "a.yaml", arms=arms, **common), tmp_path / "out")
    plan, found = state.plan, read_compared(tmp_path / "out")
    base, then = state.find(plan.base()[0]), state.find(plan.table("then", {})[0])
    assert base is not None
    assert then is not None
    assert plan.model.unet is None
    gap = np.array(then.points[0].scores["world:oracle"]) - np.array(base.points[0].scores["world:oracle"])
    assert found.arms[0].last is not None
    assert found.arms[0].last.gain.value == pytest.approx(float(gap.mean()))
    assert [(arm.name, arm.elsewhere) for arm in found.arms] == [("then", True), ("plain", False)]
    assert found.arms[0].note.startswith("second stage; starts from another model than the base")
    assert {duel.kind for duel in found.duels} == {"last", "steps", "samplings"}
    differences = (tmp_path / "out" / "table.md").read_text().partition("− mean score of each other arm")[2]
    assert re.search(r"^\| plain \| .* \|  \|$", differences, re.MULTILINE)


@pytest.mark.parametrize("saves", [3, None])
def test_a_run_saves_as_its_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int | None) -> None:
    """And not at the greatest common divisor of the steps it is judged at, which for [1, 400] would be every step."""
    settings = {**TREE["settings"], "train": {"steps": 4, "save_every_steps": saves}}  # type: ignore[dict-item]
    evaluation = {**TREE["evaluation"], "at": [1, 4]}  # type: ignore[dict-item]
    seen = []

    def trained(experiment: Experiment, *arguments: object, **others: object) -> None:
        seen.append(experiment.train)
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "train", trained)
    file = write(tmp_path / "a.yaml", settings=settings, evaluation=evaluation, knobs=None, arms={"inpo": {"method": "inpo"}})
    with pytest.raises(KeyboardInterrupt):
        compare(file, tmp_path / "out", Choice(only=("inpo",)))
    assert [(train.save_every_steps, train.sample_every_steps) for train in seen] == [(saves, 1)]


def test_a_cell_finished_meanwhile_is_not_made_again(made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process wrote it after this one had looked, and before it took the lock."""
    file, whole = made
    shutil.copytree(whole / "cells", tmp_path / "cells")
    late = next((tmp_path / "cells").glob("inpo.seed-1.*.json"))
    late.unlink()
    take = job.taken

    def finished(cell: Planned, out: Path) -> AbstractContextManager[Path | str]:
        shutil.copy(whole / "cells" / late.name, late)
        return take(cell, out)

    monkeypatch.setattr(job, "taken", finished)
    monkeypatch.setattr(job, "make", lambda *arguments: pytest.fail("made again"))
    compare(file, tmp_path)
    assert not list((tmp_path / "work").iterdir())


def test_a_run_that_breaks_down_stops_no_other(made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told at once and at the end, where the command fails; the other cells are made, and so are the tables."""
    file, whole = made
    shutil.copytree(whole / "cells", tmp_path / "cells")
    for path in (*(tmp_path / "cells").glob("dpo.seed-0.*"), *(tmp_path / "cells").glob("dpo.seed-1.*")):
        path.unlink()
    really = job.make

    def make_or_break(cell: Planned, work: Path, out: Path) -> Cell:
        if cell.seed == 0:
            raise RunFault("step 3: the loss is not finite")
        return really(cell, work, out)

    monkeypatch.setattr(job, "make", make_or_break)
    with pytest.raises(RunFault, match=r"1 of the cells could not be made.* dpo\.seed-0\..*: step 3: the loss is not finite"):
        compare(file, tmp_path)
    assert len(list((tmp_path / "cells").glob("dpo.seed-*"))) == 1
    assert "| dpo | 1 of 2 |" in (tmp_path / "table.md").read_text()


def test_a_folder_of_something_else_is_refused(made: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / ".table.md.77.partial").write_text("left behind by a process that was killed")
    compare(made[0], tmp_path, Choice(table=True))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt, and is no comparison's folder"):
        compare(made[0], tmp_path)
    with pytest.raises(InputError, match="is a file; a comparison needs a folder"):
        compare(made[0], tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"--only='inpp' is no arm of this comparison \(did you mean 'inpo'\?\)"):
        compare(made[0], tmp_path / "out", Choice(only=("inpp",)))


def test_the_tables_are_of_the_cells(made: tuple[str, Path]) -> None:
    """summary.json as the contract has it, controls among its methods; every point in table.csv; a rival's gap added up by hand."""
    _, out = made
    summary = read_summary(out / "summary.json")
    assert (summary.kind, summary.baseline) == ("compare", "base")
    assert list(summary.methods) == ["inpo", "dpo", "shuffled", "base-again"]
    inpo = summary.methods["inpo"]
    assert (inpo.steps, inpo.seeds, inpo.n, inpo.beta) == (4, (0, 1), 4, 500.0)
    assert inpo.second_scorer is not None
    found = read_compared(out)
    assert (found.left, found.base_picture is not None, len(found.shown)) == (0, True, 4)
    oracle = {name: mean_score([cell for key, cell in cells(out).items() if key.startswith(f"{name}.seed")]) for name in ("inpo", "dpo")}
    last = next(duel for duel in found.duels if duel.kind == "last")
    assert (last.a, last.b, last.at, last.seeds) == ("inpo", "dpo", (4, 4), (2, 2))
    assert last.difference.value == pytest.approx(oracle["inpo"] - oracle["dpo"])
    assert inpo.mean_gain == pytest.approx(oracle["inpo"] - found.base_score)
    # None at equal forwards: InPO was past dpo's 64 of them when it was first looked at.
    assert [duel.kind for duel in found.duels] == ["last", "steps", "steps", "samplings"]
    assert [sum(trial.chosen for trial in arm.trials) for arm in found.arms] == [1, 1, 0, 0]
    lines = (out / "table.csv").read_text().splitlines()
    # Two steps and one more way of sampling for each of three arms, and the base again.
    assert len(lines) == 1 + 3 * 3 + 1
    text = (out / "table.md").read_text()
    assert "| inpo | 2 | 4 | " in text
    assert "| arm | 1 step, guidance 3 | 2 steps, guidance 3 |" in text
    trials = next(line for line in text.splitlines() if line.startswith("| dpo | ") and "beta" in line)
    assert (trials.count("beta 500:"), trials.count("beta 1000:"), trials.count("**")) == (1, 1, 2)


def test_a_table_of_what_is_there(made: tuple[str, Path], tmp_path: Path) -> None:
    """Without the base there is none; with one seed of one arm there is, and it says what is missing."""
    file, whole = made
    (tmp_path / "cells").mkdir()
    for path in (whole / "cells").glob("*knobs-*.json"):
        shutil.copy(path, tmp_path / "cells")
    compare(file, tmp_path, Choice(table=True))
    assert not (tmp_path / "table.md").exists()
    for path in [*(whole / "cells").glob("base.*.json"), *(whole / "cells").glob("dpo.seed-1.*.json")]:
        shutil.copy(path, tmp_path / "cells")
    compare(file, tmp_path, Choice(table=True))
    text = (tmp_path / "table.md").read_text()
    assert "Incomplete: 5 cells are missing." in text
    assert "| dpo | 1 of 2 | 4 |" in text
    assert "\nStill missing: inpo, shuffled.\n" in text
    assert "| inpo |" not in text.partition("## ")[0]
    assert list(read_summary(tmp_path / "summary.json").methods) == ["dpo"]
    for path in (tmp_path / "cells").glob("dpo.knobs-1.*"):
        path.unlink()
    compare(file, tmp_path, Choice(table=True))
    # Of base again, inpo 2, a trial of dpo, and what waits for it: dpo 2, shuffled 1.
    assert "Incomplete: 7 cells are missing." in (tmp_path / "table.md").read_text()
    assert not read_summary(tmp_path / "summary.json").methods
