"""The run folder: whose it is, what may be replaced, and that no secret gets into it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import warnings
from pathlib import Path

import psutil
import pytest

from inpo.errors import InputError
from inpo.training import checkpoint, snapshot
from inpo.training.environment import environment, redacted
from inpo.training.lock import Lock, Owner
from inpo.training.run import open_run
from tests.faults.test_training_disk import file_size_limit
from tests.training_runs import finish, start

CONFIG: dict[str, object] = {
    "train": {"steps": 4, "keep": 2}, "optimizer": {"lr": 1e-5, "schedule": "constant"}, "method": {"name": "inpo"},
}  # fmt: skip


def opened(path: Path, config: dict[str, object] = CONFIG, **how: object) -> None:
    """Opens and closes."""
    open_run(path, config, config_text="method: inpo\n", **how).close()


def with_checkpoint(path: Path, step: int = 2, config: dict[str, object] = CONFIG) -> Path:
    """A run that has saved once."""
    opened(path, config)

    def write(folder: Path) -> None:
        (folder / "state.json").write_text(json.dumps({"schema": 1, "step": step, "torch": "0", "config": config}))

    digest = snapshot.config_sha256(config)
    return checkpoint.save(path / "checkpoints", step, write=write, config_sha256=digest, data_sha256="d")


def with_later_checkpoint(path: Path) -> Path:
    """The same, at step 4 of a run that is there."""

    def write(folder: Path) -> None:
        (folder / "state.json").write_text("{}")

    return checkpoint.save(path / "checkpoints", 4, write=write, config_sha256="c", data_sha256="d")


def test_a_new_folder_says_what_and_with_what(tmp_path: Path) -> None:
    """config.yaml as it was given, environment.json with versions; the lock is there while it is open, and gone after."""
    with open_run(tmp_path / "a" / "b", CONFIG, config_text="x: 1\n") as run:
        lock = json.loads((run.path / "lock.json").read_text())
        assert (lock["pid"], lock["host"]) == (os.getpid(), socket.gethostname())
    assert (run.path / "config.yaml").read_text() == "x: 1\n"
    assert json.loads((run.path / "environment.json").read_text())["packages"]["torch"]
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "environment.json"]


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    """Unless it is said."""
    opened(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="holds another run"):
        opened(tmp_path)
    with open_run(tmp_path, CONFIG, config_text="new\n", force=True) as run:
        assert not (tmp_path / "metrics.jsonl").exists()
        run.replacement.settle()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "environment.json"]
    assert (tmp_path / "config.yaml").read_text() == "new\n"


def test_force_deletes_only_what_a_run_writes(tmp_path: Path) -> None:
    """A note of the user's survives; a folder that is no run's is never cleared, whatever its entries are called."""
    opened(tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    opened(tmp_path / "run", force=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    (tmp_path / "home" / "model").mkdir(parents=True)
    with pytest.raises(InputError, match="holds model, but no run"):
        opened(tmp_path / "home", force=True)
    assert (tmp_path / "home" / "model").is_dir()
    assert not (tmp_path / "home" / "lock.json").exists()


def test_a_file_or_a_read_only_place_is_refused(tmp_path: Path) -> None:
    """With its path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file"):
        opened(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        opened(Path("/proc/inpo-run"))


def test_a_second_process_is_told_who_has_the_folder(tmp_path: Path) -> None:
    """The process that holds it is alive: its id and host are in the message."""
    holder = rf"in use by process {os.getpid()} on {socket.gethostname()}"
    with open_run(tmp_path, CONFIG, config_text=""), pytest.raises(InputError, match=holder):
        opened(tmp_path, force=True)


def test_a_dead_processes_lock_is_taken_over(tmp_path: Path) -> None:
    """A killed run leaves its lock. So does one whose process id another process has now."""
    gone = start("exit.py")
    finish([gone])
    for pid, began in ((gone.pid, 0.0), (os.getpid(), psutil.Process().create_time() - 1000)):
        (tmp_path / "lock.json").write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "start": began}))
        Lock(tmp_path / "lock.json").release()
        assert not (tmp_path / "lock.json").exists()


def test_another_hosts_lock_is_respected(tmp_path: Path) -> None:
    """Nothing is known about processes there."""
    (tmp_path / "lock.json").write_text(json.dumps({"pid": 1, "host": "node-7", "start": 0}))
    with pytest.raises(InputError, match="process 1 on node-7"):
        Lock(tmp_path / "lock.json")


def test_another_containers_lock_is_the_kernels_to_judge(tmp_path: Path) -> None:
    """It has this host's name, and process ids that mean nothing here: the owner's advisory lock says whether it lives."""
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname(), "start": 0, "space": "pid:[1]"}))
    with path.open() as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=f"process {2**22 + 1} on"):
            Lock(path)
    Lock(path).release()
    assert not path.exists()


def test_a_lock_that_is_held_is_held_in_the_kernel_too(tmp_path: Path) -> None:
    """For a process of another container; and no longer once it is released."""
    path = tmp_path / "lock.json"
    lock = Lock(path)
    with path.open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.release()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_says_nothing_is_not_guessed_at(tmp_path: Path) -> None:
    """It may be alive."""
    (tmp_path / "lock.json").write_text("")
    with pytest.raises(InputError, match="does not say who holds it"):
        Lock(tmp_path / "lock.json")


def test_a_lock_taken_by_somebody_else_is_not_released(tmp_path: Path) -> None:
    """Release checks whose it is."""
    lock = Lock(tmp_path / "lock.json")
    (tmp_path / "lock.json").write_text(json.dumps({"pid": 1, "host": "node-7", "start": 0}))
    lock.release()
    assert (tmp_path / "lock.json").exists()
    assert not Owner(1, "node-7", 0).is_gone()


def test_resuming_finds_the_checkpoint_and_keeps_the_rest(tmp_path: Path) -> None:
    """By "latest" and by its path; a differing torch is a warning."""
    folder = with_checkpoint(tmp_path)
    for resume in ("latest", str(folder)):
        with pytest.warns(UserWarning, match="not bit for bit"):
            run = open_run(tmp_path, CONFIG, config_text="", resume=resume)
        run.close()
        assert run.resume_from is not None
        assert (run.resume_from[0], run.resume_from[1].step) == (folder, 2)


@pytest.mark.filterwarnings("ignore:.*made with torch 0")
def test_another_number_of_processes_is_told(tmp_path: Path) -> None:
    """Sums are cut otherwise. A checkpoint that does not say how many there were says nothing about it."""
    folder = with_checkpoint(tmp_path)
    opened(tmp_path, resume="latest")
    state = json.loads((folder / "state.json").read_text())
    for count, told in ((8, True), (1, False)):

        def write(into: Path, count: int = count) -> None:
            (into / "state.json").write_text(json.dumps({**state, "processes": count}))

        checkpoint.save(tmp_path / "checkpoints", 2, write=write, config_sha256="c", data_sha256="d")
        with warnings.catch_warnings(record=True) as caught:
            opened(tmp_path, resume="latest")
        said = [str(each.message) for each in caught if "process(es)" in str(each.message)]
        assert said == [f"{folder} was made by 8 process(es), now 1: the run continues, but not bit for bit"] * told


@pytest.mark.filterwarnings("ignore:.*not bit for bit")
def test_broken_checkpoints_are_kept_when_the_run_goes_on_before_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with them may be one byte, or one file that was moved. No sweep and no rotation takes them, but `--force` does."""
    with_checkpoint(tmp_path)
    for _ in range(2):
        broken = with_later_checkpoint(tmp_path)
        (broken / "state.json").unlink()
        with pytest.warns(UserWarning, match=r"skipping a broken checkpoint: .*step-000004/state\.json: missing"):
            opened(tmp_path, resume="latest")
    checkpoint.discard_after(tmp_path / "checkpoints", 2)
    checkpoint.rotate(tmp_path / "checkpoints", 1)
    kept = [".broken-step-000004-1", ".broken-step-000004-2", "step-000002"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept
    assert f"the broken checkpoint is kept as {tmp_path / 'checkpoints' / kept[0]}; delete it" in capsys.readouterr().err
    with open_run(tmp_path, CONFIG, config_text="", force=True) as run:
        run.replacement.settle()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore:.*not bit for bit")
def test_a_disk_that_refuses_on_resume_leaves_the_descriptions(tmp_path: Path) -> None:
    """config.yaml and environment.json are what they were, or the new ones: never half of either."""
    with_checkpoint(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in ("config.yaml", "environment.json")}
    with file_size_limit(200), pytest.raises(OSError, match="File too large"):
        opened(tmp_path, resume="latest")
    with file_size_limit(4000), pytest.raises(OSError, match="File too large"):
        open_run(tmp_path, CONFIG, config_text="# long\n" * 1000, resume="latest")
    assert (tmp_path / "config.yaml").read_bytes() == before["config.yaml"]
    assert json.loads((tmp_path / "environment.json").read_text())["started"] == json.loads(before["environment.json"])["started"]


@pytest.mark.filterwarnings("ignore:.*not bit for bit")
def test_how_a_run_began_is_still_known_after_it_was_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each continuation is added; a run that replaces it begins anew, and an unreadable record is begun anew too."""
    path = tmp_path / "environment.json"

    def commands() -> list[str]:
        found = json.loads(path.read_text())
        return [each["command"][0] for each in (found, *found.get("resumed", []))]

    monkeypatch.setattr(sys, "argv", ["first"])
    with_checkpoint(tmp_path)
    for name in ("second", "third"):
        monkeypatch.setattr(sys, "argv", [name])
        opened(tmp_path, resume="latest")
    assert commands() == ["first", "second", "third"]
    path.write_text("")
    opened(tmp_path, resume="latest")
    assert commands() == ["third"]
    opened(tmp_path, force=True)
    assert commands() == ["third"]


@pytest.mark.filterwarnings("ignore:.*not bit for bit")
def test_another_runs_checkpoint_continues_only_in_a_folder_without_a_run(tmp_path: Path) -> None:
    """Otherwise the folder's own checkpoints and lines would be cut back to that step; with force they are replaced, and said to be."""
    foreign, own = with_checkpoint(tmp_path / "a"), with_checkpoint(tmp_path / "b", step=4)
    with pytest.raises(InputError, match="b holds another run"):
        opened(tmp_path / "b", resume=str(foreign))
    assert own.is_dir()
    opened(tmp_path / "b", resume=str(tmp_path / "a" / ".." / "b" / "checkpoints" / own.name))
    opened(tmp_path / "c", resume=str(foreign))
    with open_run(tmp_path / "b", CONFIG, config_text="", resume=str(foreign), force=True) as run:
        assert run.resume_from is not None
        assert run.resume_from[0] == foreign
        assert not own.exists()
    assert own.is_dir()


def test_resuming_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Never a new run. Nothing is left locked, and no folder is made."""
    opened(tmp_path / "run")
    for path, resume, message in (
        ("run", "latest", "no complete checkpoint"),
        ("run", str(tmp_path / "nowhere"), "there is no such checkpoint"),
        ("other", "latest", "there is no run to resume"),
    ):
        with pytest.raises(InputError, match=message):
            opened(tmp_path / path, resume=resume)
    assert not (tmp_path / "run" / "lock.json").exists()
    assert not (tmp_path / "other").exists()


def test_other_settings_are_refused_with_a_table(tmp_path: Path) -> None:
    """Every differing key with both values; keys that move no number may differ."""
    with_checkpoint(tmp_path)
    changed = {"train": {"steps": 8, "keep": 9}, "optimizer": {"lr": 2e-5, "schedule": "constant"}, "method": {"name": "sft"}}
    with pytest.raises(InputError) as caught:
        opened(tmp_path, changed, resume="latest")
    message = str(caught.value)
    assert "optimizer.lr  checkpoint: 1e-05  this run: 2e-05" in message
    assert "method.name   checkpoint: 'inpo'  this run: 'sft'" in message
    assert "train.keep" not in message
    assert "train.steps" not in message


def test_a_longer_cosine_is_another_schedule() -> None:
    """With a constant rate a run may be extended; with a cosine every rate would change."""
    cosine = {"train": {"steps": 4}, "optimizer": {"schedule": "cosine"}}
    assert "train.steps" in snapshot.binding(cosine)
    assert "train.steps" not in snapshot.binding(CONFIG)
    assert snapshot.config_sha256(CONFIG) == snapshot.config_sha256(CONFIG | {"train": {"steps": 9, "keep": 1}})


@pytest.mark.filterwarnings("ignore:.*not bit for bit")
def test_a_scorer_may_have_moved(tmp_path: Path) -> None:
    """`pickscore:DIR` is the same scorer wherever DIR is mounted, and the pairs' fingerprint knows its weights; another kind is another."""
    there, here, other = (CONFIG | {"data": {"scorer": name}} for name in ("pickscore:/mnt/a", "pickscore:/mnt/b", "world:clip"))
    assert snapshot.config_sha256(there) == snapshot.config_sha256(here) != snapshot.config_sha256(other)
    with_checkpoint(tmp_path, config=there)
    opened(tmp_path, here, resume="latest")
    with pytest.raises(InputError, match=r"data\.scorer +checkpoint: 'pickscore' +this run: 'world:clip'"):
        opened(tmp_path, other, resume="latest")


def test_other_data_is_refused(tmp_path: Path) -> None:
    """The pairs' fingerprint is known when the loader is."""
    with_checkpoint(tmp_path)
    with pytest.warns(UserWarning, match="not bit for bit"):
        run = open_run(tmp_path, CONFIG, config_text="", resume="latest")
    run.close()
    run.data_sha256 = "other"
    with pytest.raises(InputError, match="data_sha256 is d there and other here"):
        run.check_same_data()


def test_secrets_do_not_reach_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named like a secret, shaped like one, inside an address, or in the environment."""
    canary = "CANARYvalue12345"
    arguments = [
        "inpo",
        "train",
        f"--hub-token={canary}",
        "--api-key",
        canary,
        f"hub.token={canary}",
        f"hf_{canary}",
        f"https://me:{canary}@host/x",
    ]
    assert canary not in json.dumps(redacted([*arguments, f"x=sk-{canary}", f"--password={canary}"]))
    assert redacted(["inpo", "train", "world-inpo", "train.steps=4", "--out", "runs/a"])[3:] == ["train.steps=4", "--out", "runs/a"]
    assert redacted(["--token", "--out", "runs/a"]) == ["--token", "--out", "runs/a"]
    monkeypatch.setenv("HF_TOKEN", canary)
    monkeypatch.setattr("sys.argv", arguments)
    assert canary not in json.dumps(environment())
