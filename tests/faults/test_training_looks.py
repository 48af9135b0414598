"""A look at the held-out pairs, or pictures, that do not come to an end: no step is lost, and the run that goes on makes them again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from inpo.errors import RunFault
from inpo.training.fit import Callbacks
from inpo.training.settings import EarlyStop
from inpo.training.subject import Subject
from inpo.training.validation import Validation
from tests.tiny_denoiser import MemoryLoader, tiny_subject
from tests.training_runs import both, final_bytes, metrics, ran_on_ranks, settings, train

WATCHED = {
    "validate_every_steps": 2, "save_every_steps": None, "keep_best": "validation.loss",
    "early_stop": EarlyStop("validation.margin", patience=9),
}  # fmt: skip
Callback = Callable[[int], None]
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. And so on.")


def loader() -> MemoryLoader:
    """Twelve pairs are held out."""
    return MemoryLoader(held_out=12)


def checkpoints(out: Path) -> list[str]:
    """Names in checkpoints/."""
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def in_look(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Does it inside the look with that number, from 0, before the second question to the policy."""
    original, looks = Validation._own_sums, []

    def sums(self: Validation, *arguments: torch.Tensor) -> torch.Tensor:
        looks.append(1)
        if len(looks) != number + 1:
            return original(self, *arguments)
        asked: list[int] = []

        def before(*_: object) -> None:
            asked.append(1)
            if len(asked) == 2:
                act()

        # First in the queue, so that the trainer's own check finds a signal in the same call.
        hook = self.networks.policy.register_forward_pre_hook(before, prepend=True)
        try:
            return original(self, *arguments)
        finally:
            hook.remove()

    monkeypatch.setattr(Validation, "_own_sums", sums)


def exhaust() -> None:
    """Memory does not suffice."""
    raise OUT_OF_MEMORY


def state(out: Path) -> dict[str, object]:
    """What the last checkpoint remembers of the held-out pairs."""
    return json.loads((out / "checkpoints" / "step-000006" / "state.json").read_text())["watch"]


# Looks are at steps 0, 2, 4 and 6, the last.
@pytest.mark.parametrize("number", [2, 3])
def test_a_look_that_fails_leaves_the_steps_line_and_is_repeated(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle and at the end: the step is saved and its line is there, and the resumed run is the one that did not fail, in its
    lines, its weights and what it holds for the best."""
    use = settings(average_decay=0.5, **WATCHED)
    train(tmp_path / "whole", use, loader=loader())
    with monkeypatch.context() as patch:
        in_look(patch, number, exhaust)
        with pytest.raises(RunFault, match="out of memory in the validation"):
            train(tmp_path / "cut", use, loader=loader())
    last = metrics(tmp_path / "cut")[-1]
    assert (last["step"], "validation" in last) == (2 * number, False)
    assert checkpoints(tmp_path / "cut")[-1] == f"step-{2 * number:06d}"
    result = train(tmp_path / "cut", use, loader=loader(), resume="latest")
    assert (result.step, result.signal) == (6, None)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert final_bytes(tmp_path / "cut", 6) == final_bytes(tmp_path / "whole", 6)
    if number == 2:
        assert state(tmp_path / "cut") == state(tmp_path / "whole")


def test_a_signal_drops_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take minutes, and a launcher kills in 30 s: it ends with the question that is under way, and the step is saved."""
    use = settings(**WATCHED)
    train(tmp_path / "whole", use, loader=loader())
    for number in (2, 3):
        out = tmp_path / str(number)
        with monkeypatch.context() as patch:
            in_look(patch, number, lambda: os.kill(os.getpid(), signal.SIGTERM))
            result = train(out, use, loader=loader())
        assert (result.step, result.signal) == (2 * number, signal.SIGTERM)
        assert checkpoints(out)[-1] == f"step-{2 * number:06d}"
        assert "validation" not in metrics(out)[-1]
        train(out, use, loader=loader(), resume="latest")
        assert metrics(out) == metrics(tmp_path / "whole")
        assert final_bytes(out, 6) == final_bytes(tmp_path / "whole", 6)


def test_a_dropped_look_may_be_dropped_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that goes on begins with it; nothing changes until it is complete. The best step that it finds is the result."""
    use = settings(steps=2, result="best", **WATCHED)
    for number, resume in ((1, None), (0, "latest"), (0, "latest")):
        with monkeypatch.context() as patch:
            in_look(patch, number, lambda: os.kill(os.getpid(), signal.SIGINT))
            assert train(tmp_path, use, loader=loader(), resume=resume).signal == signal.SIGINT
        assert [("validation" in line) for line in metrics(tmp_path)] == [True, False, False]
    for _ in range(2):
        assert train(tmp_path, use, loader=loader(), resume="latest").result_step == 2
        assert [("validation" in line) for line in metrics(tmp_path)] == [True, False, True]


def drawing(subject: Subject, drawn: list[int], act: Callable[[int], None]) -> Callback:
    """Pictures that take two questions to the policy, with `act` between them."""

    def draw(step: int) -> None:
        pairs = MemoryLoader().fetch([0])
        for question in range(2):
            subject.policy(pairs.win, torch.tensor([5]), pairs.condition)
            if question == 0:
                act(step)
        drawn.append(step)

    return draw


@pytest.mark.parametrize("at", [3, 6])
def test_a_signal_drops_pictures(tmp_path: Path, at: int) -> None:
    """The step before them is saved, also the last one; the run that goes on draws them."""
    use, drawn = settings(sample_every_steps=3, save_every_steps=None), []
    subject = tiny_subject()
    draw = drawing(subject, drawn, lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == at else None)
    result = train(tmp_path, use, subject=subject, callbacks=Callbacks(draw))
    assert (result.step, result.signal) == (at, signal.SIGTERM)
    assert checkpoints(tmp_path) == [f"step-{at:06d}"]
    assert drawn == [0, 3][: at // 3]
    again = tiny_subject()
    train(tmp_path, use, subject=again, callbacks=Callbacks(drawing(again, drawn, lambda step: None)), resume="latest")
    assert drawn == [0, 3, 6]


def test_the_last_step_is_saved_before_its_pictures(tmp_path: Path) -> None:
    """Of a process that is killed while it draws them."""
    seen: list[list[str]] = []
    callbacks = Callbacks(sample=lambda step: seen.append(checkpoints(tmp_path)) if step else None)
    train(tmp_path, settings(sample_every_steps=6, save_every_steps=None), callbacks=callbacks)
    assert seen == [["step-000006"]]


def test_of_two_processes_too(tmp_path: Path) -> None:
    """A signal to either drops the look of both, and one to the main process its pictures: tests/two_ranks_looks.py."""
    found = both(ran_on_ranks(tmp_path, "two_ranks_looks.py"), "ends")
    assert found == [{"look of 0": [4, 15, True], "look of 1": [4, 15, True], "pictures": [3, 15, True]}] * 2
