"""`compat="inpo-release"` against an independent derivation of what the released program does.

The derivation below starts from the facts of the release (docs/method.md §3): plain Python numbers, its pinned scheduler's inverse
grid built by rolling the ordinary one, one pair at a time. It shares no code with the package.
"""

from __future__ import annotations

import math

import pytest
import torch

from inpo.noising import Inversion
from inpo.points import NoisedPairs
from inpo.randomness import PairNoise
from tests.worlds import F64, ConstantDenoiser, pairs, sd_schedule

T, N = 1000, 10


def cumulative() -> list[float]:
    """ᾱ of Stable Diffusion, from its definition: β linear in the square root between √0.00085 and √0.012."""
    out, product = [], 1.0
    for i in range(T):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / (T - 1)
        product *= 1 - root * root
        out.append(product)
    return out


def inverse_grid() -> list[int]:
    """Ten times 0, 100 … 900, offset by one, rolled by one place, the wrapped one set a stride before the first: −99, 1 … 801."""
    ordinary = [i * (T // N) + 1 for i in range(N)]
    rolled = [ordinary[-1], *ordinary[:-1]]
    rolled[0] = rolled[1] - T // N
    return rolled


def walk(x_0: float, t_0: int, network: object, noises: list[float]) -> tuple[float, float, list[int]]:
    """(x, τ, times asked) for one number: every grid time below t_0 is stepped to the next level, then 0.1 √variance noise."""
    table, x, asked = cumulative(), x_0, []
    for j, g in enumerate(g for g in inverse_grid() if g < t_0):
        here, there = table[g] if g >= 0 else table[0], table[g + T // N]
        eps = network(x, g)  # type: ignore[operator]
        asked.append(g)
        x_hat = (x - math.sqrt(1 - here) * eps) / math.sqrt(here)
        x = math.sqrt(there) * x_hat + math.sqrt(1 - there) * eps
        x += 0.1 * math.sqrt((1 - here) / (1 - there) * (1 - there / here)) * noises[j]
    return x, (x - math.sqrt(table[t_0]) * x_0) / math.sqrt(1 - table[t_0]), asked


def test_the_grid_is_the_pinned_schedulers() -> None:
    assert inverse_grid() == [-99, 1, 101, 201, 301, 401, 501, 601, 701, 801]


@pytest.mark.parametrize("t_0", [0, 1, 2, 101, 102, 250, 555, 901, 902, 999])
def test_every_number_agrees_with_the_derivation(t_0: int) -> None:
    """x_t, τ and the times asked, number by number, with the package's own noise fed to the derivation. fp64, 1e-9."""
    batch, noise = pairs(1, (1, 1, 2)), PairNoise(0, 0, (0,))
    spy = ConstantDenoiser(sd_schedule(), torch.full((1, 1, 1, 1), 0.4, dtype=F64))
    noised: NoisedPairs = Inversion(compat="inpo-release")(spy, batch, torch.tensor([t_0]), noise, lose=True, batch_pairs=4)
    for side, x_0, stream in ((noised.win, batch.win, "win"), (noised.lose, batch.lose, "lose")):
        draws = [noise.normal(f"invert/{stream}/{j}", x_0).flatten().tolist() for j in range(N)]
        for place in range(2):
            x, tau, asked = walk(float(x_0.flatten()[place]), t_0, lambda x, g: 0.4, [d[place] for d in draws])
            assert float(side.x_t.flatten()[place]) == pytest.approx(x, rel=1e-9, abs=1e-9)  # type: ignore[union-attr]
            assert float(side.tau.flatten()[place]) == pytest.approx(tau, rel=1e-9, abs=1e-9)  # type: ignore[union-attr]
    assert [int(t[0]) for t in spy.asked] == asked


def test_the_walk_ends_past_t_while_landing_does_not() -> None:
    """At t_0 = 250 the release's walk ends at level 301, yet network and τ use 250: a constant ε = 0.4 comes back 8 % too large.
    Landing on t gives back 0.4 exactly."""
    _, tau, asked = walk(0.0, 250, lambda x, g: 0.4, [0.0] * N)
    assert asked[-1] + T // N == 301
    assert tau / 0.4 == pytest.approx(1.0835, abs=1e-4)
    denoiser = ConstantDenoiser(sd_schedule(), torch.full((1, 1, 1, 1), 0.4, dtype=F64))
    landed = Inversion()(denoiser, pairs(1), torch.tensor([250]), PairNoise(0, 0, (0,)), lose=False, batch_pairs=1)
    torch.testing.assert_close(landed.win.tau, torch.full_like(landed.win.tau, 0.4), rtol=0, atol=1e-12)


def test_mean_number_of_evaluations() -> None:
    """Over all t_0 uniform: E[evaluations] = 6.38 for the release, 5.5 for landing on t."""
    assert Inversion(compat="inpo-release").mean_evaluations(sd_schedule()) == pytest.approx(6.38, abs=0.005)
    assert Inversion().mean_evaluations(sd_schedule()) == 5.5
