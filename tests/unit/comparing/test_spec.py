"""The comparison file: what it means, and what is refused with the key, the value and the nearest name."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from inpo import world
from inpo.comparing import Choice, compare
from inpo.comparing.job import listing, look_up
from inpo.comparing.plan import Plan, moving
from inpo.comparing.spec import PACKAGED, Judging, load_comparison
from inpo.errors import InputError
from inpo.methods import METHODS
from tests.unit.comparing.small import TREE, write

SFT_FIRST, ON_POLICY = (Path(__file__).parents[3] / "examples" / name for name in ("sft-first.yaml", "on-policy.yaml"))


def arms(**changes: object) -> dict[str, object]:
    """The small comparison's arms with some replaced."""
    return {**cast("dict[str, object]", TREE["arms"]), **changes}


def test_points_by_hand() -> None:
    """Steps 50 and 100 of a run of 100, and step 400 not; at the last the whole grid, the main way of sampling first and once."""
    judging = Judging("p", ("s",), at=(50, 400), sampler_steps=20, guidance=3.0, also_sampler_steps=(1, 20), also_guidance=(1.0,))
    assert judging.points(100) == [(50, 20, 3.0), (100, 20, 3.0), (100, 1, 3.0), (100, 20, 1.0)]


def test_factors_and_choices(tmp_path: Path) -> None:
    """ "x0.1" of Diffusion-DPO's 5,000 is 500; an arm's own grid replaces the common one; a control takes another's choice."""
    plan = Plan(load_comparison(write(tmp_path / "a.yaml")))
    assert [trial.knobs for trial in plan.trials("dpo")] == [{"method.objective.beta": 500.0}, {"method.objective.beta": 1000.0}]
    assert [trial.knobs for trial in plan.trials("inpo")] == [{"optimizer.lr": 1e-5}, {"optimizer.lr": 1e-4}]
    assert plan.trials("shuffled") == []
    assert {trial.seed for trial in plan.trials("inpo")}.isdisjoint({cell.seed for cell in plan.table("inpo", {})})
    assert plan.trials("inpo")[0].judge.prompts != plan.judge.prompts[:3]


def test_what_a_cell_costs_by_hand(tmp_path: Path) -> None:
    """As --list says it. Diffusion-DPO: 4 steps of 4 pairs, 2 trained and 2 reference forwards each, are 64; pictures of 4 prompts at
    2 + 2 + 1 sampler steps, each asked twice under guidance, 40. InPO asks 11 more times a pair. A trial has one point and 3 prompts."""
    file = write(tmp_path / "a.yaml")
    plan = Plan(load_comparison(file))
    assert [plan.table(arm, {})[0].forwards for arm in ("dpo", "inpo")] == [64 + 40, 16 * 15 + 40]
    assert [cell.forwards for cell in (*plan.base(), plan.trials("dpo")[0])] == [4 * (2 + 1) * 2, 4 * 2 * 2, 64 + 3 * 2 * 2]
    alone = {"evaluation": {**cast("dict[str, object]", TREE["evaluation"]), "guidance": 1.0, "samples": 3}, "knobs": None}
    bare = Plan(load_comparison(write(tmp_path / "b.yaml", **alone, arms={"dpo": {"method": "diffusion-dpo"}})))
    assert bare.table("dpo", {})[0].forwards == 64 + 3 * 4 * (2 + 2 + 1)
    listed = next(line for line in listing(look_up(file, tmp_path / "out"), Choice()) if "dpo.knobs-0" in line)
    assert listed.split()[:2] == ["missing", "76"]


def test_every_setting_that_moves_a_number_moves_the_digest(tmp_path: Path) -> None:
    """Seed, settings, data, prompts, samplings' seed: other digests. How often a run saves, or where the model lies: the same one."""
    plan = Plan(load_comparison(write(tmp_path / "a.yaml")))
    first = plan.table("inpo", {})[0]
    digests = {first.digest, plan.table("inpo", {})[1].digest, plan.table("inpo", {"optimizer.lr": 3e-5})[0].digest}
    shuffled, dpo = (plan.table(name, {})[0].digest for name in ("shuffled", "dpo"))
    evaluation = cast("dict[str, object]", TREE["evaluation"])
    for change in ({"limit": 3}, {"seed": 1}, {"scorers": ["world:oracle"]}):
        other = Plan(load_comparison(write(tmp_path / "b.yaml", evaluation={**evaluation, **change})))
        digests.add(other.table("inpo", {})[0].digest)
    assert len(digests | {shuffled, dpo}) == 8
    more = Plan(load_comparison(write(tmp_path / "c.yaml", evaluation={**evaluation, "at": [1, 2, 4]})))
    assert more.table("inpo", {})[0].digest == first.digest
    same = arms(inpo={"method": "inpo", "settings": {"method.objective.beta": 500.0, "train": {"save_every_steps": 1, "keep": 7}}})
    assert Plan(load_comparison(write(tmp_path / "d.yaml", arms=same))).table("inpo", {})[0].digest == first.digest
    assert first.experiment is not None
    assert not {"model.path", "train.keep"} & set(moving(first.experiment))


def test_digests_of_cells_that_exist_stay() -> None:
    """Cells of the world's comparison were made long ago, the last of them of a run whose pairs world:clip judged."""
    plan = Plan(load_comparison("world"))
    assert [cell.digest for cell in plan.base()] == ["cf494c617bb97d8d", "3a92a0357f224ecc", "c1ca1f1ee7014601", "d9287f82e838f11d"]
    assert plan.trials("inpo")[1].digest == "0503e3506287a25e"
    assert plan.table("smpo", {"optimizer.lr": 2e-5})[0].digest == "f1b2e4050e2ead8e"


def judged_by(folder: Path) -> dict[str, object]:
    """The small comparison with a scorer in a folder, as a judge and as the source of an arm's labels."""
    scored = {"data.scorer": f"pickscore:{folder}", "data.score_range": [13.0, 21.0], "train.steps": 1}
    return {
        "evaluation": {**cast("dict[str, object]", TREE["evaluation"]), "scorers": [f"pickscore:{folder}", "world:oracle"], "at": []},
        "arms": {"smpo": {"method": "smpo", "settings": scored}}, "knobs": None, "seeds": 1, "base_again": 0,
    }  # fmt: skip


def test_a_scorer_is_the_same_one_wherever_it_lies(tmp_path: Path) -> None:
    """Two copies of a folder: cells made with the one serve with the other, and the tables are the same."""
    tables = []
    for name in "ab":
        shutil.copytree(world.scorer_path(), tmp_path / name)
        file = write(tmp_path / f"{name}.yaml", **judged_by(tmp_path / name))
        state = compare(file, tmp_path / "out", Choice(table=name == "b"))
        assert [state.find(cell) is not None for cell in state.planned()] == [True, True]
        tables.append((tmp_path / "out" / "table.md").read_text().replace(str(tmp_path / name), "DIR"))
    assert tables[0] == tables[1]
    assert "| smpo | 1 | 1 |" in tables[0]
    weights = tmp_path / "b" / "config.json"
    weights.write_text(weights.read_text() + "\n")
    other = look_up(file, tmp_path / "out")
    assert [other.find(cell) is not None for cell in other.planned()] == [False, False]


def test_others_are_every_method_that_no_arm_names(tmp_path: Path) -> None:
    """So a method that is new in the table is compared without touching the file."""
    left = sorted(set(METHODS) - {"inpo", "diffusion-dpo"})
    found = load_comparison(write(tmp_path / "a.yaml", others={"seeds": 3}))
    assert sorted(set(found.arms) - {"inpo", "dpo", "shuffled"}) == left
    assert all(found.arms[name].seeds == 3 for name in left)
    without = load_comparison(write(tmp_path / "b.yaml", others={"leave_out": ["sft"]}))
    assert "sft" not in without.arms


def test_quick_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    quick = {"at_most_seeds": 1, "evaluation": {"limit": 2}, "note": "small"}
    path = write(tmp_path / "a.yaml", quick=quick)
    whole, small = load_comparison(path), load_comparison(path, quick=True)
    assert (whole.quick, whole.evaluation.limit, whole.arms["inpo"].seeds) == (False, 4, 2)
    assert (small.quick, small.evaluation.limit, small.arms["inpo"].seeds, small.note) == (True, 2, 1, "small")
    assert small.evaluation.scorers == whole.evaluation.scorers


@pytest.mark.parametrize("name", sorted(path.stem for path in PACKAGED.glob("*.yaml")))
@pytest.mark.parametrize("quick", [False, True])
def test_packaged_comparisons_can_be_made(name: str, quick: bool) -> None:
    """Every cell of every arm is an experiment that may run, and no two arms are the same."""
    plan = Plan(load_comparison(name, quick=quick))
    for arm in plan.comparison.arms:
        assert all(trial.experiment for trial in plan.trials(arm))
        assert plan.table(arm, {})[0].forwards > 0
    assert len({plan.table(arm, {})[0].digest for arm in plan.comparison.arms}) == len(plan.comparison.arms)


def test_the_example_after_sft_shares_cells_with_the_hypotheses() -> None:
    """Its arms from the base are arms of `world-hypotheses`, so one cell serves both; its others start from the network of its comment."""
    example, hypotheses = (Plan(load_comparison(name)) for name in (str(SFT_FIRST), "world-hypotheses"))
    for ours, theirs in (("inpo-400", "inpo"), ("dpo-400", "diffusion-dpo")):
        assert [cell.digest for cell in example.table(ours, {})] == [cell.digest for cell in hypotheses.table(theirs, {})]
    assert {example.experiment(name).model.unet for name in ("sft-inpo", "sft-dpo")} == {"runs/sft-100"}
    assert "--out runs/sft-100" in SFT_FIRST.read_text(encoding="utf-8")


def test_the_example_of_pairs_from_elsewhere_changes_the_pairs_alone() -> None:
    """Hypothesis 6: three arms that are `world-hypotheses`' own InPO but for `data.path`."""
    example, hypotheses = (Plan(load_comparison(name)) for name in (str(ON_POLICY), "world-hypotheses"))
    arms = [example.experiment(name) for name in ("inpo-own", "inpo-rendered", "inpo-mixed")]
    inpo = hypotheses.experiment("inpo")
    assert len({arm.data.path for arm in arms}) == 3
    assert [dataclasses.replace(arm, data=inpo.data) for arm in arms] == [inpo] * 3


def test_every_method_is_in_the_worlds_comparison() -> None:
    assert {arm.method for arm in load_comparison("world").arms.values()} == set(METHODS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {}}, "arms is empty"),
        ({"arms": {"a": 3}}, "must hold a section for each arm"),
        ({"arms": {"a": {"method": "inpp"}}}, r"'inpp' is not a method \(did you mean 'inpo'\?\)"),
        ({"arms": {"a": {"method": "inpo", "sseds": 3}}}, "arms.a.sseds is not a setting"),
        ({"arms": {"base": {"method": "inpo"}}}, "neither 'base' nor"),
        ({"arms": {"a": {"method": "inpo", "knobs_of": "b"}}}, "knobs_of='b' is no other arm"),
        (
            {"arms": {name: {"method": "inpo", "knobs_of": other} for name, other in ("xa", "ab", "ba")}},
            r"arms\.\w\.knobs_of leads back to itself \(.* → .* → .*\): one of these arms must choose$",
        ),
        ({"arms": {"a": {"method": "inpo", "knobs_of": "b", "grid": {"optimizer.lr": [1.0]}}}}, "cannot both be set"),
        ({"arms": {"a": {"method": "inpo", "grid": {"optimizer.lr": [1e-5, 2e-5, 3e-5]}}}}, "3 trials, but knobs.trials=2"),
        ({"knobs": None}, "needs a section 'knobs'"),
        ({"evaluation": None}, "must say how models are judged"),
        ({"evaluation": {"prompts": "world:heldout", "scorers": []}}, "evaluation.scorers is empty"),
        ({"evaluation": {"prompts": "world:heldout", "scorers": ["world:oracle"], "at": [0]}}, "evaluation.at=0 must be"),
        ({"seeds": 0, "title": None}, "comparison.title is not set"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_comparison(write(tmp_path / "a.yaml", **changes))


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"method": "inpo", "settings": {"method.objective.betta": 1.0}}, "arms.a: method.objective.betta is not .*objective.beta'"),
        ({"method": "inpo", "settings": {"method.name": "sft"}}, "arms.a.settings: method.name='sft' is not"),
        ({"method": "inpo", "grid": {"method.objective.beta": ["xx"]}}, "must be a value, or a factor"),
        ({"method": "inpo", "settings": {"train.keep_best": "validation.loss"}}, "arms.a: train.keep_best is set: in a comparison"),
        ({"method": "inpo", "settings": {"train.early_stop": {"metric": "validation.loss"}}}, "arms.a: train.early_stop is set"),
        ({"method": "inpo", "grid": {"method.noising.compat": ["x2"]}}, "is a factor, but the arm's own value is None"),
    ],
)
def test_an_arm_that_cannot_run_is_named(tmp_path: Path, arm: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan(load_comparison(write(tmp_path / "a.yaml", arms={"a": arm}))).trials("a")


def test_a_step_that_no_run_reaches(tmp_path: Path) -> None:
    """The longest of the arms decides: step 6 is a point of the one that trains 8, and of none when all train 4."""
    file = write(tmp_path / "a.yaml", evaluation={**cast("dict[str, object]", TREE["evaluation"]), "at": [2, 6]})
    with pytest.raises(InputError, match=r"^evaluation\.at=6 is reached by no arm: the longest trains 4 steps; leave it out$"):
        Plan(load_comparison(file))
    longer = arms(longer={"method": "inpo", "settings": {"train.steps": 8}})
    longer_too = write(tmp_path / "b.yaml", evaluation={**cast("dict[str, object]", TREE["evaluation"]), "at": [2, 6]}, arms=longer)
    steps = {name: [step for step, *_ in Plan(load_comparison(longer_too)).table(name, {})[0].keys] for name in ("inpo", "longer")}
    assert (6 in steps["inpo"], 6 in steps["longer"]) == (False, True)


def test_nothing_is_chosen_on_prompts_that_are_judged(tmp_path: Path) -> None:
    knobs = {**cast("dict[str, object]", TREE["knobs"]), "prompts": "world:heldout"}
    with pytest.raises(InputError, match=r"knobs\.prompts='world:heldout' and evaluation.prompts='world:heldout' have 3 prompts in common"):
        Plan(load_comparison(write(tmp_path / "a.yaml", knobs=knobs)))


def test_unknown_comparisons(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'wolrd' is neither a comparison \(did you mean 'world'\?\)"):
        load_comparison("wolrd")
    with pytest.raises(InputError, match="has no section 'quick'"):
        load_comparison(write(tmp_path / "a.yaml"), quick=True)
