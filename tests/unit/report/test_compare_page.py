"""The page of a comparison: what it says of made-up results, and that it says it of nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from inpo.comparing.tables import table
from inpo.errors import InputError
from inpo.evaluation.compared import Compared, Duel, Estimate, read_compared, write_compared
from inpo.methods import METHODS
from inpo.report import build_report, compare
from tests.synthetic_comparison import write_comparison


def page(folder: Path) -> str:
    return build_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("gap", "said"), [(0.002, "is ahead of"), (-0.002, "is behind"), (0.0005, "cannot be told apart"), (-0.0005, "cannot be told apart")]
)
def test_the_headline_is_what_the_interval_allows(tmp_path: Path, gap: float, said: str) -> None:
    """The interval is the gap ± 0.001."""
    write_comparison(tmp_path / "a", gap=gap)
    headline = page(tmp_path / "a").split("<h1>")[1].split("</h1>")[0]
    assert said in headline
    assert [name in headline for name in ("InPO", "Diffusion-DPO")] == [True, True]


def changed_duels(found: Compared, **changes: object) -> list[Duel]:
    return [dataclasses.replace(duel, **changes) for duel in found.duels]  # type: ignore[arg-type]


def test_a_mean_that_few_prompts_carry_is_no_plain_lead(tmp_path: Path) -> None:
    """Ahead in mean score while the pictures are preferred as often as not: the headline says both."""
    found = write_comparison(tmp_path / "a", gap=0.002)
    assert "not on most prompts" not in page(tmp_path / "a")
    assert "60.0&nbsp;% of the time (55.0 – 65.0); on the median prompt the difference is +0.0010" in page(tmp_path / "a")
    write_compared(tmp_path / "a", dataclasses.replace(found, duels=changed_duels(found, win_rate=Estimate(0.53, 0.46, 0.6))))
    headline = page(tmp_path / "a").split("<h1>")[1].split("</h1>")[0]
    assert headline.endswith("in mean score, but not on most prompts.")


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    """It is marked, not bold, not shaded, and no headline."""
    found = write_comparison(tmp_path / "a", gap=0.002)
    alone = dataclasses.replace(found.duels[0].difference, prompts_alone=True)
    changed = dataclasses.replace(found, duels=changed_duels(found, difference=alone))
    write_compared(tmp_path / "a", changed)
    text = page(tmp_path / "a")
    assert "cannot be told apart" in text.split("<h1>")[1].split("</h1>")[0]
    assert "One training seed decides nothing" in text
    matrices = text.split("Method against method</h2>")[1].split("Where the gain comes from")[0]
    assert 'class="ahead"' not in matrices.split("<h2>")[0]
    rows = "\n".join(table(changed)).split("− mean score of each other arm\n")[1].split("##")[0]
    assert "+0.0020 [+0.0010, +0.0030] °" in rows
    assert "**" not in rows


def test_ways_of_sampling_are_set_against_one_another(tmp_path: Path) -> None:
    """Not gain beside gain alone: paired differences, for every other way of sampling, on the page and in the table."""
    found = write_comparison(tmp_path / "a", gap=0.002)
    caption = "InPO − each other method, sampled in the same way"
    body = page(tmp_path / "a").split(caption)[1].split("</table>")[0]
    assert (body.count('<th scope="col">'), body.count('class="ahead"')) == (3, 2 * 3)
    lines = "\n".join(table(found)).split("last step, with other sampler steps or guidance")[1].split("##")[0].strip().splitlines()
    assert lines[0] == "| inpo − | 20 steps, guidance 1 | 1 step, guidance 3 | 5 steps, guidance 3 |"
    assert [line.count("**+0.0020 [+0.0010, +0.0030]**") for line in lines[2:]] == [3, 3]


def test_an_arm_may_have_been_judged_under_fewer_ways_of_sampling(tmp_path: Path) -> None:
    """Cells that hold more than is asked for serve as well, so one arm may have what another lacks: a dot stands there."""
    found = write_comparison(tmp_path / "a", gap=0.002)
    fewer = dataclasses.replace(found.arms[1], samplings=found.arms[1].samplings[:-1])
    write_compared(tmp_path / "a", dataclasses.replace(found, arms=[found.arms[0], fewer, *found.arms[2:]]))
    body = page(tmp_path / "a").split('aria-label="Sampler steps and guidance"')[1].split("</table>")[0]
    assert body.count('<td class="self">·</td>') == 1


def test_every_arm_is_there_with_its_numbers(tmp_path: Path) -> None:
    """All methods at once: a row for each with gain and interval, its trials with the chosen one marked, its pictures."""
    found = write_comparison(tmp_path / "a", list(METHODS))
    text = page(tmp_path / "a")
    rows = text.split('<table class="methods compared">')[1].split("</table>")[0]
    for arm in found.arms:
        assert arm.last is not None
        for number in (arm.last.gain.value, arm.last.gain.low, arm.last.gain.high):
            assert f"{number:+.4f}".replace("-", "−") in rows
    assert text.count('<tr class="chosen">') == len(METHODS)
    assert text.count("data:image/png;base64,") == len(METHODS) + 2
    assert "3 of 8" in rows
    assert rows.count('<td data-label="Worst 5 %">−0.0321 <span class="range">−0.0500 – −0.0200</span></td>') == len(found.arms)
    assert "as chosen for InPO" in text


def test_both_triangles_of_the_matrix_mirror_one_another(tmp_path: Path) -> None:
    """Three arms, of which each earlier leads each later by 2 thousandths where their runs end, and by 4 after equally many forwards:
    three cells ahead and three behind, in both matrices."""
    found = write_comparison(tmp_path / "a", gap=0.002)
    equal = Estimate(0.004, 0.003, 0.005)
    duels = [dataclasses.replace(duel, difference=equal) if duel.kind == "forwards" else duel for duel in found.duels]
    write_compared(tmp_path / "a", dataclasses.replace(found, duels=duels))
    ends, forwards = page(tmp_path / "a").split('<table class="matrix square">')[1:]
    for matrix, caption, lead in ((ends, "At each one’s last step", 2), (forwards, "After equally many network image-forwards", 4)):
        body = matrix.split("</table>")[0]
        assert f"<caption>{caption}</caption>" in body
        assert (body.count('class="ahead"'), body.count('class="behind"')) == (3, 3)
        assert (body.count(f"+{lead}.0"), body.count(f"−{lead}.0")) == (3, 3)


CHARTS = ["Gain by training step", "Gain by network image-forwards", "Win rate by training step", "Second scorer by training step"]


def charts(folder: Path) -> list[tuple[str, str]]:
    """Title and drawing of each, in the page's order."""
    figures = [figure.split("</figure>")[0] for figure in page(folder).split('<figure class="chart">')[1:]]
    return [(figure.split("<figcaption><b>")[1].split("</b>")[0], figure) for figure in figures]


@pytest.mark.parametrize(("others", "curves"), [(2, [3]), (3, [4]), (5, [4, 3])])
def test_curves_are_drawn_of_every_arm(tmp_path: Path, others: int, curves: list[int]) -> None:
    """Four charts of the first arm beside three others at most, then four of it beside the rest."""
    write_comparison(tmp_path / "a", list(METHODS)[: 1 + others])
    drawn = charts(tmp_path / "a")
    assert [title for title, _ in drawn] == CHARTS * len(curves)
    assert [figure.count('<path class="curve ') for _, figure in drawn] == [count for count in curves for _ in CHARTS]
    assert all('<path class="curve c0"' in figure for _, figure in drawn)


def test_a_curve_is_its_arms_numbers(tmp_path: Path) -> None:
    """From the base to 50, 100, 200 and 400 steps. A step of the second arm costs half: its 48,000 forwards end where the first is half."""
    found = write_comparison(tmp_path / "a")
    cheap = [dataclasses.replace(moment, forwards=120.0 * moment.step) for moment in found.arms[1].moments]
    arms = [found.arms[0], dataclasses.replace(found.arms[1], moments=cheap), *found.arms[2:]]
    write_compared(tmp_path / "a", dataclasses.replace(found, arms=arms))
    drawn = dict(charts(tmp_path / "a"))
    for title, figure in drawn.items():
        ours, theirs = (list(map(float, re.findall(rf'<circle class="{colour}" cx="([0-9.]+)"', figure))) for colour in ("c0", "c1"))
        assert ours == [50, 87.5, 125, 200, 350]
        assert theirs == (pytest.approx([50, 68.75, 87.5, 125, 200], abs=0.06) if "image-forwards" in title else ours)
    last = found.arms[0].moments[-1]
    assert last.second_gain is not None
    ends = (f"0 to {last.gain.value:.3g}", f"0 to {last.gain.value:.3g}", "0.5 to 0.8", f"0 to {last.second_gain.value:.3g}")
    for title, end in zip(CHARTS, ends, strict=True):
        assert f"InPO: from {end};" in drawn[title]


def test_what_it_is_not_is_said(tmp_path: Path) -> None:
    """Quick and incomplete results say so at the top; whole ones do not."""
    found = write_comparison(tmp_path / "a", left=7)
    assert "7 cells are missing" in page(tmp_path / "a")
    write_compared(tmp_path / "a", dataclasses.replace(found, quick=True, left=0))
    assert "A quick run" in page(tmp_path / "a")
    write_compared(tmp_path / "a", dataclasses.replace(found, left=0))
    assert "notes warn" not in page(tmp_path / "a")


def test_arms_without_a_run_and_results_without_an_arm(tmp_path: Path) -> None:
    """A comparison that has only begun has a page too."""
    found = write_comparison(tmp_path / "a")
    empty = [
        dataclasses.replace(arm, moments=[], samplings=[], parts={}, training={}, seeds=[], picture=None, trials=[]) for arm in found.arms
    ]
    write_compared(tmp_path / "a", dataclasses.replace(found, arms=empty, duels=[]))
    text = page(tmp_path / "a")
    assert "No arm has a run yet." in text
    assert "Still missing: InPO, Diffusion-DPO, " in text
    alone = dataclasses.replace(found, arms=found.arms[:1], duels=[])
    write_compared(tmp_path / "a", alone)
    assert "<h1>Side by side</h1>" in page(tmp_path / "a")


def test_text_of_the_file_is_text(tmp_path: Path) -> None:
    """A title or a note is never markup."""
    write_comparison(tmp_path / "a", title="<script>alert(1)</script>")
    assert "<script" not in page(tmp_path / "a")


def test_the_page_is_pure_in_the_files(tmp_path: Path) -> None:
    write_comparison(tmp_path / "a")
    assert page(tmp_path / "a") == page(tmp_path / "a")


def test_the_command_is_that_of_the_whole(tmp_path: Path) -> None:
    """Not of the sitting that happened to be the last one."""
    write_comparison(tmp_path / "a")
    for rest in ("--table", "--only inpo,sft --seeds 0-3", "--knobs --only=inpo", ""):
        command = ["/usr/bin/inpo", "compare", "world", *rest.split(), "--out", "runs/world"]
        (tmp_path / "a" / "environment.json").write_text(json.dumps({"command": command}), encoding="utf-8")
        assert "<code>inpo compare world --out runs/world</code>" in page(tmp_path / "a")


def test_a_broken_comparison_is_refused(tmp_path: Path) -> None:
    write_comparison(tmp_path / "a")
    path = tmp_path / "a" / "comparison.json"
    path.write_text(path.read_text().replace('"scorer"', '"scoor"', 1))
    with pytest.raises(InputError, match=r"comparison\.json: is no comparison's result"):
        read_compared(tmp_path / "a")
    with pytest.raises(InputError, match="make it again with inpo compare"):
        build_report(tmp_path / "a")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_curve_begins_at_the_base_where_its_runs_did(tmp_path: Path, elsewhere: bool) -> None:
    """Nothing was measured at step 0 of a run that started from another model."""
    arm = dataclasses.replace(write_comparison(tmp_path / "a").arms[0], elsewhere=elsewhere)
    curve = compare._series(arm, "c0", lambda moment: moment.step, lambda moment: moment.gain, start=0.0, last=float("inf"))
    steps, gains = [moment.step for moment in arm.moments], [moment.gain for moment in arm.moments]
    assert curve.x == (steps if elsewhere else [0.0, *steps])
    assert curve.y == [*([] if elsewhere else [0.0]), *(gain.value for gain in gains)]
    assert curve.band is not None
    assert curve.band[0] == [*([] if elsewhere else [0.0]), *(gain.low for gain in gains)]


@pytest.mark.parametrize(
    ("low", "high", "gain", "said"), [(0.45, 0.52, 0.0, False), (0.55, 0.7, 0.0, True), (1.0, 1.0, 0.0, True), (0.45, 0.52, 0.02, True)]
)
def test_a_control_that_fails_is_said(tmp_path: Path, low: float, high: float, gain: float, said: bool) -> None:
    """The base against itself should contain ½, and 0: where it does not, page and table say that small differences mean nothing."""
    found = write_comparison(tmp_path)
    again = dataclasses.replace(found.arms[-1], name="base-again")
    won, gained = Estimate((low + high) / 2, low, high), Estimate(gain, gain - 0.01, gain + 0.01)
    last = dataclasses.replace(again.moments[-1], win_rate=won, gain=gained)
    changed = dataclasses.replace(found, arms=[*found.arms, dataclasses.replace(again, moments=[*again.moments[:-1], last])])
    write_compared(tmp_path, changed)
    assert ("The control fails" in page(tmp_path)) is said
    assert ("trust no difference" in "\n".join(table(changed))) is said
