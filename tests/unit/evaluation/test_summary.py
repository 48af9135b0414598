"""summary.json is validated before it is written and when it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inpo.errors import InputError
from inpo.evaluation.summary import MethodSummary, Part, SecondScorer, read_summary, write_summary

ENTRY = MethodSummary(
    steps=400, beta=500.0, lr=1e-5, seeds=(0,), win_rate=0.8, low=0.7, high=0.9, n=192,
    parts={"shape": Part(0.1, 0.0, 0.2, 192)}, second_scorer=SecondScorer("clip", 0.6, 0.5, 0.7),
)  # fmt: skip


def test_round_trip_keeps_order_and_leaves_out_what_is_unknown(tmp_path: Path):
    """What was not measured is absent, never null or 0, and the first method stays first."""
    path = tmp_path / "summary.json"
    written = write_summary(path, kind="demo", baseline="base", methods={"inpo": ENTRY, "base-again": MethodSummary()})
    assert read_summary(path) == written
    values = json.loads(path.read_text())
    assert list(values) == ["schema", "kind", "baseline", "methods"]
    assert list(values["methods"]) == ["inpo", "base-again"]
    assert values["methods"]["base-again"] == {}
    assert values["methods"]["inpo"]["parts"] == {"shape": {"gain": 0.1, "low": 0.0, "high": 0.2, "n": 192}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"win_rat": 0.5}, "win_rat: Unexpected"),
        ({"steps": "many"}, r"methods\.inpo\.steps"),
        ({"win_rate": 0.5}, "belong together"),
        ({"win_rate": 0.5, "low": 0.6, "high": 0.7}, "0 ≤ low ≤ win_rate"),
        ({"win_rate": 1.5, "low": 0.6, "high": 1.7}, "≤ 1"),
        ({"mean_gain": float("nan")}, "finite"),
        ({"second_scorer": {"name": "x", "win_rate": 0.5, "low": 0.6, "high": 0.9}}, "second_scorer"),
    ],
)
def test_wrong_entries_are_refused_before_anything_is_written(tmp_path: Path, entry: dict[str, object], message: str):
    """The message names the key."""
    with pytest.raises(InputError, match=message):
        write_summary(tmp_path / "summary.json", kind="train", baseline="base", methods={"inpo": entry})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "message"), [("{", "JSON"), ('{"schema": 2}', "schema is 2"), ("[]", "schema is 'list'"), ("", "JSON")])
def test_unreadable_summaries(tmp_path: Path, text: str, message: str):
    """No JSON, or of a version that is not this one's."""
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_summary(tmp_path / "summary.json")
