"""Every pair once an epoch, in an order that only seed and epoch decide, near enough on disk to be read cheaply."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpo.data.order import BlockShuffle, endless_pair, first_held_out, held_out, ids_of, window_blocks
from tests.unit.data.making import MadePairs, pair_record


@settings(max_examples=60)
@given(st.sets(st.integers(0, 400), min_size=1), st.integers(1, 50), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_is_a_permutation(rows: set[int], block: int, seed: int, epoch: int) -> None:
    """Whatever rows are missing and whatever the block: each row once, and the epoch's number is told."""
    order = BlockShuffle(np.array(sorted(rows)), block, seed)
    places = [order.locate(epoch * len(rows) + i) for i in range(len(rows))]
    assert {e for e, _ in places} == {epoch}
    assert sorted(row for _, row in places) == sorted(rows)


def test_many_windows_are_still_a_permutation() -> None:
    """5,000 rows in blocks of 100 with holes: several windows, the last of them short."""
    rows = np.array([i for i in range(5000) if i % 7])
    order = BlockShuffle(rows, 100, seed=1)
    seen = [order.locate(len(rows) + i)[1] for i in range(len(rows))]
    assert sorted(seen) == rows.tolist()


def test_the_order_is_pure_in_seed_and_epoch() -> None:
    """Asked in any order, by any instance: the same answer. Another seed or epoch: another order."""
    rows = np.arange(3000)
    forward, backward = BlockShuffle(rows, 10, seed=3), BlockShuffle(rows, 10, seed=3)
    positions = [0, 2999, 3000, 8999, 1500, 123456]
    assert [forward.locate(p) for p in positions] == [backward.locate(p) for p in reversed(positions)][::-1]
    first = [forward.locate(p)[1] for p in range(3000)]
    assert first != [forward.locate(3000 + p)[1] for p in range(3000)]
    assert first != [BlockShuffle(rows, 10, seed=4).locate(p)[1] for p in range(3000)]
    assert first != sorted(first)


def test_neighbours_in_the_order_are_neighbours_on_disk() -> None:
    """Within a window only the window's blocks are read: 11 of 400 here, where a global shuffle would read nearly all."""
    order = BlockShuffle(np.arange(40_000), 100, seed=0)
    width = window_blocks(100)
    blocks, next_epoch = ({order.locate(start + i)[1] // 100 for i in range(width * 100)} for start in (0, 40_000))
    assert len(blocks) == len(next_epoch) == width == 11
    assert blocks != next_epoch
    assert window_blocks(5000) == 2


def test_a_pair_is_mixed_over_the_whole_window() -> None:
    """Two pairs that are neighbours on disk lie apart by hundreds on average."""
    order = BlockShuffle(np.arange(2048), 64, seed=0)
    place = np.empty(2048, dtype=int)
    place[[order.locate(i)[1] for i in range(2048)]] = np.arange(2048)
    assert np.abs(np.diff(place)).mean() > 200


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.3])
def test_the_held_out_share_is_the_fraction(fraction: float) -> None:
    """Of 5,000 ids within 4 standard errors, and a larger share holds out all that a smaller one does."""
    held = [held_out(f"pair {i}", fraction) for i in range(5000)]
    assert abs(np.mean(held) - fraction) <= 4 * np.sqrt(fraction * (1 - fraction) / 5000)
    assert all(held_out(f"pair {i}", 0.5) for i in range(5000) if held[i])


def test_an_endless_source_trains_on_no_held_out_pair() -> None:
    """In its own order; in the place of a held-out pair stands one from beyond, and both kinds of answer are pure."""
    source = MadePairs(None)
    held = {pair.id for pair in first_held_out(source.__getitem__, 0.3)}
    trained = [endless_pair(source.__getitem__, position, 0.3).id for position in range(200)]
    own = [pair_record(i).id for i in range(200)]
    assert len(held) > 400
    assert not held & set(trained)
    assert all(mine == theirs or theirs in held for mine, theirs in zip(trained, own, strict=True))
    assert len(set(trained)) == 200
    assert trained[17] == endless_pair(MadePairs(None).__getitem__, 17, 0.3).id


def test_an_endless_pair_costs_no_counting() -> None:
    """Position a million is read without reading what comes before it."""
    source = MadePairs(None)
    endless_pair(source.__getitem__, 1_000_000, 0.3)
    assert len(source.read) < 20


def test_ids_are_asked_for_without_reading_where_the_source_knows_them() -> None:
    source = MadePairs(3)
    assert ids_of(source) == [pair_record(i).id for i in range(3)]
    assert len(source.read) == 3
    source.ids = ["a", "b", "c"]  # type: ignore[attr-defined]
    assert ids_of(source) == ["a", "b", "c"]
    assert len(source.read) == 3
