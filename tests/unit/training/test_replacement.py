"""An earlier run is there, whole, until it is decided that it goes; wherever a process dies in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from inpo.training import replacement
from inpo.training.replacement import Replacement

CONTENTS = ("metrics.jsonl", "rejected.jsonl", "rejected-refused.jsonl", "checkpoints", "model", "environment.json")
OLD = {"metrics.jsonl": "old", "checkpoints/step-000002/state.json": "old", "environment.json": "old", "notes.txt": "mine"}


class Killed(BaseException):
    """The process is gone: nothing catches this."""


def write(folder: Path, files: dict[str, str]) -> None:
    """Makes the files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def held(folder: Path) -> dict[str, str]:
    """Every file's text."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def dying(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Every change of a name or deletion counts; the process dies before the one numbered `after`."""
    left = iter(range(after))

    def counted(name: str, real: object) -> None:
        def call(*arguments: object, **named: object) -> object:
            if next(left, None) is None:
                raise Killed
            return real(*arguments, **named)

        monkeypatch.setattr(Path if name in ("rename", "replace", "rmdir") else replacement, name, call)

    for name, real in (("rename", Path.rename), ("rmdir", Path.rmdir), ("_delete", replacement._delete)):
        counted(name, real)


def test_what_is_not_settled_comes_back(tmp_path: Path) -> None:
    """What the new run wrote goes, whether the old one had such a thing or not; what belongs to no run stays throughout."""
    write(tmp_path, OLD)
    made = Replacement(tmp_path, CONTENTS)
    made.set_aside()
    assert made.pending
    assert made.bytes == 9
    assert {name for name in held(tmp_path) if not name.startswith(replacement.ASIDE)} == {"notes.txt"}
    write(tmp_path, {"metrics.jsonl": "new", "model/unet/config.json": "new", "rejected.jsonl": "", "environment.json": "new"})
    made.restore()
    assert held(tmp_path) == OLD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "environment.json", "metrics.jsonl", "notes.txt"]


def test_what_is_settled_is_gone(tmp_path: Path) -> None:
    """For good, and settling or restoring again changes nothing."""
    write(tmp_path, OLD)
    made = Replacement(tmp_path, CONTENTS)
    made.set_aside()
    write(tmp_path, {"metrics.jsonl": "new"})
    for again in (made.settle, made.settle, made.restore):
        again()
        assert held(tmp_path) == {"metrics.jsonl": "new", "notes.txt": "mine"}


def test_a_symlink_is_moved_and_its_target_left_alone(tmp_path: Path) -> None:
    """checkpoints/ may lie on another disk."""
    write(tmp_path, {"elsewhere/step-000002/state.json": "old", "run/environment.json": "old"})
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    made = Replacement(tmp_path / "run", CONTENTS)
    made.set_aside()
    made.restore()
    assert (tmp_path / "run" / "checkpoints").is_symlink()
    made.set_aside()
    made.settle()
    assert held(tmp_path) == {"elsewhere/step-000002/state.json": "old"}


def test_why_a_new_run_was_refused_can_still_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its list of rejected rows lies beside the old run's, and standard error says where."""
    write(tmp_path, OLD | {"rejected.jsonl": "old"})
    made = Replacement(tmp_path, CONTENTS)
    made.set_aside()
    write(tmp_path, {"rejected.jsonl": "new", "environment.json": "new"})
    made.restore()
    assert held(tmp_path) == OLD | {"rejected.jsonl": "old", "rejected-refused.jsonl": "new"}
    assert str(tmp_path / "rejected-refused.jsonl") in capsys.readouterr().err


@pytest.mark.parametrize("settled", [False, True])
def test_a_process_may_die_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool) -> None:
    """Before every single renaming and deletion of a whole replacement, and then again of its repair: the next one puts the old run
    back, or, once it was settled, has the new one alone. Never a mixture, never neither."""
    outcomes = set()
    for deaths in range(40):
        folder = tmp_path / str(deaths)
        write(folder, OLD)
        made = Replacement(folder, CONTENTS)
        with monkeypatch.context() as patch:
            dying(patch, deaths)
            try:
                made.set_aside()
                write(folder, {"metrics.jsonl": "new", "model/a": "new", "environment.json": "new"})
                (made.settle if settled else made.restore)()
            except Killed:
                pass
            else:
                outcomes.add("alive")
        for repairs in range(20):
            with monkeypatch.context() as patch:
                dying(patch, repairs)
                try:
                    made.restore()
                    break
                except Killed:
                    continue
        found = held(folder)
        assert found in (OLD, {"metrics.jsonl": "new", "model/a": "new", "environment.json": "new", "notes.txt": "mine"})
        outcomes.add("old" if found == OLD else "new")
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert outcomes == ({"alive", "old", "new"} if settled else {"alive", "old"})
