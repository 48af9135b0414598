"""SIGKILL at any moment, a save included, costs the steps since the last checkpoint and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from tests.training_runs import final_bytes, metrics, start


def test_a_run_killed_ten_times_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Ten kills, three of them inside a save, over several epochs: final weights, optimiser, average and lines are the same bytes."""
    process = start("killed_runs.py", tmp_path)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    ends = json.loads(output)
    assert sum(end.startswith("killed") for end in ends) == 10
    assert len({end for end in ends if len(end) > len("killed")}) == 3
    assert ends[-1] == "0", errors
    assert final_bytes(tmp_path / "killed", 40) == final_bytes(tmp_path / "whole", 40)
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert [line["step"] for line in metrics(tmp_path / "killed")] == list(range(41))
    left = [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()]
    assert sorted(left) == ["step-000039", "step-000040"]
    assert not (tmp_path / "killed" / "lock.json").exists()
