"""What a comparison leaves beside its cells: comparison.json, summary.json, table.md, table.csv, report.html."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from inpo.comparing.results import results
from inpo.comparing.spec import BASE
from inpo.comparing.state import State
from inpo.console import say
from inpo.evaluation.compared import ArmResult, Compared, Duel, Estimate, by_guidance, write_compared
from inpo.evaluation.summary import AGAIN, SUMMARY, MethodSummary, Part, SecondScorer, write_summary
from inpo.files import replacing
from inpo.report import build_report
from inpo.training.environment import DIRTY, write_environment

TABLE, CSV = "table.md", "table.csv"
UNJUDGED = "no prompt has a score in every run"
ALONE = "°"
"""Beside an interval over prompts alone."""
LEGEND = (
    "**Mean gain**: the arm's mean score − the base's, on the same prompts with the same noise, at the last step of each run.",
    "Brackets hold 95 % intervals over prompts and training seeds. A gain or a difference is bold where its interval excludes 0.",
    f"{ALONE}: there is one training seed. The interval is over prompts alone, and decides nothing.",
    "**Worst twentieth**: the mean gain of the 5 % of all pictures that lost most. Its interval is over prompts. A picture of the base's "
    f"own under other noise loses too: the row {AGAIN} shows how much.",
    "**Win rate**: the share of prompts on which the arm's picture scores higher than the base's. A tie counts half.",
    "**Drift of weights**: ‖θ − θ₀‖ / ‖θ₀‖. θ₀ are the network's weights before training, θ those after the last step.",
)
"""What the columns of the first table are."""
COLUMNS = (
    "arm", "control", "seeds", "step", "last", "sampler_steps", "guidance", "forwards", "gain", "gain_low", "gain_high", "win_rate", "low",
    "high", "second_gain", "second_low", "second_high",
)  # fmt: skip


def write_results(state: State, out: Path) -> Compared | None:
    """Everything that can be said of the cells that are there; nothing, and None, while the base's is missing."""
    found = results(state, out)
    if found is None:
        say(f"no table yet: the cell of the {BASE} is missing (--only {BASE} makes it)")
        return None
    write_environment(out)
    write_compared(out, found)
    summary = {arm.name: summary_of(arm, found) for arm in found.arms if arm.moments}
    write_summary(out / SUMMARY, kind="compare", baseline=BASE, methods=summary)
    for name, text in ((TABLE, "\n".join(table(found)) + "\n"), (CSV, _csv(found))):
        with replacing(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    build_report(out)
    return found


def summary_of(arm: ArmResult, found: Compared) -> MethodSummary:
    """An arm's entry in summary.json: the end of its runs against the base."""
    last, knobs = arm.moments[-1], arm.settings
    second = None
    if found.second is not None and last.second_win_rate is not None:
        second = SecondScorer(found.second, last.second_win_rate.value, last.second_win_rate.low, last.second_win_rate.high)
    return MethodSummary(
        steps=last.step or None, beta=_number(knobs.get("method.objective.beta")), lr=_number(knobs.get("optimizer.lr")),
        seeds=tuple(arm.seeds), pairs_per_second=arm.training.get("pairs_per_second"),
        unet_forwards_per_pair=arm.training.get("unet_forwards_per_pair"), seconds=arm.training.get("seconds"),
        scorer=found.scorer, win_rate=last.win_rate.value, low=last.win_rate.low, high=last.win_rate.high,
        n=last.win_rate.n or found.prompts, mean_gain=last.gain.value, gain_low=last.gain.low, gain_high=last.gain.high,
        second_scorer=second,
        parts={name: Part(part.value, part.low, part.high, part.n or found.prompts) for name, part in arm.parts.items()},
    )  # fmt: skip


def table(found: Compared) -> Iterator[str]:
    """The results as Markdown: arms at the end of their runs, the first arm's differences, and every point."""
    steps, guidance = found.sampling
    yield f"# {found.title}\n"
    if found.note:
        yield f"{found.note}\n"
    if found.left:
        yield f"Incomplete: {found.left} cells are missing.\n"
    if found.unsound:
        yield f"{found.unsound}.\n"
    yield f"Judged by {found.scorer} on {found.prompts} prompts ({found.prompt_set}), {steps} sampler steps, guidance {guidance:g}.\n"
    yield "\n".join(f"* {line}" for line in LEGEND) + "\n"
    yield from _rows(found)
    first = next((arm for arm in found.arms if not arm.control and arm.moments), None)
    if first is not None:
        yield f"\n## Mean score of {first.name} − mean score of each other arm\n"
        yield "Differences are paired by prompt, and by training seed over the seeds that both arms have.\n"
        yield from _differences(first, found)
        yield from _sampled_differences(first, found)
    yield from _samplings(found)
    yield from _chosen(found)
    yield from _made_by(found)


def _rows(found: Compared) -> Iterator[str]:
    second = f"{found.second}, win rate" if found.second else "second scorer"
    yield f"| arm | seeds | steps | network image-forwards | mean gain | worst twentieth | win rate | {second} | drift of weights |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for arm in sorted(found.arms, key=lambda arm: (arm.control, -(arm.last.gain.value if arm.last else -1.0))):
        if arm.last is not None or arm.unjudged:
            yield _row(arm)
    if missing := [arm.name for arm in found.arms if arm.last is None and not arm.unjudged]:
        yield f"\nStill missing: {', '.join(missing)}."
    if notes := [f"* {arm.name}: {arm.note}." for arm in found.arms if arm.note and (arm.last is not None or arm.unjudged)]:
        yield "\n" + "\n".join(notes)


def _row(arm: ArmResult) -> str:
    seeds = f"{len(arm.seeds)}" + (f" of {arm.wanted}" if len(arm.seeds) < arm.wanted else "")
    name, last = f"{arm.name} (control)" if arm.control else arm.name, arm.last
    if last is None:
        return f"| {name} | {seeds} | {arm.steps} | | {UNJUDGED} | | | | |"
    left = f" (prompts left out: {last.left_out}, no score in some run)" if last.left_out else ""
    drift = f"{arm.training['drift']:.2e}" if "drift" in arm.training else ""
    worst = f"{last.worst.value:+.4f} [{last.worst.low:+.4f}, {last.worst.high:+.4f}]"
    cells = (signed(last.gain), worst, rate(last.win_rate), rate(last.second_win_rate), drift)
    return f"| {name}{left} | {seeds} | {last.step} | {last.forwards:,.0f} | {' | '.join(cells)} |"


def _differences(first: ArmResult, found: Compared) -> Iterator[str]:
    steps = sorted({int(duel.at[0]) for duel in found.duels if duel.kind == "steps"})
    ends = ("at each one's last step", "share scored higher, last step", "median prompt, last step", "at equal network image-forwards")
    yield f"| {first.name} − | {' | '.join([*(f'step {step}' for step in steps), *ends])} |"
    yield "|---" * (len(steps) + len(ends) + 1) + "|"
    for other, duels in _rivals(first, found):
        by_step = {int(duel.at[0]): signed(duel.difference) for duel in duels if duel.kind == "steps"}
        last = next((duel for duel in duels if duel.kind == "last"), None)
        equal = next((_said(duel) for duel in duels if duel.kind == "forwards"), "")
        median = "" if last is None or last.median is None else f"{last.median:+.4f}"
        at_last = ("", "") if last is None else (_said(last), rate(last.win_rate))
        yield f"| {other} | {' | '.join([*(by_step.get(step, '') for step in steps), *at_last, median, equal])} |"


def _sampled_differences(first: ArmResult, found: Compared) -> Iterator[str]:
    """The first arm's, sampled otherwise."""
    ways = sorted({duel.sampling for duel in found.duels if duel.kind == "samplings"}, key=by_guidance)
    if not ways:
        return
    yield f"\n## Mean score of {first.name} − mean score of each other arm, at each one's last step, with other sampler steps or guidance\n"
    yield f"| {first.name} − | {' | '.join(map(_way, ways))} |"
    yield "|---" * (len(ways) + 1) + "|"
    for other, duels in _rivals(first, found):
        by_way = {duel.sampling: signed(duel.difference) for duel in duels if duel.kind == "samplings"}
        yield f"| {other} | {' | '.join(by_way.get(way, '') for way in ways)} |"


def _rivals(first: ArmResult, found: Compared) -> Iterator[tuple[str, list[Duel]]]:
    """The others' names, each with what is known of the first one against it."""
    for other in [arm for arm in found.arms if not arm.control and arm.moments and arm is not first]:
        yield other.name, [duel for duel in found.duels if (duel.a, duel.b) == (first.name, other.name)]


def _way(way: tuple[int, float]) -> str:
    return f"{way[0]} step{'' if way[0] == 1 else 's'}, guidance {way[1]:g}"


def _samplings(found: Compared) -> Iterator[str]:
    """Gains at the last step, under every way of sampling."""
    ways = sorted({(one.sampler_steps, one.guidance) for arm in found.arms for one in arm.samplings}, key=by_guidance)
    if len(ways) < 2:
        return
    yield "\n## Mean gain at the last step, with other sampler steps or guidance (the base is sampled in the same way)\n"
    yield f"| arm | {' | '.join(map(_way, ways))} |"
    yield "|---" * (len(ways) + 1) + "|"
    for arm in [arm for arm in found.arms if arm.samplings]:
        gains = {(one.sampler_steps, one.guidance): signed(one.gain) for one in arm.samplings}
        yield f"| {arm.name} | {' | '.join(gains.get(way, '') for way in ways)} |"


def _chosen(found: Compared) -> Iterator[str]:
    """Every trial of every arm, the chosen one in bold."""
    tried = [arm for arm in found.arms if arm.trials]
    if not tried:
        return
    yield f"\n## Settings tried on {found.trial_prompts}, mean score, the chosen ones in bold\n"
    yield "| arm | trials |"
    yield "|---|---|"
    for arm in tried:
        rows = [f"{_knobs(trial.knobs)}: {'missing' if trial.score is None else f'{trial.score:.4f}'}" for trial in arm.trials]
        shown = [f"**{row}**" if trial.chosen else row for row, trial in zip(rows, arm.trials, strict=True)]
        yield f"| {arm.name} | {' · '.join(shown)} |"


def _made_by(found: Compared) -> Iterator[str]:
    """The program's commits, by arm."""
    known = [(arm.name, arm.commits) for arm in found.arms if arm.commits]
    if not known:
        return
    yield "\n## Commits of inpo that made the cells\n"
    yield f"`{DIRTY}` marks a commit whose files had been changed. Trials count among an arm's cells.\n"
    yield from (f"* {name}: {', '.join(commits)}" for name, commits in known)


def _knobs(knobs: Mapping[str, object]) -> str:
    """The settings' last names and their values."""
    return " ".join(f"{key.rpartition('.')[2]} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in knobs.items())


def _said(duel: Duel) -> str:
    """With where the two stand, if that differs or is a count of forwards."""
    at = f" ({duel.at[0]:,.0f})" if duel.kind == "forwards" else ""
    return signed(duel.difference) + (f" ({duel.at[0]:g} and {duel.at[1]:g} steps)" if duel.at[0] != duel.at[1] else at)


def signed(found: Estimate) -> str:
    """A gain with its interval, in bold where that excludes 0."""
    text = f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]" + (f" {ALONE}" if found.prompts_alone else "")
    return text if found.verdict == "level" else f"**{text}**"


def rate(found: Estimate | None) -> str:
    """A win rate with its interval, nothing where there is none."""
    return "" if found is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _csv(found: Compared) -> str:
    """Every point of every arm, a line each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_points(found))
    return text.getvalue()


def _points(found: Compared) -> Iterator[dict[str, object]]:
    for arm in found.arms:
        shared = {"arm": arm.name, "control": arm.control, "seeds": len(arm.seeds)}
        for moment in arm.moments:
            second = {} if moment.second_gain is None else _named(moment.second_gain, "second_gain", "second_low", "second_high")
            yield {
                **shared, "step": moment.step, "last": moment is arm.last, "forwards": moment.forwards,
                "sampler_steps": found.sampling[0], "guidance": found.sampling[1], **_named(moment.gain, "gain", "gain_low", "gain_high"),
                **_named(moment.win_rate, "win_rate", "low", "high"), **second,
            }  # fmt: skip
        for one in arm.samplings:
            if (one.sampler_steps, one.guidance) != found.sampling:
                yield {
                    **shared, "step": one.step, "last": True, "sampler_steps": one.sampler_steps, "guidance": one.guidance,
                    **_named(one.gain, "gain", "gain_low", "gain_high"), **_named(one.win_rate, "win_rate", "low", "high"),
                }  # fmt: skip


def _named(found: Estimate, value: str, low: str, high: str) -> dict[str, object]:
    return {value: round(found.value, 6), low: round(found.low, 6), high: round(found.high, 6)}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
