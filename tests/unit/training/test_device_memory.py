"""What waits for its turn waits on the CPU: how many pairs a step has, or are held out, is no matter of a device's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from inpo.data.config import DataConfig
from inpo.data.loader import EncodedPairs
from inpo.methods import Method, method
from inpo.noising import Inversion
from inpo.training.gradient import HostPairs
from inpo.training.stop import Stop
from inpo.training.trainer import Trainer
from tests.tiny_denoiser import MemoryLoader, TinyDenoiser, tiny_subject
from tests.training_runs import settings
from tests.unit.data.making import SIDE, MadePairs, SmallEncoder
from tests.unit.training.test_ahead import Rank

MICRO, INVERSION = 3, 4
DEVICE = torch.device("cpu", 0)
"""The CPU under a name that nothing else calls it by."""

SHARED = replace(method("inpo"), noising=Inversion(times_per_trajectory=4))


class Moves(TorchFunctionMode):
    """Remembers how many rows every tensor has that is moved to `DEVICE`, or to any if `anywhere`."""

    def __init__(self, *, anywhere: bool = False) -> None:
        super().__init__()
        self.anywhere = anywhere
        self.rows: list[int] = []

    def __torch_function__(
        self, func: Callable[..., object], types: Sequence[type], args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        """Calls it, and looks at what came out."""
        result = func(*args, **(kwargs or {}))
        devices = [each for each in args if isinstance(each, torch.device)]
        if func is Tensor.to and isinstance(result, Tensor) and (DEVICE in devices or (self.anywhere and devices)):
            self.rows.append(len(result))
        return result


@pytest.mark.parametrize("made", [method("inpo"), method("diffusion-dpo"), method("sft"), SHARED], ids=["inpo", "dpo", "sft", "shared"])
def test_no_more_than_a_group_is_ever_moved(made: Method) -> None:
    """Of 40 pairs, as many as are inverted together, or a micro-batch."""
    use = settings(pairs_per_step=40, micro_batch_pairs=MICRO, inversion_batch_pairs=INVERSION)
    trainer = Trainer(tiny_subject(), MemoryLoader(), method=made, settings=use, stop=Stop())
    source = replace(trainer.gradient, parallel=Rank(0, 1, DEVICE))
    with Moves() as moves:
        source(source.points(0))
    assert max(moves.rows) == (INVERSION if made.noising.inverter else MICRO)


class Velocity(TinyDenoiser):
    """A network of v."""

    prediction_type = "v_prediction"


@pytest.mark.parametrize(("policy", "same"), [(TinyDenoiser(), True), (Velocity(), False)], ids=["epsilon", "v"])
@pytest.mark.parametrize("name", ["inpo", "diffusion-dpo"])
def test_a_target_that_is_the_noise_is_kept_once(policy: TinyDenoiser, same: bool, name: str) -> None:
    """The network of ε should predict τ: no second tensor of a whole step."""
    use = settings(pairs_per_step=8, inversion_batch_pairs=3)
    trainer = Trainer(replace(tiny_subject(), policy=policy), MemoryLoader(), method=method(name), settings=use, stop=Stop())
    noised = trainer.gradient.points(0).noised
    assert [side.target is side.tau for side in (noised.win, noised.lose)] == [same] * 2


def test_rows_of_waiting_pairs_are_on_the_device() -> None:
    """Only these; the pairs themselves stay where they are."""
    pairs = HostPairs(**vars(MemoryLoader().fetch(range(8))), device=torch.device("meta"))
    rows = pairs[[1, 3]]
    assert {rows.win.device.type, rows.lose.device.type, rows.condition.tensors["text"].device.type} == {"meta"}
    assert {pairs.win.device.type, pairs.lose.device.type, pairs.condition.tensors["text"].device.type} == {"cpu"}
    assert len(rows) == 2


def test_the_loader_moves_nothing() -> None:
    """Neither a step, whose prompts may take gigabytes, nor the held-out pairs, which would stay for the whole run."""
    config = DataConfig("made", resolution=SIDE, validation_fraction=0.2)
    with EncodedPairs(MadePairs(40), SmallEncoder(), config=config, seed=0, pairs_per_step=8) as loader, Moves(anywhere=True) as moves:
        loader.fetch(range(8))
        assert loader.validation()[0] is loader.validation()[0]
    assert not moves.rows
