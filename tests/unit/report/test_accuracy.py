"""Accuracy on pairs as a page: the table's numbers, charts with bands by t, and the same section in a run's report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inpo.evaluation.accuracy import Accuracy, scorer_accuracy, write_accuracy
from inpo.report import build_report
from inpo.report.accuracy import accuracy_view
from inpo.report.files import read_run
from inpo.report.page import write_accuracy_page

GAPS = [[0.001 * (i % 3 - 0.9 + 0.1 * t) for t in range(10)] for i in range(40)]


@pytest.fixture
def accuracy() -> Accuracy:
    timed = scorer_accuracy(GAPS, [50 + 100 * i for i in range(10)], parts=10, spec="{}")
    plain = scorer_accuracy([[1.0], [-2.0]], (), parts=0, spec="{}")
    return Accuracy("held-out:runs/mine", 40, {"implicit:<b>": timed, "world:clip": plain})


def test_only_scorers_that_know_t_are_drawn(accuracy: Accuracy) -> None:
    """Two charts with one curve of ten points and a band each, against a coin and against nothing."""
    view = accuracy_view("", accuracy)
    assert [row.name for row in view.rows] == ["implicit:<b>", "world:clip"]
    assert [chart.title for chart in view.charts] == ["Accuracy by t", "Mean gap by t"]
    for chart in view.charts:
        (curve,) = chart.curves
        assert len(curve.dots) == 10
        assert curve.band.endswith("Z")
        assert chart.x_label == "tenth of the path, k"
    assert view.charts[0].reference is not None
    assert accuracy_view("", Accuracy("p", 2, {"world:clip": accuracy.scorers["world:clip"]})).charts == ()


def test_one_pair_is_drawn_without_a_band() -> None:
    """Its gap has no interval; its accuracy has."""
    one = Accuracy("p", 1, {"s": scorer_accuracy([[1.0, 2.0]], [0.25, 0.75], parts=2, spec="{}")})
    share, gap = accuracy_view("", one).charts
    assert (bool(share.curves[0].band), gap.curves[0].band) == (True, "")
    assert share.x_label == "part of the path, k of 2"


def test_the_page_says_what_the_file_says(accuracy: Accuracy, tmp_path: Path) -> None:
    """Escaped, without a script; the first scorer's share in the headline."""
    write_accuracy_page(tmp_path / "a.html", accuracy)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    share = accuracy.scorers["implicit:<b>"].overall.accuracy
    assert f">{round(100 * share)}</em> labels in 100" in text
    assert "implicit:&lt;b&gt;" in text
    assert "<script" not in text
    assert "−0.5" in text
    assert text.count("<svg") == 2 + 2


def test_a_runs_report_shows_it(demo: Path, accuracy: Accuracy, tmp_path: Path) -> None:
    """In the folder itself and in the runs below it; a file that is broken becomes a note."""
    copy = Path(shutil.copytree(demo, tmp_path / "demo"))
    write_accuracy(copy / "accuracy.json", accuracy)
    write_accuracy(copy / "inpo" / "accuracy.json", accuracy)
    text = build_report(copy).read_text(encoding="utf-8")
    assert text.count("Does it prefer what people prefer?") == 2
    assert "held-out:runs/mine" in text
    (copy / "accuracy.json").write_text("{")
    found = read_run(copy)
    assert [place for place, _ in found.accuracies] == ["inpo"]
    assert any("accuracy.json cannot be used" in note for note in found.notes)


def test_a_folder_with_nothing_else_has_a_report(accuracy: Accuracy, tmp_path: Path) -> None:
    write_accuracy(tmp_path / "accuracy.json", accuracy)
    assert "Does it prefer what people prefer?" in build_report(tmp_path).read_text(encoding="utf-8")
