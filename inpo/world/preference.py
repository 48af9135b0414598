"""Who prefers what: Bradley–Terry labels over the oracle's scores, and how often anyone could agree with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BradleyTerry:
    """P(0 ≻ 1) = σ((s_0 − s_1) / temperature); scores nearer than `tie` are a tie."""

    temperature: float = 0.05
    tie: float = 0.01

    def probability(self, gap: float) -> float:
        """P(0 ≻ 1) at a difference of scores."""
        return float(1 / (1 + np.exp(-gap / self.temperature)))

    def label(self, gap: float, rng: np.random.Generator) -> float:
        """A drawn label: 1 where picture 0 is preferred, 0 where picture 1 is, ½ for a tie."""
        if abs(gap) < self.tie:
            return 0.5
        return float(rng.random() < self.probability(gap))

    def best_agreement(self, gaps: NDArray[np.float64]) -> float:
        """The largest expected agreement with labels of pairs that are not ties: that of who knows the scores. NaN where all are ties."""
        clear = np.abs(gaps[np.abs(gaps) >= self.tie])
        return float((1 / (1 + np.exp(-clear / self.temperature))).mean()) if len(clear) else float("nan")
