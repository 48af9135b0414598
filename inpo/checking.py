"""Whether a setting's value may be. Each check raises `InputError` naming the key as the user typed it, the value, and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection

from inpo.errors import InputError, nearest


def one_of(key: str, value: object, choices: Collection[str]) -> None:
    """A name from a list; the nearest one is suggested."""
    if value not in choices:
        raise InputError(f"{key}={value!r} is not known{nearest(str(value), choices)}; expected one of: {', '.join(choices)}")


def whole(key: str, value: object, *, low: int, optional: bool = False) -> None:
    """A whole number of at least `low`; None too where it is `optional`."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InputError(f"{key}={value!r} must be a whole number of at least {low}{', or null' if optional else ''}")


def number(key: str, value: object, *, low: float, high: float = math.inf, above: bool = False) -> None:
    """A finite number from `low`, or `above` it, to `high`."""
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not real or not isinstance(value, int | float) or not low <= value <= high or (above and value == low):
        bounds = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{key}={value!r} must be a finite number {f'above {low:g}' if above else bounds}")
