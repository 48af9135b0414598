"""A run's composition: when the encoder leaves the accelerator, and that it is back whenever it is needed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from inpo.models.config import ModelConfig
from inpo.models.loading import load
from inpo.training.subject import Subject
from inpo.verbs import alignment
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


def test_everything_that_a_run_depends_on_is_a_component(tmp_path: Path) -> None:
    """Each but the network, which is known by itself; and each by what it is, not by which library had written it."""
    folder = tiny_sd(tmp_path)

    def digests() -> dict[str, str]:
        model = load(ModelConfig(str(folder)))
        subject = Subject(model.policy, None, model.save_policy, model.load_policy, components=alignment.components(model))
        return subject.component_sha256()

    before = digests()
    assert list(before) == ["scheduler/scheduler_config.json", "vae", "vae/config.json", "text_encoder"]
    for file, key, changed in (
        ("scheduler/scheduler_config.json", "_diffusers_version", None),
        ("scheduler/scheduler_config.json", "beta_end", "scheduler/scheduler_config.json"),
        ("vae/config.json", "scaling_factor", "vae/config.json"),
    ):
        text = (folder / file).read_text()
        values = json.loads(text)
        (folder / file).write_text(json.dumps(values | {key: "0.1" if key.startswith("_") else 2 * values[key]}))
        assert [name for name, digest in digests().items() if digest != before[name]] == [changed] * (changed is not None)
        (folder / file).write_text(text)
    for network in ("vae", "text_encoder"):
        [weights] = (folder / network).glob("*.safetensors")
        tensors = load_file(weights)
        name = max(tensors, key=lambda each: tensors[each].numel())
        save_file(tensors | {name: tensors[name] + 1}, weights, metadata={"format": "pt"})
        assert [each for each, digest in digests().items() if digest != before[each]] == [network]
        save_file(tensors, weights, metadata={"format": "pt"})


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
