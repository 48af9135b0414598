"""The implicit reward of a picture: how much better the policy denoises the latents that belong to it than its reference does (M12).

InPO (arXiv:2503.18454) assigns a reward to any latent: up to β it is g = R − L (M9), the reference's error less the policy's. Here it is
averaged over the path. Times and noise are the same for all pictures, and a picture never shares a batch with another one, so its
reward is a function of the picture, the condition and the settings alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inpo.noising import Inversion, Noising
from inpo.points import Denoising, NoisedPairs
from inpo.randomness import PairNoise, seed_for
from inpo.schedule import WHOLE_PATH, Schedule, Span
from inpo.types import Condition, Denoiser, PairBatch


def path_times(schedule: Schedule, count: int, span: Span = WHOLE_PATH) -> Tensor:
    """The middles of `count` equal parts of the path, or of a `span` of it, from data to noise, `[count]`."""
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return schedule.draw(middles, span).sort().values


@dataclass(frozen=True)
class ImplicitReward:
    """`times`: how many points of the path are looked at, one in each of as many equal parts. `noising` finds them, as in training.

    `batch`: how many of a picture's points go through a network together. Nothing but rounding depends on it.
    """

    policy: Denoiser
    reference: Denoiser
    noising: Noising
    times: int = 10
    batch: int = 10

    @property
    def t(self) -> Tensor:
        """The times looked at, `[times]`: of the part of the path that the noising is for."""
        return path_times(self.policy.schedule, self.times, self.noising.t_range)

    @torch.no_grad()
    def by_time(self, x_0: Tensor, condition: Condition) -> Tensor:
        """g (M9) at each time, fp64 `[times]`, for one picture: `x_0` `[1,C,H,W]`, `condition` of one row. Its mean is r̂ (M12).

        A difference of nearly equal errors, so it is taken in fp64 whatever the networks answer in.
        """
        points, gains = self._points(x_0, condition), []
        for start in range(0, self.times, self.batch):
            part = points[slice(start, start + self.batch)]
            answers = (network(part.win.x_t, part.win.t, part.condition) for network in (self.policy, self.reference))
            gains.append(Denoising(*(each.to("cpu", torch.float64) for each in (part.win.target, *answers))).gain)
        return torch.cat(gains)

    def _points(self, x_0: Tensor, condition: Condition) -> NoisedPairs:
        """The picture's training points, by rising noise."""
        noising, walks = self._walks()
        rows = [0] * walks
        single = PairBatch(x_0[rows], None, condition[rows], torch.ones(walks), ("",) * walks)
        walker = self.reference if noising.inverter == "reference" else self.policy
        noise = PairNoise(seed_for("implicit reward"), 0, tuple(range(walks)))
        points = noising(walker, single, self.t[:walks], noise, lose=False, batch_pairs=self.batch)
        # A walk's points stand together: the first point of each walk, then the second of each.
        return points[torch.arange(self.times).view(walks, -1).T.flatten()]

    def _walks(self) -> tuple[Noising, int]:
        """How the points are found, and in how many walks: one for each time, or fewer where one walk comes by several of them.

        Walks to the times of one place in each bucket are one walk, if nothing is drawn on the way: 10 evaluations in place of 55.
        """
        plain = self.noising.at_one_time()
        if not isinstance(plain, Inversion) or plain.noisy or plain.compat or plain.t_range != WHOLE_PATH:
            return plain, self.times
        steps = plain.inversion_steps
        if self.times % steps or not _divides(steps, self.policy.schedule):
            return plain, self.times
        return replace(plain, times_per_trajectory=steps), self.times // steps


def _divides(steps: int, schedule: Schedule) -> bool:
    """Whether the strides of such a grid are whole times."""
    try:
        schedule.advance(torch.zeros(1), torch.zeros(1), steps)
    except ValueError:
        return False
    return True
