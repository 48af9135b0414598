"""What a launcher may have set up for the processes of a run."""

from __future__ import annotations

import pytest

from inpo.errors import InputError
from inpo.training.distributed import SHARDING, processes


@pytest.mark.parametrize(("variable", "name"), SHARDING.items())
def test_a_launcher_that_shards_the_network_is_refused(variable: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run would ignore what the user chose and need several times the memory: it says so at its entrance."""
    monkeypatch.setenv(variable, "true")
    with pytest.raises(InputError, match=rf"{name}.*MULTI_GPU"):
        processes()


def test_a_launcher_that_says_no_to_sharding_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate writes `false` into these variables too."""
    for variable in SHARDING:
        monkeypatch.setenv(variable, "false")
    assert processes().num_processes == 1


def test_processes_that_do_not_find_one_another_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes by the launcher's count, one by accelerate's: each would train alone and write into one folder."""
    processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="started 2 processes, but accelerate sees 1"):
        processes()
