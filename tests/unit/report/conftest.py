"""A small demo folder, made once, and its page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inpo.report import build_report
from tests.synthetic_run import prompts, write_demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo with all methods and controls and its report.html. Read-only."""
    root = write_demo(tmp_path_factory.mktemp("runs") / "demo", texts=prompts(14), steps=30)
    build_report(root)
    return root


@pytest.fixture
def demo_copy(demo: Path, tmp_path: Path) -> Path:
    """The same, to be broken."""
    return Path(shutil.copytree(demo, tmp_path / "demo"))
