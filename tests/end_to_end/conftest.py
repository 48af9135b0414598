"""The command line in this process, and small data to give it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from inpo.cli import app
from tests.end_to_end.browsing import CHROMIUM
from tests.unit.data import making


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `inpo ARGUMENTS` through `main`, as the console script does."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["inpo", *map(str, arguments)])
        try:
            app.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        streams = capsys.readouterr()
        return Outcome(code, streams.out, streams.err)

    return call


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve valid pairs, one tie and one broken picture, Pick-a-Pic-shaped."""
    rows = [making.row(i) for i in range(12)]
    rows += [making.row(12, label_0=0.5, label_1=0.5), making.row(13, jpg_1=b"<html>not found</html>")]
    return making.write(tmp_path_factory.mktemp("pairs") / "pairs.parquet", rows)


def small(path: Path, pairs: Path, name: str = "inpo", *more: str) -> list[str]:
    """Overrides that turn a recipe into seconds on a tiny model."""
    return [
        f"model.path={path}", f"data.path={pairs}", f"method.name={name}", "model.dtype=fp32", "data.resolution=16", "train.steps=2",
        "train.pairs_per_step=4", "train.micro_batch_pairs=2", "optimizer.warmup_steps=0", "train.save_every_steps=1",
        "train.sample_every_steps=null", "data.validation_fraction=0.1", "data.max_rejected_fraction=0.2", "report_to=[]", *more,
    ]  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium; absent, the tests are skipped, or fail under INPO_REQUIRE_BROWSER=1."""
    if CHROMIUM is None:
        if os.environ.get("INPO_REQUIRE_BROWSER") == "1":
            pytest.fail("INPO_REQUIRE_BROWSER=1, but there is no Chromium")
        pytest.skip("no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
