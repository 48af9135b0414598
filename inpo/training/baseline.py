"""The gain that a policy has made lately on pictures of any label: what Diffusion-KTO compares each picture's own gain with."""

from __future__ import annotations

from collections.abc import Mapping

from inpo.errors import InputError
from inpo.objectives import gain_baseline
from inpo.training.tally import Summary


class GainBaseline:
    """z of the next optimiser step (M9): from the gains of the whole step before, over all processes; 0 for the first one.

    Not of the step itself: that would take a second forward pass, or make the gradient depend on how the step is cut into
    micro-batches. Nor does a picture's own gain stand in the mean that it is compared with.
    """

    def __init__(self) -> None:
        self.z = 0.0

    def update(self, summary: Summary) -> None:
        """Takes in a completed step."""
        self.z = gain_baseline(summary.gains())

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"z": self.z}

    def load(self, state: object) -> None:
        """Undoes `state`. Raises `InputError` for anything else."""
        if not isinstance(state, Mapping) or "z" not in state:
            raise InputError(f"the checkpoint's gain_baseline is {state!r}: it was not saved by a run of a method that has one")
        self.z = float(state["z"])
