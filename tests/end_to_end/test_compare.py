"""`inpo compare` as it is typed: the list, a part, the whole, the table, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from inpo.report import build_report
from tests.end_to_end.conftest import Run
from tests.unit.comparing.small import TREE, write

ARM = {"method": "sft", "settings": {"train.steps": 2}}


def test_the_command(run: Run, tmp_path: Path) -> None:
    """Listed, made in two sittings of different seeds, the second of which is told nothing is left; then a page."""
    evaluation = {**cast("dict[str, object]", TREE["evaluation"]), "at": [1]}
    short: dict[str, Any] = {"evaluation": evaluation, "arms": {"sft": ARM}, "knobs": None}
    file, out = write(tmp_path / "small.yaml", **short, quick={"evaluation": {"limit": 2}}), tmp_path / "out"
    listed = run("compare", file, "--out", out, "--list")
    assert (listed.code, listed.out.count("missing"), out.exists()) == (0, 5, False)
    part = ("compare", file, "--out", out, "--only", "sft", "--seeds", "1")
    asked, _ = run(*part, "--list").out.splitlines()
    assert asked.startswith("missing")
    assert " sft.seed-1." in asked
    assert run(*part).code == 0
    assert [path.name.split(".")[1] for path in (out / "cells").iterdir()] == ["seed-1"]
    assert not (out / "report.html").exists()
    whole = run("compare", file, "--out", out)
    assert whole.code == 0
    assert "sft" in whole.out
    assert f"report: {out / 'report.html'}" in whole.out
    assert set(json.loads((out / "summary.json").read_text())["methods"]) == {"sft", "base-again"}
    assert "missing" not in run("compare", file, "--out", out, "--list").out.split("4 cells are there")[0]
    page = (out / "report.html").read_text()
    assert "--out" in page
    assert build_report(out).read_text() == page
    # The quick one asks for other prompts: nothing of the whole one fits it.
    assert run("compare", file, "--out", out, "--quick", "--list").out.count("missing ") == 5


def test_refusals(run: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "small.yaml")
    for seeds in ("0..3", "3-1"):
        assert run("compare", file, "--out", tmp_path / "out", "--seeds", seeds).err == (
            f"error: --seeds={seeds!r} must be numbers and ranges upwards, as in 0-3,7\n"
        )
    assert "(did you mean 'inpo'?)" in run("compare", file, "--out", tmp_path / "out", "--only", "inpp").err
    assert "(did you mean 'inpo'?)" in run("compare", file, "--out", tmp_path / "out", "--only", "inpp", "--list").err
    for rest in (("--list",), ("--knobs",), ("--only", "inpo"), ("--seeds", "0")):
        assert "--table makes no cell" in run("compare", file, "--out", tmp_path / "out", "--table", *rest).err
    assert run("compare", "worlds", "--out", tmp_path / "out").code == 2
