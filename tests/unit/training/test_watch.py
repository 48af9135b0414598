"""Keep-best and early stop: which step counts, what is kept of it, and how the run ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inpo.config import load_experiment
from inpo.errors import InputError
from inpo.methods import method
from inpo.training.settings import METRICS, EarlyStop, TrainConfig
from inpo.training.validation import Validation
from inpo.training.watch import Tracked, Watch, check_watched
from tests.tiny_denoiser import MemoryLoader, tiny_subject
from tests.training_runs import final_bytes, metrics, settings, train

LOSSES = (0.9, 0.7, 0.5, 0.6, 0.55, 0.8, 0.4, 0.3)
"""By step, from 0: the best of steps 1 to 5 is step 2."""
Script = Callable[[Sequence[float | None]], None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Makes the held-out pairs say these losses, one a look, whatever the weights."""

    def install(losses: Sequence[float | None]) -> None:
        said = iter(losses)

        def look(self: Validation) -> dict[str, object]:
            return {"n": 7, "loss": next(said)}

        monkeypatch.setattr(Validation, "__call__", look)

    return install


def checkpoints(out: Path) -> list[int]:
    """Steps in checkpoints/."""
    return sorted(int(path.name[5:]) for path in (out / "checkpoints").iterdir())


def state(out: Path, step: int) -> dict[str, object]:
    """What a checkpoint remembers."""
    return json.loads((out / "checkpoints" / f"step-{step:06d}" / "state.json").read_text())["watch"]


@pytest.mark.parametrize("metric", METRICS)
def test_better_is_higher_or_lower_by_the_metric(metric: str) -> None:
    """Accuracy and margin up, losses and errors down; a tie is not better, and what is no number never is."""
    tracked, name = Tracked(metric), metric.removeprefix("validation.")
    assert tracked.update(1, {name: 0.5})
    assert not tracked.update(2, {name: 0.5})
    up = metric in ("validation.implicit_accuracy", "validation.margin")
    assert tracked.update(3, {name: 0.6}) is up
    assert tracked.update(4, {name: 0.3}) is not up
    assert not tracked.update(5, {name: None})
    assert tracked.step == (3 if up else 4)


def test_patience_counts_looks_that_are_not_better_by_enough() -> None:
    """min_delta 0.1: 0.95 after 1.0 is not better, and the next one is compared with 1.0 again, not with 0.95."""
    watch = Watch(TrainConfig(early_stop=EarlyStop("validation.loss", patience=2, min_delta=0.1)))
    for step, loss in enumerate((1.0, 0.95, 0.85, 0.8), start=1):
        watch.update(step, {"loss": loss})
        assert watch.reason_to_stop is None
    watch.update(5, {"loss": 0.76})
    assert watch.reason_to_stop == "validation.loss did not get better in 2 looks at the held-out pairs; the best was 0.85 at step 3"


def test_the_best_step_is_saved_and_outlives_rotation(tmp_path: Path, script: Script) -> None:
    """No save was due at step 2, and of the later ones only the newest stays; step 0 does not compete."""
    script((0.1, *LOSSES[1:]))
    use = settings(steps=5, save_every_steps=3, keep=1, validate_every_steps=1, keep_best="validation.loss")
    result = train(tmp_path, use)
    assert checkpoints(tmp_path) == [2, 5]
    assert (result.step, result.result_step, result.stopped) == (5, 5, None)
    assert state(tmp_path, 5)["best"] == {"metric": "validation.loss", "value": 0.5, "step": 2, "stale": 3}


@pytest.mark.parametrize("decay", [None, 0.5])
def test_the_result_may_be_the_best_step_or_its_average(tmp_path: Path, script: Script, decay: float | None) -> None:
    """The policy holds the weights that step 2 was judged by: its own, or the average as it was then."""
    script(LOSSES)
    subject = tiny_subject()
    use = settings(steps=5, keep=1, validate_every_steps=1, keep_best="validation.loss", result="best", average_decay=decay)
    assert train(tmp_path, use, subject=subject).result_step == 2
    folder = tmp_path / "checkpoints" / "step-000002"
    own = load_file(folder / "policy" / "policy.safetensors")["out.bias"]
    saved = own if decay is None else load_file(folder / "optimizer.safetensors")["average/out.bias"]
    assert torch.equal(subject.policy.out.bias, saved)
    assert decay is None or not torch.equal(saved, own)


def test_a_best_step_that_no_look_found_is_told(tmp_path: Path, script: Script) -> None:
    """No look gives a number: the last step is the result, and not in silence."""
    script([None] * 4)
    use = settings(steps=3, validate_every_steps=1, keep_best="validation.loss", result="best")
    with pytest.warns(UserWarning, match=r"train\.result=best, but validation\.loss never was a number: the result is step 3, the last"):
        assert train(tmp_path, use).result_step == 3


def test_a_run_stops_when_patience_ends_and_says_why(tmp_path: Path, script: Script) -> None:
    """Looks at steps 1, 2, 3, 4, …: two after step 2 are not better. The last step is saved and shown; resuming it trains no more."""
    script(LOSSES)
    use = settings(steps=7, save_every_steps=None, validate_every_steps=1, early_stop=EarlyStop("validation.loss", patience=2))
    result = train(tmp_path, use)
    reason = "validation.loss did not get better in 2 looks at the held-out pairs; the best was 0.5 at step 2"
    assert (result.step, result.signal, result.stopped) == (4, None, reason)
    assert [line.get("stopped") for line in metrics(tmp_path)] == [None] * 4 + [reason]
    assert checkpoints(tmp_path) == [4]
    again = train(tmp_path, use, resume="latest")
    assert (again.step, again.stopped, len(metrics(tmp_path))) == (4, reason, 5)


def test_a_stopped_run_may_go_on_without_early_stop(tmp_path: Path, script: Script) -> None:
    """When a run looks and when it ends moves no number, so both may change on resume."""
    script(LOSSES)
    train(tmp_path, settings(steps=7, validate_every_steps=1, early_stop=EarlyStop("validation.loss", patience=2)))
    script(LOSSES)
    assert train(tmp_path, settings(steps=7, validate_every_steps=2), resume="latest").step == 7


@pytest.mark.parametrize("cut", [2, 3])
def test_a_resumed_run_keeps_the_record(tmp_path: Path, cut: int) -> None:
    """Cut after any checkpoint, real held-out numbers: the same best, patience, lines and bytes as the uninterrupted run."""
    stop = EarlyStop("validation.margin", patience=4)
    use = settings(steps=5, save_every_steps=1, keep=9, validate_every_steps=1, keep_best="validation.loss", early_stop=stop)
    loader = MemoryLoader(held_out=7)
    train(tmp_path / "whole", use, loader=loader)
    train(tmp_path / "cut", use, loader=loader)
    for step in range(cut + 1, 6):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step-{step:06d}", ignore_errors=True)
    resumed = train(tmp_path / "cut", use, loader=loader, resume="latest")
    last = resumed.step
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert final_bytes(tmp_path / "cut", last) == final_bytes(tmp_path / "whole", last)
    assert state(tmp_path / "cut", last) == state(tmp_path / "whole", last)
    assert state(tmp_path / "cut", last)["best"]["step"] is not None


def test_a_best_checkpoint_that_is_gone_is_forgotten_aloud(tmp_path: Path, script: Script) -> None:
    """Somebody deleted it, or the run goes on in another folder: the next look is the best there is."""
    script(LOSSES)
    use = settings(steps=4, save_every_steps=None, validate_every_steps=1, keep_best="validation.loss")
    train(tmp_path, use)
    shutil.rmtree(tmp_path / "checkpoints" / "step-000002")
    script(LOSSES[5:])
    with pytest.warns(UserWarning, match="step 2, the best so far, is not among the checkpoints any more"):
        train(tmp_path, settings(steps=5, save_every_steps=None, validate_every_steps=1, keep_best="validation.loss"), resume="latest")
    assert state(tmp_path, 5)["best"]["step"] == 5


def test_a_best_checkpoint_that_is_damaged_is_named(tmp_path: Path, script: Script) -> None:
    """The result is not silently another one."""
    script(LOSSES)
    use = settings(steps=4, validate_every_steps=1, keep_best="validation.loss", result="best")
    train(tmp_path, use)
    weights = tmp_path / "checkpoints" / "step-000002" / "policy" / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"step-000002/policy/policy\.safetensors: .* truncated or changed"):
        train(tmp_path, use, resume="latest")


REFUSED = {
    "no such metric": (["train.keep_best=validation.acuracy"], ["train.keep_best='validation.acuracy'", "validation.implicit_accuracy"]),
    "none in a training line": (["train.early_stop.metric=loss"], ["train.early_stop.metric='loss'", "validation.loss"]),
    "nothing held out": (
        ["train.keep_best=validation.loss", "data.validation_fraction=0"], ["train.keep_best", "validation_fraction", "validation.margin"],
    ),
    "no margin": (["train.keep_best=validation.margin"], ["keep_best", "has validation.loss, validation.win_error"]),
    "an unknown key inside": (["train.early_stop.patiense=2"], ["train.early_stop.patiense", "did you mean 'train.early_stop.patience'"]),
    "no metric": (["train.early_stop.patience=2"], ["train.early_stop.metric is not set"]),
    "no patience": (["train.early_stop={metric: validation.loss, patience: 0}"], ["train.early_stop.patience=0", "at least 1"]),
    "a negative difference": (["train.early_stop={metric: validation.loss, min_delta: -1}"], ["train.early_stop.min_delta=-1"]),
    "the best of nothing": (["train.result=best"], ["train.result='best'", "train.keep_best", "validation.loss"]),
    "another result": (["train.result=first"], ["train.result='first'"]),
    "a look every 0 steps": (["train.validate_every_steps=0"], ["train.validate_every_steps=0"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_watched_is_refused_at_the_entrance(case: str) -> None:
    """With the key, what was found, and the choices."""
    overrides, words = REFUSED[case]
    with pytest.raises(InputError) as caught:
        load_experiment("world-sft" if case == "no margin" else "world-inpo", overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_set_too_small_to_hold_anything_out_is_refused_before_the_first_step(tmp_path: Path) -> None:
    """A fraction of a few pairs may be none: known only once the data is open."""
    with pytest.raises(InputError, match=r"train\.keep_best='validation\.loss' needs held-out pairs"):
        train(tmp_path, settings(keep_best="validation.loss"), loader=MemoryLoader())
    assert not (tmp_path / "checkpoints").exists()


def test_settings_of_the_watch_survive_a_round_trip() -> None:
    """config.yaml read back is the same experiment, the nested setting included."""
    chosen = ["train.early_stop={metric: validation.margin, patience: 5, min_delta: 0.01}", "train.keep_best=validation.loss"]
    experiment = load_experiment("world-inpo", [*chosen, "train.result=best"])
    assert type(experiment).from_tree(experiment.to_tree()) == experiment
    assert experiment.train.early_stop == EarlyStop("validation.margin", 5, 0.01)


def test_every_metric_is_measured_by_a_pairwise_method() -> None:
    """The choices that messages list are names of numbers that validation gives."""
    for metric in METRICS:
        check_watched(TrainConfig(keep_best=metric), method("inpo").objective, held_out=True)


@pytest.mark.parametrize(("name", "known"), [("diffusion-kto", {"validation.loss"}), ("sft", {"validation.loss"})])
def test_of_single_pictures_no_winners_number_is_watched(name: str, known: set[str]) -> None:
    """Their errors are of liked and disliked pictures alike, and no margin is between two."""
    for metric in METRICS:
        use = TrainConfig(keep_best=metric)
        if metric in known:
            check_watched(use, method(name).objective, held_out=True, singles=True)
        else:
            with pytest.raises(InputError, match=r"is nothing that this method measures; it has validation\.loss$"):
                check_watched(use, method(name).objective, held_out=True, singles=True)
