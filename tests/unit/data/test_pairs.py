"""A row becomes a pair only where labels, caption and images are what they must be; the id is the pair's own."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpo.data.pairs import SAME_IMAGES, examine, pair_id, record
from inpo.errors import InputError
from tests.unit.data.making import png, row

LOW, HIGH = sorted((png(1), png(2)))


def test_the_id_is_the_documented_bytes() -> None:
    """sha256 of three parts, each behind its length in 8 bytes, the image that sorts first in front."""
    parts = b"".join(len(part).to_bytes(8, "big") + part for part in (b"\1\2", b"\3", "Ωmega".encode()))
    assert pair_id(b"\3", b"\1\2", "Ωmega") == hashlib.sha256(parts).digest()


@given(st.binary(max_size=6), st.binary(max_size=6), st.text(max_size=6), st.binary(max_size=6), st.binary(max_size=6), st.text(max_size=6))
def test_ids_are_equal_only_for_equal_pairs(a: bytes, b: bytes, c: str, d: bytes, e: bytes, f: str) -> None:
    """The order of the two images is no part of the pair; everything else is, and bytes cannot move from part to part."""
    assert (pair_id(a, b, c) == pair_id(d, e, f)) == (sorted((a, b)) == sorted((d, e)) and c == f)
    assert pair_id(a, b, c) == pair_id(b, a, c)


@pytest.mark.parametrize(
    ("labels", "preference", "first_wins"),
    [((1, 0), 1.0, True), ((0, 1), 1.0, False), ((1.0, 0.0), 1.0, True), ((0.5, 0.5), 0.5, True)],
)
def test_labels_say_who_wins(labels: tuple[float, float], preference: float, first_wins: bool) -> None:
    pair = record({**row(0), "jpg_0": b"a", "jpg_1": b"b", "label_0": labels[0], "label_1": labels[1]}, where="x.parquet, row 3")
    assert (pair.preference, pair.win) == (preference, b"a" if first_wins else b"b")
    assert pair.lose == (b"b" if first_wins else b"a")
    assert pair.row == "x.parquet, row 3"
    assert pair.id == pair_id(b"a", b"b", "caption 0").hex()


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"label_0": float("nan")}, "label_0", "not a number (found NaN)"),
        ({"label_1": None}, "label_1", "missing"),
        ({"label_0": 2}, "label_0", "not 0, 0.5 or 1 (found 2)"),
        ({"label_0": -1.0}, "label_0", "not 0, 0.5 or 1 (found -1.0)"),
        ({"label_0": float("inf")}, "label_0", "not 0, 0.5 or 1 (found inf)"),
        ({"label_0": "1"}, "label_0", "not a number (found '1')"),
        ({"label_0": True}, "label_0", "not a number (found True)"),
        ({"label_0": 1.0, "label_1": 1.0}, "label_0", "contradict each other: they must sum to 1 (found label_0=1.0, label_1=1.0)"),
        ({"label_0": 0.5, "label_1": 0.0}, "label_0", "contradict each other"),
        ({"caption": None}, "caption", "missing"),
        ({"caption": ""}, "caption", "empty"),
        ({"caption": " \n\t"}, "caption", "empty"),
        ({"caption": 7}, "caption", "not UTF-8 text (found 7)"),
        ({"caption": ["a"]}, "caption", "not UTF-8 text"),
        ({"caption": b"\xff"}, "caption", "not UTF-8 text"),
        ({"caption": "half a pair \ud83d"}, "caption", "not UTF-8 text"),
        ({"jpg_0": None}, "jpg_0", "missing"),
        ({"jpg_1": "file.png"}, "jpg_1", "not bytes"),
        ({"jpg_1": {"bytes": None, "path": "/etc/passwd"}}, "jpg_1", "a path but no image bytes (found '/etc/passwd')"),
        ({"jpg_1": {"bytes": None, "path": None}}, "jpg_1", "missing"),
    ],
)
def test_a_bad_field_is_named_with_its_value(changes: dict[str, object], field: str, words: str) -> None:
    """By `record` as an error, by `examine` as a fault."""
    with pytest.raises(InputError) as caught:
        record({**row(0), **changes}, where="x.parquet, row 3")
    assert str(caught.value).startswith(f"x.parquet, row 3, {field}: ")
    assert words in str(caught.value)
    assert [fault.field for fault in examine({**row(0), **changes}, verify="full").faults] == [field]


def test_examine_lists_every_fault_of_a_row() -> None:
    broken = {**row(0), "jpg_0": b"<html>", "jpg_1": None, "label_0": 2, "label_1": "x", "caption": ""}
    faults = examine(broken, verify="full").faults
    assert sorted(fault.field for fault in faults) == ["caption", "jpg_0", "jpg_1", "label_0", "label_1"]


def test_identical_images_are_no_pair() -> None:
    faults = examine({**row(0), "jpg_1": row(0)["jpg_0"]}, verify="headers").faults
    assert [(fault.field, fault.reason) for fault in faults] == [("jpg_1", SAME_IMAGES)]


def test_an_unlabelled_row_is_neither_pair_nor_fault() -> None:
    examined = examine({**row(0), "has_label": False, "label_0": None}, verify="full")
    assert not examined.labelled
    assert not examined.faults
    assert examine({**row(0), "has_label": True}, verify="full").labelled
    assert examine({**row(0), "has_label": None}, verify="full").labelled


@pytest.mark.parametrize("images", [(LOW, HIGH), (HIGH, LOW)])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_pair_judged_twice_is_recognised(images: tuple[bytes, bytes], label: float) -> None:
    """`lower_wins` is about the pictures, not about the columns they stand in."""
    examined = examine({"jpg_0": images[0], "jpg_1": images[1], "label_0": label, "label_1": 1 - label, "caption": "c"}, verify="headers")
    winner = images[0] if label else images[1]
    assert examined.lower_wins == (winner == LOW)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5), st.lists(st.integers())
)  # fmt: skip


@settings(max_examples=100)
@given(st.fixed_dictionaries(dict.fromkeys(("jpg_0", "jpg_1", "label_0", "label_1", "caption", "has_label"), SCALARS)))
def test_any_row_is_a_verdict_and_never_a_crash(wild: dict[str, object]) -> None:
    examined = examine(wild, verify="full")
    assert examined.faults or not examined.labelled
    assert all(fault.field in wild and fault.reason and len(fault.value) < 200 for fault in examined.faults)
