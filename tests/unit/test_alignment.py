"""A run's composition: when the encoder leaves the accelerator, and that it is back whenever it is needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from inpo import alignment
from inpo.models.config import ModelConfig
from inpo.models.loading import load
from tests.tiny_models import tiny_sd


class Loader:
    """Says whether everything could be encoded, and remembers for which positions it was asked."""

    def __init__(self, done: bool) -> None:
        self.done, self.asked = done, []

    def encode_ahead(self, positions: range) -> bool:
        """Nothing is encoded."""
        self.asked.append(positions)
        return self.done


@pytest.mark.parametrize(
    ("device", "done", "moves"), [("cuda", True, ["cpu"]), ("cuda", False, []), ("mps", True, ["cpu"]), ("cpu", True, [])]
)
def test_an_encoder_that_is_done_leaves_the_accelerator(device: str, done: bool, moves: list[str]) -> None:
    """The positions are those from the first step of this run to its last; on a CPU there is nothing to win."""
    moved: list[str] = []
    model = SimpleNamespace(device=torch.device(device), encoder=SimpleNamespace(move=moved.append))
    loader = Loader(done)
    experiment = SimpleNamespace(train=SimpleNamespace(pairs_per_step=4, steps=10))
    alignment.free_encoder(experiment, model, loader, start=3)
    assert moved == moves
    assert loader.asked == ([] if device == "cpu" else [range(12, 40)])


def test_an_encoder_at_work_is_where_the_policy_is(tmp_path: Path) -> None:
    """And waits where it waited before, also after an error. `meta` stands for an accelerator."""
    model = load(ModelConfig(str(tiny_sd(tmp_path))))
    model.policy.to("meta")
    assert model.device.type == "meta"
    moves: list[str] = []
    object.__setattr__(model.encoder, "move", lambda device: moves.append(str(device)))
    with pytest.raises(RuntimeError), model.encoder.at_work(model.device):
        raise RuntimeError
    assert moves == ["meta", "cpu"]
