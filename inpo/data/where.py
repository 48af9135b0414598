"""`data.where`: rows are kept where a column compares with a value as asked, such as "nsfw < 0.1" or "model_0 == 'sdxl'"."""

from __future__ import annotations

import ast
import numbers
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from inpo.data.fields import Fault, short
from inpo.errors import InputError, nearest

Value = float | str | bool

_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_CONDITION = re.compile(r"\s*(?P<column>[^<>=!\s][^<>=!]*?)\s*(?P<sign><=|>=|==|!=|<|>)\s*(?P<value>.*\S)\s*", re.DOTALL)
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class Condition:
    """One comparison of a column with a number, a text, or true and false."""

    text: str
    column: str
    sign: str
    value: Value

    @property
    def kind(self) -> str:
        """The kind of value that the column must hold."""
        return _kind(self.value)

    def keeps(self, value: object) -> bool:
        """Whether a row with this value stays. A missing value compares with nothing. Raises `TypeError` for another kind of value."""
        if value is None or value == "" or value != value:
            return False
        plain = _as_kind(value, self.kind)
        return bool(_COMPARISONS[self.sign](plain, self.value))


def parse_condition(text: str) -> Condition:
    """Raises `InputError` for anything but `column < value`, the sign being one of <, <=, ==, !=, >= and >."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise InputError(f'data.where={text!r} is not a comparison: write one like "nsfw < 0.1" or "model_0 == \'sdxl\'"')
    value = _value(match["value"], text)
    if isinstance(value, bool) and match["sign"] not in ("==", "!="):
        raise InputError(f"data.where={text!r}: true and false have no order; compare them by == or !=")
    return Condition(text, match["column"].strip("`\"'"), match["sign"], value)


def check_columns(conditions: Sequence[Condition], columns: Mapping[str, str], name: str) -> None:
    """Raises `InputError` where a condition names a column that `name` does not have, or one of another kind."""
    for condition in conditions:
        kind = columns.get(condition.column)
        if kind is None:
            hint = nearest(condition.column, columns)
            raise InputError(
                f"{name}: data.where={condition.text!r}: there is no column {condition.column!r} of single values{hint}; "
                f"columns {', '.join(columns)}"
            )
        if kind not in ("any", condition.kind):
            raise InputError(f"{name}: data.where={condition.text!r}: the column {condition.column} holds {kind}, not {condition.kind}")


def judge(conditions: Sequence[Condition], values: Mapping[str, object]) -> tuple[bool, tuple[Fault, ...]]:
    """Whether a row is wanted, and the values that cannot be compared."""
    wanted, faults = True, []
    for condition in conditions:
        value = values.get(condition.column)
        try:
            wanted = condition.keeps(value) and wanted
        except TypeError:
            faults.append(Fault(condition.column, f"is not {_ARTICLES[condition.kind]}, and data.where compares it with one", short(value)))
    return wanted, tuple(faults)


_ARTICLES = {"number": "a number", "text": "text", "true or false": "true or false"}


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) else "number"


def _as_kind(value: object, kind: str) -> object:
    if kind == "text":
        if isinstance(value, str):
            return value
        raise TypeError
    if isinstance(value, str):
        # A CSV file knows text only.
        return _from_text(value, kind)
    if kind == "true or false":
        if isinstance(value, bool):
            return value
        raise TypeError
    if isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool):
        return value
    raise TypeError


def _from_text(value: str, kind: str) -> object:
    if kind == "true or false":
        if value.strip().lower() in _WORDS:
            return _WORDS[value.strip().lower()]
        raise TypeError
    try:
        return float(value)
    except ValueError:
        raise TypeError from None


def _value(text: str, condition: str) -> Value:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if isinstance(value, int | float | str):
        return value
    raise InputError(f"data.where={condition!r}: {text} is neither a number, nor text in quotes, nor true or false")
