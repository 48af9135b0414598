"""How often a scorer agrees with people: shares, gaps and parts of the path by hand, and a file that is read as it was written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from inpo.errors import InputError
from inpo.evaluation.accuracy import Accuracy, agreement, read_accuracy, scorer_accuracy, write_accuracy
from inpo.intervals import wilson


def test_a_gap_of_nothing_counts_half() -> None:
    """+1, +1, −4, 0: (2 + ½)/4, mean −½; s² = ((1.5)² + (1.5)² + (3.5)² + (0.5)²)/3 = 17/3, and t = 3.1824 at three degrees of freedom."""
    found = agreement([1, 1, -4, 0])
    assert (found.accuracy, found.n, found.ties, found.gap) == (0.625, 4, 1, -0.5)
    assert (found.low, found.high) == wilson(0.625, 4)
    half = 3.182446 * math.sqrt(17 / 3 / 4)
    assert (found.gap_low, found.gap_high) == pytest.approx((-0.5 - half, -0.5 + half))


def test_one_pair_has_a_gap_without_ends() -> None:
    found = agreement([2.0])
    assert (found.gap, found.gap_low, found.gap_high) == (2.0, None, None)


def test_parts_of_the_path_are_means_over_their_times() -> None:
    """Four times in two parts. Pair a: +3, −1 | −1, −1 → +1, −1 and 0 over all; pair b: +1, +1 | +2, +4 → +1, +3 and +2 over all."""
    found = scorer_accuracy([[3, -1, -1, -1], [1, 1, 2, 4]], [10, 20, 30, 40], parts=2, spec="{}")
    assert (found.overall.accuracy, found.overall.ties, found.overall.gap) == (0.75, 1, 1.0)
    assert [(part.k, part.t, part.agreement.accuracy, part.agreement.gap) for part in found.by_t] == [
        (1, (10, 20), 1.0, 1.0), (2, (30, 40), 0.5, 1.0),
    ]  # fmt: skip


def test_pairs_without_a_score_are_left_out_and_counted() -> None:
    """A scorer that knows no t has no parts."""
    found = scorer_accuracy([[1.0], [math.nan], [-1.0]], (), parts=0, spec="{}")
    assert (found.excluded, found.overall.n, found.by_t) == (1, 2, ())
    with pytest.raises(InputError, match="no pair has two scores, so there is nothing to count"):
        scorer_accuracy([[math.nan]], (), parts=0, spec="{}")


def written(path: Path) -> Accuracy:
    one = scorer_accuracy([[1.0, -1.0], [1.0, 2.0]], [0.25, 0.75], parts=2, spec='{"a": 1}')
    accuracy = Accuracy("pairs.parquet", 2, {"s": one, "single": scorer_accuracy([[1.0]], (), parts=0, spec="{}")}, attainable=0.8)
    write_accuracy(path, accuracy)
    return accuracy


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    accuracy = written(tmp_path / "a.json")
    assert read_accuracy(tmp_path / "a.json") == accuracy


def test_other_files_are_refused(tmp_path: Path) -> None:
    """No JSON, another kind, a key that is not known, a number that is a text: the place is named."""
    path = tmp_path / "a.json"
    written(path)
    good = json.loads(path.read_text())
    for text, message in (
        ("{", "cannot be read as JSON"),
        ('{"schema": 1, "kind": "demo"}', "is no accuracy that this version of inpo score --pairs wrote"),
        (json.dumps({**good, "colour": 1}), "a.json: colour: "),
        (json.dumps({**good, "n": "many"}), r"a.json: n: .*found 'many'"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_accuracy(path)
