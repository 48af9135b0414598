"""Out-of-range settings are refused by the name that the user typed."""

from __future__ import annotations

import math

import pytest

from inpo.errors import InputError
from inpo.training import OptimizerConfig, TrainConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0), ("pairs_per_step", -1), ("micro_batch_pairs", 0), ("inversion_batch_pairs", 0), ("keep", 0), ("steps", True),
        ("steps", 1.5), ("seed", -1), ("save_every_steps", 0), ("sample_every_steps", -1), ("average_decay", 1.0), ("average_decay", 0.0),
    ],
)  # fmt: skip
def test_train_values_out_of_range_name_their_key(key: str, value: object) -> None:
    """The message has the dotted key and the value found."""
    with pytest.raises(InputError, match=rf"train\.{key}={value!r}"):
        TrainConfig(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0), ("lr", math.inf), ("lr", "1e-5"), ("lr", True), ("warmup_steps", -1), ("weight_decay", -0.1), ("clip", 0),
        ("clip", math.nan),
    ],
)  # fmt: skip
def test_optimizer_values_out_of_range_name_their_key(key: str, value: object) -> None:
    """The same for the optimiser."""
    with pytest.raises(InputError, match=rf"optimizer\.{key}={value!r}"):
        OptimizerConfig(**{key: value})


@pytest.mark.parametrize(("key", "value", "hint"), [("name", "adamW8", "adamw"), ("schedule", "cosin", "cosine")])
def test_misspelt_choices_are_told_the_nearest(key: str, value: str, hint: str) -> None:
    """And what there is."""
    with pytest.raises(InputError, match=rf"optimizer\.{key}='{value}' is not known \(did you mean '{hint}'\?\)"):
        OptimizerConfig(**{key: value})


def test_none_turns_things_off() -> None:
    """There is no other word for off."""
    config = TrainConfig(save_every_steps=None, sample_every_steps=None, average_decay=None)
    assert (config.save_every_steps, config.sample_every_steps, config.average_decay) == (None, None, None)
    assert OptimizerConfig(clip=None).clip is None
