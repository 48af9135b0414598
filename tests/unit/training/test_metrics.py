"""metrics.jsonl, TensorBoard, progress, and counting."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from inpo.training.metrics import ForwardCounter, MetricsFile, Progress, cut_metrics, peak_memory_bytes

LINE = {
    "step": 3, "loss": 0.5, "implicit_accuracy": 0.75, "pairs_per_second": 12.0, "margin": None,
    "by_bucket": {"7": {"loss": 0.4, "margin": None}}, "validation": {"implicit_accuracy": 0.6, "n": 5},
}  # fmt: skip


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    """Somebody may be reading along; None is null."""
    file = MetricsFile(tmp_path / "m.jsonl")
    file.write(LINE)
    assert json.loads((tmp_path / "m.jsonl").read_text()) == LINE
    file.sync()
    file.close()


def test_a_number_that_json_has_not_is_refused(tmp_path: Path) -> None:
    """NaN is not JSON, and readers would choke on it."""
    file = MetricsFile(tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        file.write({"step": 1, "loss": float("nan")})
    file.close()


def test_lines_after_a_checkpoint_are_cut(tmp_path: Path) -> None:
    """And so is half a line, garbage, and nothing where there is no file."""
    path = tmp_path / "m.jsonl"
    cut_metrics(path, 2)
    assert not path.exists()
    path.write_text('{"step": 1}\n{"step": 2}\n\x00\n{"step": 3}\n{"step": 4, "lo')
    cut_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.jsonl"]


def test_the_last_line_may_be_amended(tmp_path: Path) -> None:
    """What a step's look says comes after an interruption; only to the line of that step, and later lines follow it."""
    file = MetricsFile(tmp_path / "m.jsonl")
    assert file.amend(0, {"n": 1}) is None
    file.write({"step": 1})
    file.write({"step": 2, "loss": 0.1})
    assert file.amend(1, {"n": 1}) is None
    assert file.amend(2, {"validation": {"n": 7}}) == {"step": 2, "loss": 0.1, "validation": {"n": 7}}
    file.write({"step": 3})
    file.close()
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2, "loss": 0.1, "validation": {"n": 7}}, {"step": 3}]


def test_progress_is_quiet_where_nobody_watches() -> None:
    """A line every half minute with the time left, and one at the end; the first step's 50 s of setting up promise nothing."""
    now = [0.0]
    stream = io.StringIO()
    progress = Progress(10, start=0, stream=stream, clock=lambda: now[0])
    progress.write({"step": 0, "validation": {}})
    for step in range(1, 11):
        now[0] += 50 if step == 1 else 10
        progress.write(LINE | {"step": step})
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/10", "4/10", "7/10", "10/10"]
    assert lines[0].endswith("pairs/s 12")
    assert lines[1].endswith("loss 0.5  accuracy 0.75  pairs/s 12  about 1.0 min left")


def test_progress_shows_a_bar_on_a_terminal() -> None:
    """With the numbers beside it, and not before there are any: a run that fails while it is put together has touched nothing."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(4, stream=stream)
    assert stream.getvalue() == ""
    progress.write(LINE)
    progress.close()
    assert "3/4" in stream.getvalue()
    assert "loss 0.5" in stream.getvalue()


def test_the_counter_counts_images_once_and_stops() -> None:
    """A module that is given twice is one module; after closing nothing is counted."""
    layer = nn.Linear(2, 2)
    counter = ForwardCounter([layer, layer])
    layer(torch.zeros(5, 2))
    layer(torch.zeros(3, 2))
    counter.close()
    layer(torch.zeros(7, 2))
    assert counter.images == 8


def test_peak_memory_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch alone is more than 50 MB; where nothing can be known it is 0."""
    assert peak_memory_bytes(torch.device("cpu")) > 50e6
    monkeypatch.setitem(__import__("sys").modules, "resource", None)
    assert peak_memory_bytes(torch.device("cpu")) == 0
