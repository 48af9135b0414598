"""Settings are checked where they enter, by name, value and what is allowed."""

from __future__ import annotations

from dataclasses import fields

import pytest

from inpo.data.config import DataConfig
from inpo.errors import InputError


def test_the_keys_are_the_contract() -> None:
    """CONTRACTS.md, "Configuration keys", under `data`."""
    assert [field.name for field in fields(DataConfig)] == [
        "path", "root", "where", "positive_ratio", "score_columns", "scorer", "score_range", "ties", "verify", "max_rejected_fraction",
        "resolution", "flip", "crop", "latents", "sizes", "prompt_dropout", "validation_fraction",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("path", "", "a Parquet file"),
        ("path", 3, "a Parquet file"),
        ("ties", "hlaf", "(did you mean 'half'?); expected one of: drop, half, error"),
        ("verify", "no", "full, headers"),
        ("crop", "centre", "(did you mean 'center'?); expected one of: center, random"),
        ("latents", "mode", "mean, sample"),
        ("sizes", "origin", "(did you mean 'original'?); expected one of: constant, original"),
        ("max_rejected_fraction", 1.5, "a finite number from 0 to 1"),
        ("max_rejected_fraction", float("nan"), "a finite number from 0 to 1"),
        ("prompt_dropout", -0.1, "a finite number from 0 to 1"),
        ("prompt_dropout", True, "a finite number from 0 to 1"),
        ("validation_fraction", 0.6, "a finite number from 0 to 0.5"),
        ("validation_fraction", "0.1", "a finite number from 0 to 0.5"),
        ("resolution", 0, "a positive multiple of 8"),
        ("resolution", 500, "a positive multiple of 8"),
        ("resolution", 512.0, "a positive multiple of 8"),
        ("flip", "yes", "true or false"),
    ],
)
def test_a_value_out_of_range_is_named(key: str, value: object, allowed: str) -> None:
    with pytest.raises(InputError) as caught:
        DataConfig(**{"path": "pairs.parquet", key: value})
    assert f"data.{key}={value!r}" in str(caught.value)
    assert allowed in str(caught.value)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    config = DataConfig("p", max_rejected_fraction=0, prompt_dropout=1, validation_fraction=0.5, resolution=8)
    assert (config.prompt_dropout, config.resolution) == (1, 8)
