"""TensorBoard and W&B: the numbers arrive, the W&B run is continued, and no key reaches a file of ours."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import pytest

from inpo.config import load_experiment
from inpo.errors import InputError
from inpo.training.trackers import TensorBoard, WeightsAndBiases, require_wandb, scalars

LINE = {
    "step": 3, "loss": 0.5, "margin": None, "stopped": "patience", "by_bucket": {"7": {"loss": 0.4, "margin": None}},
    "validation": {"implicit_accuracy": 0.6, "n": 5, "by_bucket": {"2": {"loss": 0.3}}},
}  # fmt: skip
FLAT = {
    "step": 3, "loss": 0.5, "loss/bucket-7": 0.4, "validation/implicit_accuracy": 0.6, "validation/n": 5, "validation/loss/bucket-2": 0.3,
}  # fmt: skip
CANARIES = {"WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567", "HF_TOKEN": "hf_canaryCANARYcanaryCANARYcanary"}


def test_a_line_is_flat_numbers() -> None:
    """By step, by bucket, held out, and both; null and words are no points."""
    assert scalars(LINE) == FLAT
    assert scalars({"step": 0, "validation": {"loss": 0.7}}) == {"step": 0, "validation/loss": 0.7}


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    """Read back from the event file, at the line's step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path, start=2)
    board.write(LINE)
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == FLAT.keys() - {"step"}
    assert [(event.step, round(event.value, 6)) for event in events.Scalars("loss/bucket-7")] == [(3, 0.4)]


class FakeRun:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.logged: list[Mapping[str, float]] = []
        self.finished = False
        self.broken = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        """As W&B's."""

    def log(self, values: Mapping[str, float]) -> None:
        """Fails once it is broken."""
        if self.broken:
            raise OSError(f"no connection for {CANARIES['WANDB_API_KEY']}")
        self.logged.append(values)

    def finish(self) -> None:
        """The end."""
        self.finished = True


class Fake(types.ModuleType):
    """Enough of the package. `refusal`: what `init` raises."""

    class Error(Exception):
        """W&B's own."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.asked: list[dict[str, object]] = []
        self.runs: list[FakeRun] = []
        self.refusal: str | None = None

    def Settings(self, **values: object) -> dict[str, object]:
        """As given."""
        return values

    def init(self, **values: object) -> FakeRun:
        """A run, unless it refuses."""
        if self.refusal:
            raise self.Error(self.refusal)
        self.asked.append(values)
        self.runs.append(FakeRun())
        return self.runs[-1]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """In the place of the package."""
    module = Fake()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path: Path, fake: Fake) -> None:
    """The id stays in the folder; another folder has another. Neither the terminal nor code is captured."""
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        folder.mkdir(exist_ok=True)
        sink = WeightsAndBiases(folder, {"train": {"steps": 5}})
        sink.write(LINE)
        sink.close()
    first, again, other = fake.asked
    assert first["id"] == again["id"] == json.loads((tmp_path / "a" / "wandb.json").read_text())["id"] != other["id"]
    assert (first["resume"], first["dir"], first["config"]) == ("allow", str(tmp_path / "a"), {"train": {"steps": 5}})
    assert first["settings"] == {"console": "off", "disable_git": True, "disable_code": True}
    assert [run.logged for run in fake.runs] == [[FLAT]] * 3
    assert all(run.finished for run in fake.runs)


def test_the_project_is_the_users(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """WANDB_PROJECT, where it is set."""
    WeightsAndBiases(tmp_path, {})
    monkeypatch.setenv("WANDB_PROJECT", "thesis")
    WeightsAndBiases(tmp_path, {})
    assert [asked["project"] for asked in fake.asked] == ["inpo", "thesis"]


def test_a_tracker_that_breaks_loses_no_run_and_tells_no_key(tmp_path: Path, fake: Fake) -> None:
    """One warning, with what W&B said but for what looks like a key; then silence."""
    sink = WeightsAndBiases(tmp_path, {})
    fake.runs[0].broken = True
    with pytest.warns(UserWarning, match=r"W&B failed \(no connection for \*\*\*\)") as caught:
        sink.write(LINE)
    sink.write(LINE)
    sink.close()
    assert len(caught) == 1
    assert not fake.runs[0].finished


def test_what_wandb_refuses_is_an_input_error(tmp_path: Path, fake: Fake) -> None:
    """Not being logged in, mostly: what to do is said, a key is not."""
    fake.refusal = f"invalid key {CANARIES['WANDB_API_KEY']}"
    with pytest.raises(InputError, match=r"W&B refuses: invalid key \*\*\*; run `wandb login`, set WANDB_MODE=offline") as caught:
        WeightsAndBiases(tmp_path, {})
    assert CANARIES["WANDB_API_KEY"] not in str(caught.value)


def test_a_damaged_id_is_named(tmp_path: Path, fake: Fake) -> None:
    """Nothing is begun instead."""
    (tmp_path / "wandb.json").write_text("{")
    with pytest.raises(InputError, match=r"wandb\.json: holds no id of a W&B run"):
        WeightsAndBiases(tmp_path, {})


def test_without_the_package_the_line_to_type_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install 'inpo\[wandb\]'"):
        require_wandb()


def test_both_may_be_asked_for() -> None:
    """In any order, each once."""
    assert load_experiment("world-inpo", ["report_to=[wandb, tensorboard, wandb]"]).report_to == ("tensorboard", "wandb")
    assert load_experiment("world-inpo", ["report_to=wandb"]).report_to == ("wandb",)
    with pytest.raises(InputError, match=r"report_to='wandbb' is not known \(did you mean 'wandb'\?\)"):
        load_experiment("world-inpo", ["report_to=[wandbb]"])


def test_wandb_itself_offline_keeps_one_run_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real package, where it is installed: two processes' worth of one run, and the keys of the environment are in no file."""
    pytest.importorskip("wandb")
    for name, value in (CANARIES | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}).items():
        monkeypatch.setenv(name, value)
    for start in (0, 3):
        sink = WeightsAndBiases(tmp_path, {"train": {"steps": 5}})
        sink.write(LINE | {"step": start})
        sink.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len([path for path in files if path.suffix == ".wandb"]) == 2
    held = b"".join(path.read_bytes() for path in files)
    assert not [name for name, value in CANARIES.items() if value.encode() in held]
