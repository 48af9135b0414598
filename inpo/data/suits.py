"""Whether the data are what a method learns from, found before anything is read."""

from __future__ import annotations

from inpo.data.config import DataConfig
from inpo.errors import InputError
from inpo.methods import METHODS, Method


def check_settings(config: DataConfig, method: Method) -> None:
    """Raises `InputError` where settings make, or leave out, what the method cannot do without or has no use for."""
    needs, named = method.objective.needs, f"method.name={method.name!r}"
    if config.ties == "half" and not needs.ties:
        raise InputError(f"data.ties='half' means nothing to {named}, whose loss says nothing at P = ½: use 'drop'")
    if config.positive_ratio is not None and not needs.singles:
        raise InputError(
            f"data.positive_ratio={config.positive_ratio:g} makes single pictures of pairs, and {named} cannot learn from those: "
            f"leave it null, or use {_for_singles()}"
        )
    if needs.soft and config.judge is None:
        raise InputError(
            f"{named} learns from soft labels: set data.score_columns to the two columns with the pictures' scores (`inpo data score` "
            "writes them), or data.scorer and data.score_range"
        )
    if config.judge is not None and not (needs.ties or needs.soft or needs.singles):
        raise InputError(f"{config.judge} gives P(w ≻ l), and {named} does not read it: leave it null")


def check_singles(config: DataConfig, method: Method | None = None) -> None:
    """Raises `InputError` where data of single pictures meet settings for pairs, or a method that compares two."""
    single = f"data.path={config.path}: single pictures, each with a label of its own"
    if config.positive_ratio is not None:
        raise InputError(f"{single}; data.positive_ratio={config.positive_ratio:g} makes such of pairs: leave it null")
    if config.judge is not None:
        raise InputError(f"{single}; {config.judge} compares the two pictures of a pair: leave it null")
    if method is not None and not method.objective.needs.singles:
        raise InputError(f"{single}, and method.name={method.name!r} compares two: use {_for_singles()}, or give pairs")


def _for_singles() -> str:
    """What to use instead."""
    return " or ".join(f"method.name={name}" for name, known in METHODS.items() if known.objective.needs.singles)
