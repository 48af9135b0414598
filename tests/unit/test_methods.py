"""The table of methods, row by row: what each is made of, down to the last number."""

from __future__ import annotations

import pytest

from inpo.methods import METHODS

WALK = (
    "{}(inversion_steps={}, eta=0.0, shared_noise=False, order=1, corrector_steps={}, inverter='{}', compat=None, first_eta=None, "
    "t_range=(0.0, 1.0), times_per_trajectory=1)"
)
INVERTED = WALK.format("Inversion", 10, 0, "policy")
SHARED, APART = (f"Forward(shared_noise={shared}, t_range=(0.0, 1.0))" for shared in (True, False))
DPO = "Dpo(beta={}, label_smoothing={})"

ROWS = {
    "inpo": (INVERTED, DPO.format("2000.0", "0.0"), "None"),
    "diffusion-dpo": (SHARED, DPO.format("5000.0", "0.0"), "None"),
    "sft": (SHARED, "Sft()", "None"),
    "diffusion-kto": (APART, "Kto(beta=1000.0, desired_weight=1.0, undesired_weight=1.0)", "None"),
    "mapo": (SHARED, "Mapo(beta=0.1, snr=0.5, scale=1000.0)", "None"),
    "smpo": (WALK.format("Inversion", 5, 1, "policy"), "Smpo(beta=2000.0, gamma=10.0)", "None"),
    "dspo": (SHARED, "Dspo(beta=0.001)", "None"),
    "dmpo": (SHARED, "Dmpo(beta=2000.0, alpha=0.01)", "None"),
    "diffusion-ipo": (SHARED, "Ipo(beta=5000.0)", "None"),
    "diffusion-cdpo": (SHARED, DPO.format("5000.0", "0.1"), "None"),
    "diffusion-sdpo": (SHARED, DPO.format("5000.0", "0.0"), "Safeguard(mu=0.9)"),
    "inpo-sdpo": (INVERTED, DPO.format("2000.0", "0.0"), "Safeguard(mu=0.5)"),
    "inversion-dpo": (WALK.format("InversionStep", 80, 0, "reference"), DPO.format("2000.0", "0.0"), "None"),
}
"""Noising, objective and safeguard of each."""


@pytest.mark.parametrize("name", METHODS)
def test_a_row_is_its_noising_its_objective_and_its_safeguard(name: str) -> None:
    row = METHODS[name]
    assert (repr(row.noising), repr(row.objective), repr(row.safeguard)) == ROWS[name]


def test_every_row_is_known_by_its_own_name() -> None:
    assert {name: row.name for name, row in METHODS.items()} == {name: name for name in ROWS}
