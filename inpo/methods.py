"""The table of methods: a paper's name ↦ its noising, its objective and where it was published. Nothing else asks which method runs.

To add one, write an objective (a frozen dataclass with `__call__` and `margin`) or a noising, and add a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from inpo.errors import InputError, nearest
from inpo.noising import Forward, Inversion, Noising
from inpo.objectives import Dpo, Objective, Sft


@dataclass(frozen=True)
class Method:
    """A method is noising × objective. `name` is what configurations and reports say; `paper` is where it comes from."""

    name: str
    title: str
    paper: str
    noising: Noising
    objective: Objective


# β as the SD1.5 launchers of the two releases have it; `inpo recipes NAME` prints the source of every number.
INPO = Method("inpo", "DDIM-InPO", "arXiv:2503.18454", Inversion(inversion_steps=10), Dpo(beta=2000.0))
DIFFUSION_DPO = Method("diffusion-dpo", "Diffusion-DPO", "arXiv:2311.12908", Forward(shared_noise=True), Dpo(beta=5000.0))
SFT = Method("sft", "Supervised fine-tuning on winners", "arXiv:2311.12908, baseline", Forward(), Sft())

METHODS: dict[str, Method] = {method.name: method for method in (INPO, DIFFUSION_DPO, SFT)}


def method(name: str) -> Method:
    """The published method of that name. Raises `InputError` naming the nearest one."""
    if name not in METHODS:
        raise InputError(f"method.name={name!r} is not a method{nearest(name, METHODS)}; known: {', '.join(METHODS)}")
    return METHODS[name]
