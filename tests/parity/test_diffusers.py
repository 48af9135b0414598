"""Our schedules and our one step against diffusers' schedulers, step by step (docs/method.md §6.2)."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from inpo import ddim
from inpo.schedule import FlowSchedule, PredictionType, vp_from_config
from tests.worlds import SD_CONFIG

BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_cumulative_products_agree(beta_schedule: str, zero_snr: bool) -> None:
    """ᾱ from fp64 betas equals diffusers' fp32 product to 1e-6."""
    theirs = DDIMScheduler(beta_schedule=beta_schedule, rescale_betas_zero_snr=zero_snr, **BETAS)
    torch.testing.assert_close(vp_from_config(theirs.config).alphas_cumprod, theirs.alphas_cumprod.double(), rtol=0, atol=1e-6)


def test_a_pndm_config_names_the_same_path() -> None:
    """SD1.5 ships a PNDM config: its betas are read alike."""
    theirs = PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1, **BETAS)
    torch.testing.assert_close(vp_from_config(theirs.config).alphas_cumprod, theirs.alphas_cumprod.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("spacing", "steps"), [("leading", 10), ("leading", 7), ("trailing", 10)])
def test_sampling_equals_ddim_step_by_step(kind: PredictionType, spacing: str, steps: int) -> None:
    """Ten steps with a fixed random network answer at each: every intermediate latent agrees to 1e-4, the final node (ᾱ_0) too."""
    theirs = DDIMScheduler(**{**SD_CONFIG, "prediction_type": kind, "timestep_spacing": spacing})  # type: ignore[arg-type]
    theirs.set_timesteps(steps)
    nodes = vp_from_config(theirs.config).sampling_nodes(steps, 2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 4, 4, generator=generator)
    assert [int(node.t[0]) for node in nodes[:-1]] == theirs.timesteps.tolist()
    for t, r, s in zip(theirs.timesteps, nodes, nodes[1:], strict=False):
        answer = torch.randn(2, 4, 4, 4, generator=generator)
        expected = theirs.step(answer, int(t), x, eta=0.0).prev_sample
        x = ddim.transfer(kind, x, answer, r, s)
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("spacing", "steps"), [("trailing", 7), ("linspace", 10), ("linspace", 7)])
def test_where_ddim_does_not_step_to_its_next_time_the_times_are_its_own(spacing: str, steps: int) -> None:
    """diffusers steps ⌊T/n⌋ down, which is not where the next time is; our steps end there, so they are one walk."""
    theirs = DDIMScheduler(**{**SD_CONFIG, "timestep_spacing": spacing})  # type: ignore[arg-type]
    theirs.set_timesteps(steps)
    nodes = vp_from_config(theirs.config).sampling_nodes(steps, 1)
    assert [int(node.t[0]) for node in nodes[:-1]] == theirs.timesteps.tolist()
    x = answer = torch.ones(1, 1, 1, 1)
    ours = ddim.transfer("epsilon", x, answer, nodes[0], nodes[1])
    expected = theirs.step(answer, int(theirs.timesteps[0]), x).prev_sample
    lower = vp_from_config(theirs.config).at(theirs.timesteps[:1] - 1000 // steps)
    torch.testing.assert_close(ddim.transfer("epsilon", x, answer, nodes[0], lower), expected)
    assert not torch.allclose(ours, expected)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 8, 28])
def test_flow_sampling_equals_flow_match_euler(shift: float, steps: int) -> None:
    """The grid, with SD3's shift too, and every Euler step."""
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(steps)
    schedule = FlowSchedule(shift)
    nodes = schedule.sampling_nodes(steps, 2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 4, 4, generator=generator)
    for t, r, s in zip(theirs.timesteps, nodes, nodes[1:], strict=False):
        assert float(schedule.network_time(r.t)[0]) == pytest.approx(float(t), rel=1e-5)
        answer = torch.randn(2, 4, 4, 4, generator=generator)
        expected = theirs.step(answer, t, x).prev_sample
        x = ddim.transfer("flow", x, answer, r, s)
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="sampling steps"):
        vp_from_config(SD_CONFIG).sampling_nodes(steps, 1)
