"""The seeded bugs (`python tests/seeded_bugs.py`) still apply: each stands exactly once in the code that it is planted into."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.seeded_bugs import BUGS, ROOT, Bug, plant


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_bug_can_be_planted(bug: Bug, tmp_path: Path) -> None:
    """The changed file differs, and still compiles: a bug that is a syntax error would be caught by anything."""
    (tmp_path / bug.file).parent.mkdir(parents=True)
    shutil.copy(ROOT / bug.file, tmp_path / bug.file)
    plant(bug, tmp_path)
    changed = (tmp_path / bug.file).read_text()
    assert changed != (ROOT / bug.file).read_text()
    compile(changed, bug.file, "exec")


def test_there_are_at_least_twelve() -> None:
    assert len({bug.name for bug in BUGS}) >= 12
