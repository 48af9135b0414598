"""The step itself: what of a method reaches the gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from inpo.errors import RunFault
from inpo.methods import METHODS
from inpo.objectives import Safeguard
from inpo.points import NoisedPairs
from inpo.randomness import PairNoise
from inpo.training.step import preference_step
from inpo.training.stop import Stop
from inpo.training.trainer import Trainer
from tests.tiny_denoiser import MemoryLoader, TinyDenoiser, tiny_subject
from tests.training_runs import moved_subject, settings, trainer


@pytest.mark.parametrize("name", ["inpo", "diffusion-dpo", "dmpo"])
def test_a_safeguard_reaches_the_gradient(name: str) -> None:
    """With it the gradient is that of the winners plus that of the losers, times λ where it pushes them away, pair by pair (some pairs are
    past DMPO's target, none past DPO's); the losses are the same numbers."""
    plain = METHODS[name]
    subject, loader = moved_subject(torch.float64), MemoryLoader(dtype=torch.float64)
    policy: TinyDenoiser = subject.policy  # type: ignore[assignment]
    pairs, t = loader.fetch(range(8)), torch.arange(50, 1000, 119)
    noised = plain.noising(policy, pairs, t, PairNoise(0, 0, tuple(range(8))), lose=True, batch_pairs=8)
    losses, grads, sides = [], [], []
    for method in (plain, replace(plain, safeguard=Safeguard(0.9))):
        result = preference_step(policy, subject.reference, noised, method)
        losses.append(result.losses.detach())
        grads.append(torch.autograd.grad(result.losses.sum(), policy.out.weight, retain_graph=True)[0])
        sides.append((result.win, result.lose))
    scale = Safeguard(0.9).scale(*sides[0])  # type: ignore[arg-type]
    assert 0 < float(scale.min()) < 1
    assert torch.equal(*losses)
    expected = torch.zeros_like(grads[0])
    for row in range(8):
        result = preference_step(policy, subject.reference, noised[slice(row, row + 1)], plain)
        assert result.lose is not None
        by_side = torch.autograd.grad(result.losses.sum(), [result.win.prediction, result.lose.prediction], retain_graph=True)
        pushed = float((by_side[1] * result.lose.residual.detach()).sum()) < 0
        assert pushed or name == "dmpo"
        for side, grad, factor in ((result.win, by_side[0], 1.0), (result.lose, by_side[1], float(scale[row]) if pushed else 1.0)):
            expected += torch.autograd.grad(side.prediction, policy.out.weight, grad_outputs=factor * grad, retain_graph=True)[0]
    assert_close(grads[1], expected)
    assert not torch.allclose(grads[0], grads[1])


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.objective.needs.reference])
def test_another_network_as_reference_is_found_whatever_beta_is(name: str) -> None:
    """Before the first step: DSPO's β of 0.001 makes every u small, and single pictures have none; |R − L| shows it."""
    other = replace(tiny_subject(), reference=tiny_subject(1).policy)
    with pytest.raises(RunFault, match="policy and reference differ before the first step"):
        trainer(subject=other, name=name, use=settings(pairs_per_step=8)).step_once(0)
    trainer(name=name, use=settings(pairs_per_step=8)).step_once(0)


def test_single_pictures_with_another_reference_are_found() -> None:
    """Their margins are absent, so gains alone can tell."""
    from tests.unit.training.test_baseline import Singles

    other = replace(tiny_subject(), reference=tiny_subject(1).policy)
    with pytest.raises(RunFault, match=r"max\|R − L\| is"):
        Trainer(other, Singles(), method=METHODS["diffusion-kto"], settings=settings(), stop=Stop()).step_once(0)


def test_rows_of_pairs_with_one_point_each_are_slices() -> None:
    """No condition is gathered where a slice will do."""
    pairs = MemoryLoader().fetch(range(4))
    noised = METHODS["sft"].noising(TinyDenoiser(), pairs, torch.arange(4), PairNoise(0, 0, (0, 1, 2, 3)), lose=False, batch_pairs=4)
    part: NoisedPairs = noised[slice(1, 3)]
    assert part.condition.tensors["text"].data_ptr() == pairs.condition.tensors["text"][1:].data_ptr()
