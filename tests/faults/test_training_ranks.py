"""A fault that one process meets alone ends all of them, with what is complete saved; nobody waits for gradients that never come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training_runs import start_ranks

DISK = "[Errno 5] Input/output error: 'pairs.parquet'"


@pytest.fixture(scope="module")
def main_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """How each run ended on rank 0, which met nothing itself; see tests/two_ranks_faults.py. Rank 1 is dead at the end."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    ranks = start_ranks("two_ranks_faults.py", folder)
    try:
        _, errors = ranks[0].communicate(timeout=240)
        assert [rank.wait(30) for rank in ranks] == [0, 9], errors
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    return json.loads((folder / "said-0.json").read_text())


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        ("picture", "InputError", "pairs.parquet, row 3: cannot decode the winning image"),
        (
            "disk",
            "RunFault",
            f"process 1: step 3: the system failed while its pairs were read: {DISK}",
        ),
        ("mistake", "RunFault", "process 1: KeyError: 'caption'"),
    ],
)
def test_what_one_rank_meets_is_told_by_all(main_process: dict[str, dict[str, object]], failure: str, kind: str, message: str) -> None:
    """The main process says what the other met, and saves the two steps that are complete."""
    assert main_process[failure] == {"kind": kind, "message": message, "saved": ["step-000002"]}


def test_memory_of_one_rank(main_process: dict[str, dict[str, object]]) -> None:
    """It says whose, and what to lower."""
    assert main_process["memory"]["message"].startswith("process 1: step 3: out of memory in the inversion (CUDA out of memory. Tried")
    assert main_process["memory"]["saved"] == ["step-000002"]


def test_held_out_pairs_of_one_rank(main_process: dict[str, dict[str, object]]) -> None:
    """What one process meets while it looks at them is told by all, too; here before the first step."""
    message = main_process["held out"]["message"]
    assert message.startswith("process 1: out of memory in the validation (CUDA out of memory. Tried to allocate 2 GiB): lower train.inv")
    assert main_process["held out"]["saved"] == []


def test_a_process_that_dies(main_process: dict[str, dict[str, object]]) -> None:
    """The collective breaks; what is complete is saved all the same."""
    assert main_process["death"]["kind"] == "RunFault"
    assert main_process["death"]["message"].startswith("another process of this run is gone or does not answer (")
    assert main_process["death"]["saved"] == ["step-000002"]


def test_a_signal_between_two_steps(main_process: dict[str, dict[str, object]]) -> None:
    """Only the main process has got it when the fourth step begins: all drop that step."""
    assert main_process["between"] == {"step": 3, "signal": 15}
