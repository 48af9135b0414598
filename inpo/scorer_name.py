"""What a scorer is called: its kind, and the place that follows it."""

from __future__ import annotations

_PLACED = ("pickscore", "implicit")
"""Kinds that are followed by a folder, as in `pickscore:FOLDER` and `implicit:RUN`."""


def scorer_kind(name: str) -> str:
    """A scorer's name without its folder. With the scorer's `spec` it identifies it, wherever the folder is mounted."""
    kind = name.partition(":")[0]
    return kind if kind in _PLACED else name
