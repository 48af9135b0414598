"""The table of methods: a paper's name ↦ its noising, its objective and where it was published. Nothing else asks which method runs.

To add one, write an objective (a frozen dataclass with `__call__` and `margin`) or a noising, and add a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from inpo.errors import InputError, nearest
from inpo.noising import Forward, Inversion, InversionStep, Noising
from inpo.objectives import Dmpo, Dpo, Dspo, Ipo, Kto, Mapo, Objective, Safeguard, Sft, Smpo


@dataclass(frozen=True)
class Method:
    """A method is noising × objective, with or without a `safeguard` of the winner.

    `name` is what configurations and reports say; `paper` is where it comes from. Raises `ValueError` for a safeguard of an objective
    that does not compare winners with losers.
    """

    name: str
    title: str
    paper: str
    noising: Noising
    objective: Objective
    safeguard: Safeguard | None = None

    def __post_init__(self) -> None:
        needs = self.objective.needs
        if self.safeguard is not None and (needs.singles or not needs.lose):
            raise ValueError(f"safeguard.mu={self.safeguard.mu} guards winners against losers, and {self.name} compares none: leave it out")


_DPO, _SHARED = "arXiv:2311.12908", Forward(shared_noise=True)

# Numbers as the SD1.5 launchers of the releases have them (MaPO and Inversion-DPO: SDXL's); `inpo recipes NAME` prints every source.
INPO = Method("inpo", "DDIM-InPO", "arXiv:2503.18454", Inversion(inversion_steps=10), Dpo(beta=2000.0))
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        INPO,
        Method("diffusion-dpo", "Diffusion-DPO", _DPO, _SHARED, Dpo(beta=5000.0)),
        Method("sft", "Supervised fine-tuning on winners", f"{_DPO}, baseline", Forward(), Sft()),
        Method("diffusion-kto", "Diffusion-KTO", "arXiv:2404.04465", Forward(shared_noise=False), Kto(beta=1000.0)),
        Method("mapo", "MaPO", "arXiv:2406.06424", _SHARED, Mapo()),
        Method("smpo", "SmPO", "arXiv:2506.02698", Inversion(inversion_steps=5, corrector_steps=1), Smpo(beta=2000.0)),
        Method("dspo", "DSPO", "ICLR 2025", _SHARED, Dspo(beta=0.001)),
        Method("dmpo", "DMPO", "arXiv:2507.07510", _SHARED, Dmpo(beta=2000.0)),
        Method("diffusion-ipo", "IPO on forward noise", "arXiv:2310.12036", _SHARED, Ipo(beta=5000.0)),
        Method("diffusion-cdpo", "Diffusion-DPO with smoothed labels", _DPO, _SHARED, Dpo(beta=5000.0, label_smoothing=0.1)),
        Method("diffusion-sdpo", "Diffusion-SDPO", "arXiv:2511.03317", _SHARED, Dpo(beta=5000.0), Safeguard(mu=0.9)),
        Method("inpo-sdpo", "DDIM-InPO with SDPO's safeguard", "arXiv:2503.18454, 2511.03317", INPO.noising, INPO.objective, Safeguard()),
        Method("inversion-dpo", "Inversion-DPO (experimental)", "arXiv:2507.11554", InversionStep(inversion_steps=80), Dpo(beta=2000.0)),
    )
}


def method(name: str) -> Method:
    """The published method of that name. Raises `InputError` naming the nearest one, or the one that ends so (`kto`: diffusion-kto)."""
    if name not in METHODS:
        short = next((known for known in METHODS if known.endswith(f"-{name}")), None)
        meant = f" (did you mean {short!r}?)" if short else nearest(name, METHODS)
        raise InputError(f"method.name={name!r} is not a method{meant}; known: {', '.join(METHODS)}")
    return METHODS[name]
