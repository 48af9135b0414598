"""A file that is replaced is at every moment absent, the old one or the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpo.files import replacing


def test_a_file_is_there_when_its_writer_is_done(tmp_path: Path) -> None:
    """Nothing appears under the name before, and nothing is left beside it after."""
    file = tmp_path / "scores.json"
    file.write_text("old")
    with replacing(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"scores.json": "new"}


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    """And no half file beside it, also where it had not begun to write."""
    file = tmp_path / "scores.json"
    file.write_text("old")
    for begun in (True, False):
        with pytest.raises(OSError, match="disk"):
            fail_while_replacing(file, begun=begun)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"scores.json": "old"}


def fail_while_replacing(file: Path, *, begun: bool) -> None:
    with replacing(file) as partial:
        if begun:
            partial.write_text("ne")
        raise OSError("the disk is full")
