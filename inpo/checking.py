"""Whether a setting's value may be. Each check raises `InputError` naming the key as the user typed it, the value, and what is allowed."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Collection, Mapping

from inpo.errors import InputError, nearest

KINDS = {"int": "a whole number", "float": "a number", "string": "text", "bool": "true or false", "finite": "a finite number"}
"""What fields want, by how pydantic's names of errors begin."""


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


def members(hint: object) -> tuple[object, ...]:
    """The types of a union; of another type itself."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)


def ill_typed(detail: object, prefix: str, values: Mapping[str, object], hints: Mapping[str, object]) -> str:
    """One of pydantic's errors in words of ours. `values`: what was to become a dataclass, `hints`: its fields' types."""
    found = typing.cast("dict[str, typing.Any]", detail)
    message = str(found["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if found["type"] == "value_error" or not found["loc"]:
        # A component's own check: it names its key already, with or without the section.
        return message if message.startswith(prefix) else f"{prefix}.{message}"
    name = str(found["loc"][0])
    if (wanted := _list_wanted(hints.get(name))) and found["type"] in ("missing", "too_long", "tuple_type"):
        return f"{prefix}.{name}={values.get(name)!r} must be {wanted}"
    return f"{prefix}.{name}={found['input']!r} must be {KINDS.get(found['type'].partition('_')[0], message)}"


def _list_wanted(hint: object) -> str | None:
    """How a list is typed that this field wants; None for a field that wants none."""
    for member in members(hint):
        if typing.get_origin(member) is tuple:
            items = [item for item in typing.get_args(member) if item is not ...]
            number = "" if ... in typing.get_args(member) else f" of {len(items)} values"
            return f"a list{number}, as in [{'0, 1' if float in items else 'a, b'}]"
    return None
