"""Objectives: one small pure function and one frozen dataclass of its own numbers per paper.

An objective takes what the networks predicted for B winners and B losers and returns one loss per pair, `[B]`, unreduced.
"""

from inpo.objectives.base import Needs, Objective
from inpo.objectives.pairwise import Dpo
from inpo.objectives.supervised import Sft

__all__ = ["Dpo", "Needs", "Objective", "Sft"]
