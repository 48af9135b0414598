"""The method on networks of the transformers' own formats: where inversion lands and what it costs, u at the start, batches, points."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from inpo.methods import METHODS
from inpo.models.config import Lora, ModelConfig
from inpo.models.loading import load
from inpo.models.model import Model
from inpo.noising import Inversion
from inpo.objectives.pairwise import implicit_margin
from inpo.points import Denoising
from inpo.randomness import PairNoise
from inpo.types import PairBatch

PROMPTS = ["a red circle", "", "a blue square on a white background"]
FAMILIES = {"SD3": "tiny_sd3_pipeline", "PixArt-Σ": "tiny_pixart_pipeline"}
# Landing at the end, in the first bucket, and exactly on a node.
TIMES = {"SD3": torch.tensor([0.93, 0.04, 0.3]), "PixArt-Σ": torch.tensor([930, 40, 300])}
EVALUATIONS = {"SD3": [10, 1, 3], "PixArt-Σ": [10, 1, 4]}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str, request: pytest.FixtureRequest) -> Model:
    folder: Path = request.getfixturevalue(FAMILIES[family])
    return load(ModelConfig(str(folder)))


def some(model: Model) -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    win, lose = (torch.randn(3, *model.latent_shape(), generator=generator) for _ in range(2))
    return PairBatch(win, lose, model.encoder.encode_prompts(PROMPTS), torch.ones(3), ("a", "b", "c"))


def test_inversion_lands_on_t_after_k_evaluations_of_each_image(model: Model, family: str) -> None:
    """k = ⌈10 t⌉ on a flow, ⌊10 t/T⌋ + 1 on a table, of winner and loser. τ takes x_0 to x_t, and the target is in the network's space."""
    images: list[int] = []
    hook = model.policy.network.register_forward_pre_hook(lambda _, args: images.append(len(args[0])))
    batch, t = some(model), TIMES[family]
    noised = Inversion()(model.policy, batch, t, PairNoise(0, 0, (0, 1, 2)), lose=True, batch_pairs=8)
    hook.remove()
    k = [math.ceil(10 * x - 1e-6) for x in t.tolist()] if family == "SD3" else (t * 10 // 1000 + 1).tolist()
    assert sum(images) == 2 * sum(k)
    assert k == EVALUATIONS[family]
    for side, x_0 in ((noised.win, batch.win), (noised.lose, batch.lose)):
        assert side is not None
        assert x_0 is not None
        assert torch.equal(side.t, t)
        alpha, sigma = model.policy.schedule.at(t).coefficients(x_0)
        assert_close(side.x_t, alpha * x_0 + sigma * side.tau)
        assert_close(side.target, (side.x_t - x_0) / t.view(-1, 1, 1, 1) if family == "SD3" else side.tau, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["inpo", "diffusion-dpo"])
@pytest.mark.parametrize("lora", [None, Lora(rank=2), Lora(rank=2, dora=True)], ids=["full", "lora", "dora"])
def test_policy_as_the_reference_has_no_margin(family: str, name: str, lora: Lora | None, request: pytest.FixtureRequest) -> None:
    """max |u| ≤ 1e-4 (docs/method.md §6.5) at β = 5000, and the loss of each pair is ln 2."""
    model = load(ModelConfig(str(request.getfixturevalue(FAMILIES[family]))), lora=lora)
    method = METHODS[name]
    batch, reference = some(model), model.reference()
    noised = method.noising(model.policy, batch, TIMES[family], PairNoise(0, 0, (0, 1, 2)), lose=True, batch_pairs=2)
    x, condition = noised.both()
    win, lose = noised.split(Denoising(x.target, model.policy(x.x_t, x.t, condition), reference(x.x_t, x.t, condition)))
    assert lose is not None
    assert implicit_margin(win, lose, 5000.0).abs().max() <= 1e-4
    assert_close(method.objective(win, lose, batch.preference), torch.full((3,), math.log(2)), atol=1e-4, rtol=0)


def test_points_of_a_batch_are_those_of_its_pairs_alone(model: Model, family: str) -> None:
    """Three times, three prompts, three k: x_t and target of each pair as when it is inverted by itself, in fp64 to 1e-9."""
    policy = load(ModelConfig(str(model.source))).policy.double()
    policy.schedule = dataclasses.replace(policy.schedule, dtype=torch.float64)  # type: ignore[type-var]
    batch, t = _double(some(model)), TIMES[family]
    t = t.double() if family == "SD3" else t
    noise = PairNoise(0, 0, (0, 1, 2))
    together = Inversion()(policy, batch, t, noise, lose=True, batch_pairs=3)
    for i in range(3):
        alone = Inversion()(policy, batch[[i]], t[i : i + 1], noise[[i]], lose=True, batch_pairs=1)
        for a, b in ((together.win, alone.win), (together.lose, alone.lose)):
            assert a is not None
            assert b is not None
            assert_close((a.x_t[i], a.target[i]), (b.x_t[0], b.target[0]), atol=1e-9, rtol=1e-9)


def _double(batch: PairBatch) -> PairBatch:
    lose: Tensor | None = None if batch.lose is None else batch.lose.double()
    return dataclasses.replace(batch, win=batch.win.double(), lose=lose)
