"""bf16 and fp16 runs on the embedded world stay within a stated distance of the fp32 run (docs/precision-and-memory.md)."""

from __future__ import annotations

import math
import sys
from functools import cache
from pathlib import Path

import pytest

from inpo.types import Dtype

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from precision import Run, run

STEPS, PAIRS = 6, 4
HALF: dict[Dtype, tuple[float, float]] = {"bf16": (0.2, 0.1), "fp16": (0.1, 0.05)}
"""Largest relative distance of the update of all weights, and largest difference of a step's loss."""


@cache
def world(dtype: Dtype) -> Run:
    """Six steps of four pairs by InPO, the same in each precision but for the UNet's inside."""
    return run(dtype, STEPS, PAIRS)


@pytest.mark.parametrize("dtype", HALF)
def test_the_first_step_is_exact_in_each_precision(dtype: Dtype) -> None:
    """Policy and reference take the same kernels: every u is exactly 0, so margin is 0 and the loss ln 2."""
    first = world(dtype).lines[0]
    assert (first["margin"], first["implicit_accuracy"]) == (0.0, 0.5)
    assert math.isclose(float(str(first["loss"])), math.log(2), rel_tol=1e-6)


@pytest.mark.parametrize("dtype", HALF)
def test_a_run_in_half_precision_is_near_the_run_in_fp32(dtype: Dtype) -> None:
    """Weights have moved by as much and in the same direction, and every loss is near; but they are not the same numbers."""
    update, loss = HALF[dtype]
    assert 0 < world(dtype).distance(world("fp32")) < update
    assert world(dtype).loss_distance(world("fp32")) < loss


@pytest.mark.parametrize("dtype", HALF)
def test_the_gradient_has_the_size_that_it_has_in_fp32(dtype: Dtype) -> None:
    """The loss scale is out of the gradient before it is measured and clipped; Adam alone would not tell, as it divides it out."""
    norms = [float(str(world(each).lines[0]["grad_norm"])) for each in (dtype, "fp32")]
    assert math.isclose(*norms, rel_tol=0.1)


def test_fp16_says_what_scaling_did() -> None:
    """The scale of every step and how often it was tried again; nothing is lost on the world."""
    lines = world("fp16").lines
    assert all({"loss_scale", "overflows"} <= line.keys() for line in lines)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
