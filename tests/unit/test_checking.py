"""A setting's value is refused by the key that the user typed, with what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from inpo.checking import number, one_of, whole
from inpo.errors import InputError


@pytest.mark.parametrize(
    ("check", "says"),
    [
        (lambda: one_of("a.b", "rde", ("red", "blue")), "a.b='rde' is not known (did you mean 'red'?); expected one of: red, blue"),
        (lambda: whole("a.b", 1.0, low=1), "a.b=1.0 must be a whole number of at least 1"),
        (lambda: whole("a.b", True, low=0), "a.b=True must be a whole number of at least 0"),
        (lambda: whole("a.b", 0, low=1, optional=True), "a.b=0 must be a whole number of at least 1, or null"),
        (lambda: number("a.b", math.nan, low=0), "a.b=nan must be a finite number of at least 0"),
        (lambda: number("a.b", 0, low=0, above=True), "a.b=0 must be a finite number above 0"),
        (lambda: number("a.b", 2, low=0, high=1), "a.b=2 must be a finite number from 0 to 1"),
        (lambda: number("a.b", "1", low=0, high=1), "a.b='1' must be a finite number from 0 to 1"),
    ],
)
def test_refusals_say_key_value_and_range(check: Callable[[], None], says: str) -> None:
    """The whole message."""
    with pytest.raises(InputError) as caught:
        check()
    assert str(caught.value) == says


def test_ends_of_ranges_are_inside() -> None:
    """And None, where it is allowed."""
    one_of("a", "red", ("red",))
    whole("a", 1, low=1)
    whole("a", None, low=1, optional=True)
    number("a", 1, low=0, high=1)
    with pytest.raises(InputError):
        whole("a", None, low=1)
