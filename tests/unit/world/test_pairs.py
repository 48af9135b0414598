"""The endless source of pairs: packaged rows first, then rendered ones, pure in the index."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inpo.data.pairs import pair_id
from inpo.errors import InputError
from inpo.world.oracle import score
from inpo.world.pairs import WorldPairs, render_pair, to_png
from inpo.world.shapes import prompts


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rows: the second picture wins, a tie, the first wins."""
    rng = np.random.default_rng(0)
    rows = []
    for label in (0.0, 0.5, 1.0):
        pair = render_pair(rng)
        first, second = (to_png(picture) for picture in pair.pictures)
        rows.append({"jpg_0": first, "jpg_1": second, "label_0": label, "label_1": 1 - label, "caption": pair.caption})
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def gap(source: WorldPairs, index: int) -> float:
    pair = source[index]
    win, lose = (np.asarray(Image.open(BytesIO(image))) for image in (pair.win, pair.lose))
    return score(win, pair.caption) - score(lose, pair.caption)


def test_packaged_rows_come_first_and_ties_are_skipped(packaged: Path) -> None:
    """Index 0 is the first row with its winner in front, index 1 the third; 2 is rendered."""
    rows = pq.read_table(packaged).to_pylist()
    source = WorldPairs(packaged=packaged)
    assert (source[0].win, source[0].lose) == (rows[0]["jpg_1"], rows[0]["jpg_0"])
    assert (source[1].win, source[1].lose) == (rows[2]["jpg_0"], rows[2]["jpg_1"])
    assert "index 2" in source[2].row


def test_a_pair_is_a_pure_function_of_seed_and_index(packaged: Path) -> None:
    """Any process reads the same pair at an index, in any order; another seed reads others."""
    one, other = WorldPairs(packaged=packaged), WorldPairs(packaged=packaged)
    assert [one[i] for i in (9, 5, 10**12)] == [other[i] for i in (9, 5, 10**12)]
    assert one.fingerprint == other.fingerprint
    seeded = WorldPairs(packaged=packaged, seed=1)
    assert seeded[9].id != one[9].id
    assert seeded.fingerprint != one.fingerprint


def test_pairs_are_training_pairs_and_no_ties(packaged: Path) -> None:
    """Captions are training prompts, labels are plain, ids are the data set's own, scores differ by more than a tie."""
    source = WorldPairs(packaged=packaged)
    for index in range(2, 40):
        pair = source[index]
        assert pair.caption in prompts("train")
        assert pair.preference == 1
        assert pair.id == pair_id(pair.win, pair.lose, pair.caption).hex()
        assert abs(gap(source, index)) >= 0.01


def test_winners_score_higher_unless_shuffled(packaged: Path) -> None:
    """Labels agree with the oracle about four times in five; of the control's, half do, over the same pictures."""
    source, shuffled = WorldPairs(packaged=packaged), WorldPairs(packaged=packaged, shuffled=True)
    indices = range(2, 202)
    assert 0.7 < np.mean([gap(source, i) > 0 for i in indices]) < 0.9
    assert 0.4 < np.mean([gap(shuffled, i) > 0 for i in indices]) < 0.6
    assert all(source[i].id == shuffled[i].id for i in range(20))
    assert source.fingerprint != shuffled.fingerprint


def test_a_negative_index_is_an_error(packaged: Path) -> None:
    """There is no pair from the end of an endless source."""
    with pytest.raises(IndexError):
        WorldPairs(packaged=packaged)[-1]


def test_missing_assets_say_how_to_make_them(tmp_path: Path) -> None:
    """Without its parquet the source names the file and the command."""
    with pytest.raises(InputError, match="inpo world build"):
        WorldPairs(packaged=tmp_path / "pairs.parquet")
