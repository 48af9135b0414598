"""A checkpoint is complete or invisible."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from inpo.errors import InputError, RunFault
from inpo.files import file_sha256
from inpo.training import checkpoint

IDENTITY = {"config_sha256": "c", "data_sha256": "d"}


def fill(folder: Path) -> None:
    """Two files, one of them in a folder."""
    (folder / "policy").mkdir()
    (folder / "policy" / "weights.bin").write_bytes(b"w" * 100)
    (folder / "state.json").write_text("{}")


def saved(checkpoints: Path, *steps: int) -> Path:
    """Checkpoints at these steps; the last one's folder."""
    return [checkpoint.save(checkpoints, step, write=fill, **IDENTITY) for step in steps][-1]


def names(folder: Path) -> list[str]:
    """What is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_the_manifest_lists_every_file_with_size_and_hash(tmp_path: Path) -> None:
    """As the contract says: schema, step, files, config_sha256, data_sha256."""
    folder = saved(tmp_path, 400)
    assert folder.name == "step-000400"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert list(manifest) == ["schema", "step", "files", "config_sha256", "data_sha256"]
    assert manifest["files"]["policy/weights.bin"] == {"bytes": 100, "sha256": file_sha256(folder / "policy" / "weights.bin")}
    assert set(manifest["files"]) == {"policy/weights.bin", "state.json"}
    assert checkpoint.verify(folder).step == 400


def test_a_save_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    """Whatever the error, no temporary folder stays and older checkpoints do."""
    saved(tmp_path, 1)

    def fail(folder: Path) -> None:
        fill(folder)
        raise KeyError("broken")

    with pytest.raises(KeyError):
        checkpoint.save(tmp_path, 2, write=fail, **IDENTITY)
    assert names(tmp_path) == ["step-000001"]


def test_nothing_has_the_name_before_everything_is_written(tmp_path: Path) -> None:
    """While files are being written, there is no step-000002, and what there is would be swept."""
    seen: list[list[str]] = []

    def look(folder: Path) -> None:
        fill(folder)
        seen.append(names(tmp_path))

    checkpoint.save(tmp_path, 2, write=look, **IDENTITY)
    assert [name.startswith(".tmp-step-000002") for name in seen[0]] == [True]


def test_leftovers_are_swept_and_named(tmp_path: Path) -> None:
    """What a killed save and a killed deletion left."""
    saved(tmp_path, 1)
    (tmp_path / ".tmp-step-000002-77" / "policy").mkdir(parents=True)
    (tmp_path / ".old-step-000000-77").mkdir()
    assert [path.name for path in checkpoint.sweep(tmp_path)] == [".tmp-step-000002-77", ".old-step-000000-77"]
    assert names(tmp_path) == ["step-000001"]


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    """By step and not by time stamp: a clock may have been set back."""
    saved(tmp_path, 1000, 90, 100)
    checkpoint.rotate(tmp_path, 2)
    assert names(tmp_path) == ["step-000100", "step-001000"]


def test_what_cannot_be_deleted_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on, and the newest stays."""
    saved(tmp_path, 1, 2, 3)

    def refuse(path: Path, **options: object) -> None:
        raise PermissionError(13, "no", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.warns(UserWarning, match="could not be deleted"):
        checkpoint.rotate(tmp_path, 1)
    assert list(checkpoint.steps_in(tmp_path)) == [3]


def test_saving_over_a_broken_one_replaces_it(tmp_path: Path) -> None:
    """A resumed run reaches the step of the checkpoint that was broken."""
    folder = saved(tmp_path, 5)
    (folder / "state.json").unlink()
    assert checkpoint.verify(saved(tmp_path, 5)).step == 5
    assert names(tmp_path) == ["step-000005"]


def damage_truncate(folder: Path) -> None:
    """Half a file."""
    (folder / "policy" / "weights.bin").write_bytes(b"w" * 50)


def damage_flip(folder: Path) -> None:
    """One bit, same size."""
    (folder / "policy" / "weights.bin").write_bytes(b"w" * 99 + b"v")


def damage_remove(folder: Path) -> None:
    """A file less."""
    (folder / "state.json").unlink()


def damage_manifest(folder: Path) -> None:
    """Half a manifest."""
    (folder / "manifest.json").write_text('{"schema": 1, "st')


def damage_no_manifest(folder: Path) -> None:
    """A folder that only looks like a checkpoint."""
    (folder / "manifest.json").unlink()


def damage_other_step(folder: Path) -> None:
    """Another checkpoint under this name."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"step": 7}))


def damage_outside(folder: Path) -> None:
    """A manifest that points out of its folder."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../secret"] = {"bytes": 1, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps(manifest))


DAMAGES = {
    damage_truncate: r"weights\.bin: 50 bytes, but its manifest says 100",
    damage_flip: r"weights\.bin: its sha256",
    damage_remove: r"state\.json: missing",
    damage_manifest: r"manifest\.json: not a manifest",
    damage_no_manifest: r"manifest\.json: missing",
    damage_other_step: r"manifest\.json: says step 7",
    damage_outside: r"'\.\./\.\./secret' points outside",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_latest_names_a_broken_one_and_takes_the_one_before(tmp_path: Path, damage: object) -> None:
    """The newest valid checkpoint, and a warning that says file and fault."""
    saved(tmp_path, 1, 2)
    damage(saved(tmp_path, 3))
    with pytest.warns(UserWarning, match=DAMAGES[damage]):
        folder, manifest = checkpoint.latest(tmp_path)
    assert (folder.name, manifest.step) == ("step-000002", 2)


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage is not damage_other_step], ids=lambda damage: damage.__name__)
def test_a_broken_one_by_name_is_refused(tmp_path: Path, damage: object) -> None:
    """Nobody asked for another one."""
    folder = saved(tmp_path, 3)
    damage(folder)
    with pytest.raises(InputError, match=DAMAGES[damage]):
        checkpoint.verify(folder)


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    """Never a new run."""
    with pytest.raises(InputError, match="no complete checkpoint"):
        checkpoint.latest(tmp_path / "checkpoints")
    with pytest.raises(InputError, match="there is no such checkpoint"):
        checkpoint.verify(tmp_path / "step-000001")


def test_another_schema_is_refused(tmp_path: Path) -> None:
    """A later version's checkpoint is not guessed at."""
    folder = saved(tmp_path, 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"schema": 2}))
    with pytest.raises(InputError, match="schema 2 cannot be read"):
        checkpoint.verify(folder)


def test_too_little_space_is_refused_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is trained, although the folder does not exist yet."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**7, 0, 10**6))
    checkpoint.check_space(tmp_path / "a" / "b", size=300_000, count=3)
    with pytest.raises(InputError, match=r"1,000,000 bytes are free.*4 checkpoint\(s\) of about 300,000 bytes need 1,200,000"):
        checkpoint.check_space(tmp_path / "a" / "b", size=300_000, count=4)


def test_a_folder_that_cannot_be_written_is_a_fault_with_its_path(tmp_path: Path) -> None:
    """Here because its parent is a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFault, match=r"step-000001: the checkpoint could not be written"):
        checkpoint.save(tmp_path / "file" / "checkpoints", 1, write=fill, **IDENTITY)
