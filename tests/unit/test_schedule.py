"""Schedules, conversions' coefficients, buckets and the law of t."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inpo.randomness import stratified_uniform
from inpo.schedule import FlowSchedule, Level, vp_from_config, zero_terminal_snr
from tests.worlds import F64, SD_CONFIG, flow_schedule, sd_schedule


def test_alpha_and_sigma_lie_on_the_unit_circle() -> None:
    """α² + σ² = 1 at every VP time; and index 0 is not clean: σ_0 = √0.00085 = 0.02915 for Stable Diffusion."""
    level = sd_schedule().at(torch.arange(1000))
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(1000, dtype=F64))
    assert float(level.sigma[0]) == pytest.approx(0.00085**0.5, rel=1e-9)


def test_fp32_tables_keep_the_smallest_sigma() -> None:
    """1 − ᾱ_0 = 0.00085 must survive fp32: σ_0 right to 1e-6 (fp16 would be 7 % off, bf16 exactly 0)."""
    assert float(sd_schedule(torch.float32).at(torch.tensor([0])).sigma) == pytest.approx(0.00085**0.5, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_are_refused(dtype: torch.dtype) -> None:
    """The algebra never runs in half precision: ᾱ's rounding there is the released code's defect."""
    with pytest.raises(TypeError, match="float32 or wider"):
        sd_schedule().at(torch.tensor([3])).coefficients(torch.zeros(1, 4, 2, 2, dtype=dtype))


def test_times_outside_the_table_are_errors() -> None:
    """A negative index must not wrap around to the noisiest level."""
    for t in (-99, 1000):
        with pytest.raises(IndexError, match="0…999"):
            sd_schedule().at(torch.tensor([t]))
    for t in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"\(0, 1\]"):
            flow_schedule().at(torch.tensor([t], dtype=F64))


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 1000])
def test_every_vp_time_has_a_grid_that_starts_clean_and_lands_on_it(steps: int) -> None:
    """For all t: k(t) nodes, strictly increasing, the first in [0, Δ], the last t itself, neighbours Δ apart up to rounding."""
    schedule, stride = sd_schedule(), 1000 / steps
    for t in range(0, 1000, 1 if steps < 100 else 37):
        time = torch.tensor([t])
        nodes = [int(level.t) for level in schedule.inversion_nodes(time, steps)]
        assert len(nodes) == int(schedule.bucket(time, steps)) == t * steps // 1000 + 1
        assert nodes[-1] == t
        assert 0 <= nodes[0] <= stride + 0.5
        assert all(stride - 1 <= b - a <= stride + 1 for a, b in zip(nodes, nodes[1:], strict=False))


@pytest.mark.parametrize("steps", [0, 1001])
def test_more_inversion_steps_than_times_are_refused(steps: int) -> None:
    """Two nodes would be the same time, and the walk between them a division by nothing."""
    time = torch.tensor([500])
    for ask in (sd_schedule().bucket, sd_schedule().inversion_nodes):
        with pytest.raises(ValueError, match=rf"must be in 1…1000, the number of the model's times, got {steps}"):
            ask(time, steps)


@given(t=st.floats(1e-6, 1.0), steps=st.integers(1, 50))
def test_every_flow_time_has_a_grid_that_lands_on_it(t: float, steps: int) -> None:
    """k(t) = ⌈tN⌉ nodes, 1/N apart, the first positive (or the rounding of a multiple of 1/N), the last t."""
    schedule, time = flow_schedule(), torch.tensor([t], dtype=F64)
    nodes = [float(level.t) for level in schedule.inversion_nodes(time, steps)]
    assert len(nodes) == int(schedule.bucket(time, steps))
    assert nodes[-1] == t
    assert -1e-9 <= nodes[0] <= 1 / steps + 1e-6
    assert all(b - a == pytest.approx(1 / steps, abs=1e-9) for a, b in zip(nodes, nodes[1:], strict=False))


def test_walks_of_different_length_share_their_nodes() -> None:
    """t = 950, 250, 40 with N = 10 (k = 10, 3, 1): n_1 = (50, 50, 40), n_2 = (150, 150), n_3 = (250, 250), n_4 = (350) … n_10 = (950)."""
    nodes = sd_schedule().inversion_nodes(torch.tensor([950, 250, 40]), 10)
    assert [node.t.tolist() for node in nodes] == [[50, 50, 40], [150, 150], [250, 250], *([t] for t in range(350, 951, 100))]
    flow = flow_schedule().inversion_nodes(torch.tensor([0.75, 0.25], dtype=F64), 2)
    assert [node.t.tolist() for node in flow] == [[0.25, 0.25], [0.75]]


def test_walks_out_of_order_are_refused() -> None:
    """A longer walk behind a shorter one would be cut off: said, instead of done."""
    with pytest.raises(ValueError, match="falling"):
        sd_schedule().inversion_nodes(torch.tensor([50, 950]), 10)


def test_stratified_times_are_uniform_alone_and_even_together() -> None:
    """Among 1000 pairs of a step every one of 10 buckets has 100; the mean of the first pair's t over seeds is (T−1)/2."""
    schedule = sd_schedule()
    t = schedule.draw(stratified_uniform(1000, torch.Generator().manual_seed(1)))
    assert torch.bincount(schedule.bucket(t, 10)).tolist() == [0] + [100] * 10
    firsts = torch.tensor([int(schedule.draw(stratified_uniform(8, torch.Generator().manual_seed(s)))[0]) for s in range(3000)])
    assert float(firsts.double().mean()) == pytest.approx(499.5, abs=4 * 1000 / 12**0.5 / 3000**0.5)
    assert float(schedule.bucket(firsts, 10).double().mean()) == pytest.approx(5.5, abs=0.25)


def test_flow_times_are_positive_and_reach_one() -> None:
    """u in [0, 1) gives t in (0, 1]."""
    t = flow_schedule().draw(torch.tensor([0.0, 1 - 2**-53], dtype=F64))
    assert float(t[0]) == 1.0
    assert 0 < float(t[1]) < 1e-12


def test_zero_terminal_snr_ends_at_zero_and_keeps_its_start() -> None:
    """arXiv:2305.08891, Algorithm 1: √ᾱ_T = 0, √ᾱ_0 unchanged, and the order kept."""
    before = sd_schedule().alphas_cumprod
    after = zero_terminal_snr(before)
    assert float(after[-1]) == 0.0
    torch.testing.assert_close(after[0], before[0])
    assert bool((after.diff() < 0).all())


def test_the_clean_node_is_asked_at_the_smallest_time() -> None:
    """α = 1, σ = 0, and the network sees index 0 (flow: 0)."""
    for schedule in (sd_schedule(), flow_schedule()):
        level = schedule.clean(3)
        assert level.alpha.tolist() == [1, 1, 1]
        assert level.sigma.tolist() == [0, 0, 0]
        assert level.t.tolist() == [0, 0, 0]


def test_networks_of_a_flow_are_shown_a_thousand_t() -> None:
    assert FlowSchedule().network_time(torch.tensor([0.25])).tolist() == [250.0]
    assert sd_schedule().network_time(torch.tensor([250])).tolist() == [250]


@pytest.mark.parametrize(("key", "value"), [("beta_schedule", "sigmoid"), ("timestep_spacing", "karras"), ("trained_betas", 0.1)])
def test_unknown_schedules_are_named(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        vp_from_config({**SD_CONFIG, key: value})


def test_trained_betas_are_used_as_given() -> None:
    """ᾱ = (0.9, 0.9·0.8) for β = (0.1, 0.2)."""
    assert vp_from_config({"trained_betas": [0.1, 0.2]}).alphas_cumprod.tolist() == pytest.approx([0.9, 0.72])


def test_coefficients_broadcast_per_example() -> None:
    level = Level(torch.tensor([0.5, 0.25]), torch.tensor([0.1, 0.2]), torch.tensor([1, 2]))
    alpha, sigma = level.coefficients(torch.zeros(2, 3, 4, 4))
    assert alpha.shape == sigma.shape == (2, 1, 1, 1)
