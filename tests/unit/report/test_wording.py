"""Numbers as people write them, and text whose surprises are visible."""

from __future__ import annotations

import pytest

from inpo.report import wording


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größer, 猫, 👍🏽, é", "größer, 猫, 👍🏽, é"),
        ("a\x00b\x1b[31m", "a⟨U+0000⟩b⟨U+001B⟩[31m"),
        ("\u202eright to left", "⟨U+202E⟩right to left"),
        ("zero\u200bwidth\ufeff", "zero⟨U+200B⟩width⟨U+FEFF⟩"),
        ("half \ud800", "half ⟨U+D800⟩"),
        ("two\nlines\tand\u2028one", "two\nlines\tand⟨U+2028⟩one"),
    ],
)
def test_invisible_letters_are_spelt(text: str, shown: str):
    """Letters of all scripts stay; controls, overrides and halves of pairs do not act."""
    assert wording.visible(text) == shown
    shown.encode()


def test_long_prompts_are_cut_and_say_so():
    """Ten thousand letters do not become the page."""
    assert wording.short("x" * 10_000) == "x" * 240 + "… (10,000 characters)"
    assert wording.short("a\n  b") == "a b"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2e-5, "2e-5"),
        (500.0, "500"),
        (409600, "409,600"),
        (400, "400"),
        (0.1, "0.1"),
        (True, "yes"),
        (None, "none"),
        ("fp32", "fp32"),
        ([1, 2.0], "1, 2"),
        ([], "none"),
    ],
)
def test_plain_values(value: object, shown: str):
    """Settings without noise digits."""
    assert wording.plain(value) == shown


def test_gains_have_signs_and_enough_digits():
    """A true minus; a cosine's small gains get more decimals, all of them the same."""
    assert (wording.signed(-0.0412), wording.signed(0.5)) == ("−0.041", "+0.500")
    assert [wording.gain_digits([value]) for value in (12.0, 0.04, 0.002, 0.0)] == [3, 3, 4, 3]


def test_verdicts_and_p():
    """Only an interval without ½ decides."""
    assert [wording.verdict(*interval) for interval in ((0.51, 0.6), (0.4, 0.49), (0.5, 0.6))] == ["better", "worse", "even"]
    assert [wording.p_value(p) for p in (1e-9, 0.0123, 0.5)] == ["p < 0.001", "p = 0.012", "p = 0.50"]


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (123456, "123456"), (1234567890123456789, "…456789")])
def test_long_seeds_are_shown_by_their_end(value: int, shown: str):
    """Nineteen digits tell nobody anything; the page keeps them where one points."""
    assert wording.seed(value) == shown


def test_a_difference_of_any_size() -> None:
    """Two digits, its sign, a true minus."""
    assert [wording.brief(value) for value in (0.0010634, -0.08167, 12.3456, 0.0)] == ["+0.0011", "−0.082", "+12", "+0"]
