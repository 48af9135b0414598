"""scores.parquet keeps every score, atomically, and a second look-up costs nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inpo.errors import InputError
from inpo.evaluation.scores import ScoreRow, known_scores, read_scores, write_scores

ROW = ScoreRow(0, 1, 7, "base", "oracle", 0.5, '{"scorer": "oracle"}', "ab" * 32, "a <b> \0 größer")


def test_columns_are_the_contract(tmp_path: Path):
    """The names and types that later work depends on."""
    write_scores(tmp_path / "evaluation" / "scores.parquet", [ROW])
    schema = pq.read_schema(tmp_path / "evaluation" / "scores.parquet")
    assert schema.names == [
        "prompt_index", "sample_index", "seed", "model", "scorer", "score", "scorer_spec", "image_sha256", "prompt",
    ]  # fmt: skip
    assert schema.field("score").type == pa.float32()


def test_what_is_written_is_read(tmp_path: Path):
    """All values, and a score that is not a number; nothing else is left in the folder."""
    rows = [ROW, replace(ROW, score=math.nan, image_sha256="")]
    write_scores(tmp_path / "scores.parquet", rows)
    first, second = read_scores(tmp_path / "scores.parquet")
    assert first == ROW
    assert math.isnan(second.score)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    """Half a file is never seen under the name."""
    path = tmp_path / "scores.parquet"
    write_scores(path, [ROW])
    with pytest.raises(pa.ArrowException):
        write_scores(path, [replace(ROW, seed="not a number")])  # type: ignore[arg-type]
    assert read_scores(path) == (ROW,)
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.parquet"]


def test_foreign_files_are_refused(tmp_path: Path):
    """Not Parquet, or not these columns."""
    path = tmp_path / "scores.parquet"
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_scores(path)
    pq.write_table(pa.table({"score": [1.0]}), path)
    with pytest.raises(InputError, match="its columns are score: double"):
        read_scores(path)


def test_known_scores_depend_on_image_prompt_and_spec():
    """Parts lie beside their score; what is not finite or has no image is tried again."""
    part = replace(ROW, scorer="oracle#shape", score=0.25)
    rows = [ROW, part, replace(ROW, prompt="other", score=math.nan), replace(ROW, image_sha256="")]
    assert known_scores(rows) == {(ROW.image_sha256, ROW.prompt, ROW.scorer_spec): {"oracle": 0.5, "oracle#shape": 0.25}}
