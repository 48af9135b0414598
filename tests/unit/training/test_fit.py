"""A run: what it leaves, and that resuming it is as if it had never stopped."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from inpo.errors import InputError
from inpo.training import OptimizerConfig, Settings
from inpo.training.fit import Callbacks
from inpo.types import Condition
from tests.tiny_denoiser import MemoryLoader, TinyDenoiser, plain_subject, tiny_subject
from tests.training_runs import OPTIMIZER, final_bytes, metrics, settings, train, trainer

LONG = {"steps": 9, "save_every_steps": 3}
VARIANTS: dict[str, Settings] = {
    "adamw": settings(**LONG),
    "average": settings(average_decay=0.9, **LONG),
    "cosine": settings(replace(OPTIMIZER, schedule="cosine"), **LONG),
    "adafactor": settings(replace(OPTIMIZER, name="adafactor"), **LONG),
}


class Recorder:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.steps: list[object] = []
        self.closed = False

    def write(self, line: Mapping[str, object]) -> None:
        """Notes the step."""
        self.steps.append(line["step"])

    def close(self) -> None:
        """Notes the end."""
        self.closed = True


def checkpoints(out: Path) -> list[str]:
    """Names in checkpoints/."""
    return sorted(path.name for path in (out / "checkpoints").iterdir())


@pytest.mark.parametrize("use", VARIANTS.values(), ids=VARIANTS)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path: Path, use: Settings) -> None:
    """Weights, optimiser, average and every line. 72 pairs in epochs of 20: it is cut after an epoch's end, inside the next one."""
    loader = MemoryLoader(20, held_out=7)
    whole = tiny_subject()
    train(tmp_path / "whole", use, loader=loader, subject=whole)
    train(tmp_path / "cut", use, loader=loader)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-000009")
    resumed = plain_subject(TinyDenoiser(seed=5), tiny_subject().reference)
    result = train(tmp_path / "cut", use, loader=loader, subject=resumed, resume="latest")
    assert (result.step, result.signal) == (9, None)
    assert final_bytes(tmp_path / "cut", 9) == final_bytes(tmp_path / "whole", 9)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True))


def test_the_references_of_a_resumed_run_are_not_the_trained_weights(tmp_path: Path) -> None:
    """The reference is the policy as loaded at step 0: loading a checkpoint leaves it alone."""
    train(tmp_path, settings(steps=2))
    subject = tiny_subject()
    before = [parameter.clone() for parameter in subject.reference.parameters()]
    train(tmp_path, settings(steps=4), subject=subject, resume="latest")
    assert all(torch.equal(a, b) for a, b in zip(before, subject.reference.parameters(), strict=True))


class SwitchedOff:
    """A reference that is the policy without its adapter: no module of its own."""

    prediction_type = TinyDenoiser.prediction_type
    schedule = TinyDenoiser().schedule

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Never asked here."""
        raise AssertionError


def test_another_base_model_is_refused(tmp_path: Path) -> None:
    """A folder whose weights were exchanged under the same name would silently move the reference."""
    train(tmp_path, settings(steps=2))
    with pytest.raises(InputError, match="step-000002: the base model is not the one that its run started from"):
        train(tmp_path, settings(steps=4), subject=tiny_subject(1), resume="latest")
    assert checkpoints(tmp_path) == ["step-000002"]


def test_the_base_model_is_known_by_what_training_does_not_move() -> None:
    """Every weight of the reference counts, to the bit; without a module of its own, or without one, the policy's frozen ones, if any."""
    policy, reference = tiny_subject().policy, tiny_subject().reference
    digest = plain_subject(policy, reference).reference_sha256()
    assert digest == plain_subject(TinyDenoiser(1), reference).reference_sha256()
    reference.out.bias[0] = torch.nextafter(reference.out.bias[0], torch.tensor(9.0))
    assert plain_subject(policy, reference).reference_sha256() != digest
    assert plain_subject(policy, tiny_subject(dtype=torch.bfloat16).reference).reference_sha256() not in (digest, None)
    policy.into.requires_grad_(False)
    adapter = plain_subject(policy, SwitchedOff())
    digest = adapter.reference_sha256()
    with torch.no_grad():
        policy.out.bias.add_(1)
        assert adapter.reference_sha256() == digest
        policy.into.bias.add_(1)
    assert adapter.reference_sha256() != digest
    assert plain_subject(policy, None).reference_sha256() == adapter.reference_sha256()
    assert plain_subject(tiny_subject().policy, None).reference_sha256() is None


def test_another_component_is_refused_by_name(tmp_path: Path) -> None:
    """A VAE of the same shapes, or another schedule, would silently change what the network sees. Names of weights do not count."""
    vae, renamed, other = nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 3)), nn.Linear(2, 3)
    renamed[0].load_state_dict(vae.state_dict())
    settled = {"vae": vae, "scheduler": {"beta_end": 0.012, "beta_start": 0.1}}
    train(tmp_path, settings(steps=2), subject=replace(tiny_subject(), components=settled))

    def resumed(**changed: object) -> int:
        components = {name: part for name, part in {**settled, **changed}.items() if part is not None}
        return train(tmp_path, settings(steps=4), subject=replace(tiny_subject(), components=components), resume="latest").step

    for name, changed in (("vae", other), ("scheduler", {"beta_end": 0.013, "beta_start": 0.1}), ("vae", None), ("text_encoder", other)):
        with pytest.raises(InputError, match=f"step-000002: the model's {name} is not the one that its run started from: its sha256"):
            resumed(**{name: changed})
    assert checkpoints(tmp_path) == ["step-000002"]
    assert resumed(vae=renamed, scheduler={"beta_start": 0.1, "beta_end": 0.012}) == 4


def test_an_older_checkpoint_says_nothing_of_components(tmp_path: Path) -> None:
    """It can be continued as before; from then on they are known."""
    train(tmp_path, settings(steps=2))
    subject = replace(tiny_subject(), components={"vae": nn.Linear(2, 3)})
    assert train(tmp_path, settings(steps=4), subject=subject, resume="latest").step == 4
    state = json.loads((tmp_path / "checkpoints" / "step-000004" / "state.json").read_text())
    assert list(state["component_sha256"]) == ["vae"]


def test_without_a_reference_no_base_model_is_compared(tmp_path: Path) -> None:
    """A checkpoint has all that such a run goes on from."""
    train(tmp_path, settings(steps=2))
    alone = replace(tiny_subject(1), reference=None)
    made = trainer(subject=alone, name="sft")
    made.snapshot.read(tmp_path / "checkpoints" / "step-000002")
    assert torch.equal(alone.policy.out.bias, load_file(tmp_path / "checkpoints/step-000002/policy/policy.safetensors")["out.bias"])


def test_a_run_leaves_checkpoints_lines_and_the_average(tmp_path: Path) -> None:
    """Two checkpoints of three, a line a step, held-out numbers when something is saved or shown; the result is the average."""
    subject, recorder, shown = tiny_subject(), Recorder(), []

    def show(step: int) -> None:
        shown.append((step, subject.policy.out.bias.detach().clone()))

    use = settings(steps=5, average_decay=0.5, sample_every_steps=4)
    result = train(tmp_path, use, subject=subject, callbacks=Callbacks(sample=show, sinks=[recorder]))
    assert result.step == 5
    assert checkpoints(tmp_path) == ["step-000004", "step-000005"]
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == recorder.steps == [0, 1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if "validation" in line] == [0, 2, 4, 5]
    assert recorder.closed
    saved = tmp_path / "checkpoints"
    assert json.loads((saved / "step-000005" / "state.json").read_text())["processes"] == 1
    assert torch.equal(subject.policy.out.bias, load_file(saved / "step-000005" / "optimizer.safetensors")["average/out.bias"])
    assert torch.equal(shown[0][1], tiny_subject().policy.out.bias)
    assert torch.equal(shown[1][1], load_file(saved / "step-000004" / "optimizer.safetensors")["average/out.bias"])
    assert not torch.equal(shown[1][1], load_file(saved / "step-000004" / "policy" / "policy.safetensors")["out.bias"])
    assert [step for step, _ in shown] == [0, 4, 5]


def test_pictures_that_a_killed_process_did_not_finish_are_made_when_it_goes_on(tmp_path: Path) -> None:
    """Step 2 was saved before its pictures; a step that is due for none gets none."""
    shown: list[int] = []

    def killed(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, settings(sample_every_steps=2), callbacks=Callbacks(sample=killed))
    train(tmp_path, settings(sample_every_steps=2), callbacks=Callbacks(sample=shown.append), resume="latest")
    assert shown == [2, 4, 6]
    train(tmp_path / "other", settings(steps=4, sample_every_steps=3), callbacks=Callbacks(sample=shown.append))
    assert shown == [2, 4, 6, 0, 3, 4]


def test_without_saving_every_so_often_the_last_state_is_saved(tmp_path: Path) -> None:
    """None keeps only the last one."""
    train(tmp_path, settings(steps=3, save_every_steps=None))
    assert checkpoints(tmp_path) == ["step-000003"]


def test_resuming_a_finished_run_does_nothing(tmp_path: Path) -> None:
    """And says so."""
    train(tmp_path, settings(steps=2))
    before = final_bytes(tmp_path, 2)
    assert train(tmp_path, settings(steps=2), resume="latest").step == 2
    assert final_bytes(tmp_path, 2) == before
    assert [line["step"] for line in metrics(tmp_path)] == [0, 1, 2]


def test_going_back_to_an_earlier_checkpoint_drops_what_came_after(tmp_path: Path) -> None:
    """Lines and checkpoints: latest must not find the abandoned future. In another folder the checkpoint is a beginning."""
    train(tmp_path / "a", settings(steps=6, keep=3))
    folder = tmp_path / "a" / "checkpoints" / "step-000002"
    shutil.copytree(folder, tmp_path / "step-000002")
    train(tmp_path / "b", settings(steps=4, keep=3), resume=str(tmp_path / "step-000002"))
    assert checkpoints(tmp_path / "b") == ["step-000004"]
    train(tmp_path / "a", settings(steps=3, keep=3), resume=str(folder))
    assert checkpoints(tmp_path / "a") == ["step-000002", "step-000003"]
    assert [line["step"] for line in metrics(tmp_path / "a")] == [0, 1, 2, 3]


def test_a_smaller_micro_batch_may_continue_and_another_seed_may_not(tmp_path: Path) -> None:
    """After an out-of-memory error the first is what people need; the second would be another run."""
    train(tmp_path, settings(steps=2))
    with pytest.raises(InputError, match=r"train\.seed  checkpoint: 0  this run: 1"):
        train(tmp_path, settings(steps=4, seed=1), resume="latest")
    assert train(tmp_path, settings(steps=4, micro_batch_pairs=1), resume="latest").step == 4


def test_a_cosine_run_cannot_be_lengthened_and_says_what_to_do(tmp_path: Path) -> None:
    """Its rates were those of 2 steps; a constant one may go on at will."""
    cosine = replace(OPTIMIZER, schedule="cosine")
    train(tmp_path, settings(cosine, steps=2))
    with pytest.raises(InputError, match=r"optimizer\.schedule=cosine .* train\.steps=2; or .* model\.path=RUN/model, .*reference"):
        train(tmp_path, settings(cosine, steps=4), resume="latest")


def test_a_checkpoint_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    """Valid by its manifest, but without the optimiser, the weights, the state or the average that this run needs."""
    train(tmp_path / "run", settings(steps=2))
    for name, message in (
        ("optimizer.safetensors", r"optimizer\.safetensors: missing; the run cannot continue from weights alone"),
        ("policy/policy.safetensors", r"policy\.safetensors: missing"),
        ("state.json", r"state\.json: missing"),
    ):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(tmp_path / "run", copy)
        folder = copy / "checkpoints" / "step-000002"
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["files"][name]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / name).unlink()
        with pytest.raises(InputError, match=message):
            train(copy, settings(steps=4), resume="latest")


def test_too_little_space_stops_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three saves, of which two stay: room for three is asked for. AdamW and the average make four copies of 3,612 bytes."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, 1000))
    size = 4 * 4 * sum(parameter.numel() for parameter in tiny_subject().policy.parameters())
    with pytest.raises(InputError, match=rf"1,000 bytes are free, but 3 checkpoint\(s\) of about {size:,} bytes need {3 * size:,}"):
        train(tmp_path, settings(average_decay=0.9))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_checkpoint_of_another_optimiser_is_refused(tmp_path: Path) -> None:
    """By its setting, before a tensor is read."""
    train(tmp_path, settings(steps=2))
    with pytest.raises(InputError, match=r"optimizer\.name  checkpoint: 'adamw'  this run: 'adafactor'"):
        train(tmp_path, settings(OptimizerConfig(name="adafactor", lr=1e-3, warmup_steps=2), steps=2), resume="latest")
