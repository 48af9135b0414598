"""Objectives: one small pure function and one frozen dataclass of its own numbers per paper.

An objective takes what the networks predicted for B winners and B losers and returns one loss per pair, `[B]`, unreduced.
"""

from inpo.objectives.base import BaselinedObjective, Needs, Objective
from inpo.objectives.pairwise import Dmpo, Dpo, Dspo, Ipo, OnMargin, Smpo
from inpo.objectives.reference_free import Mapo
from inpo.objectives.safeguard import Safeguard
from inpo.objectives.supervised import Sft
from inpo.objectives.unpaired import Kto, gain_baseline

__all__ = [
    "BaselinedObjective", "Dmpo", "Dpo", "Dspo", "Ipo", "Kto", "Mapo", "Needs", "Objective", "OnMargin", "Safeguard", "Sft", "Smpo",
    "gain_baseline",
]  # fmt: skip
