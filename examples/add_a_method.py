"""A new method: SLiC's hinge loss (arXiv:2305.10425) on inverted latents, registered, and asked for one step of a toy network.

    python examples/add_a_method.py

In the package itself the class would live in inpo/objectives/ and the row in inpo/methods.py. See docs/add-a-method.md.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from inpo.methods import METHODS, Method, method
from inpo.noising import Inversion
from inpo.objectives import Needs, OnMargin
from inpo.points import Denoising
from inpo.randomness import PairNoise, stratified_uniform
from inpo.schedule import PredictionType, Schedule, vp_from_config
from inpo.training.step import preference_step
from inpo.types import Condition, PairBatch


@dataclass(frozen=True)
class Hinge(OnMargin):
    """max(0, 1 − u): leaves a pair alone once its margin (M8) is 1. `beta` and the margin are those of every loss on u."""

    needs: ClassVar[Needs] = Needs(ties=False)
    at_zero_margin: ClassVar[float | None] = 1.0

    def __call__(self, win: Denoising, lose: Denoising | None, preference: Tensor) -> Tensor:
        """`[B]`, unreduced."""
        return (1 - self.margin(win, lose)).clamp(min=0)


METHODS["inpo-hinge"] = Method("inpo-hinge", "A hinge on inverted latents", "arXiv:2305.10425", Inversion(), Hinge(beta=2000.0))


class ToyDenoiser(nn.Module):
    """One convolution that answers ε and ignores its prompt."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.prediction_type: PredictionType = "epsilon"
        self.convolution = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """`[B,4,H,W]`."""
        answer: Tensor = self.convolution(x_t)
        return answer


def one_step(name: str, count: int = 8) -> tuple[Tensor, Tensor]:
    """Inverts `count` random pairs with the policy, compares policy and reference there: the losses `[count]`, and a gradient."""
    torch.manual_seed(0)
    policy = ToyDenoiser(vp_from_config({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}))
    ref = copy.deepcopy(policy).requires_grad_(False)
    prompts = Condition({"prompt": torch.zeros(count, 1)})
    ids = tuple(f"pair-{i}" for i in range(count))
    pairs = PairBatch(torch.randn(count, 4, 8, 8), torch.randn(count, 4, 8, 8), prompts, torch.ones(count), ids)
    t = policy.schedule.draw(stratified_uniform(count, torch.Generator().manual_seed(0)))
    chosen = method(name)
    noised = chosen.noising(policy, pairs, t, PairNoise(0, 0, tuple(range(count))), lose=chosen.objective.needs.lose, batch_pairs=count)
    losses = preference_step(policy, ref, noised, chosen).losses
    (gradient,) = torch.autograd.grad(losses.mean(), policy.convolution.weight)
    return losses, gradient


if __name__ == "__main__":
    losses, gradient = one_step("inpo-hinge")
    print(f"inpo-hinge before its first step: losses {[round(loss, 4) for loss in losses.tolist()]}, all should be 1")
    print(f"norm of the gradient: {float(gradient.norm()):.3g}")
