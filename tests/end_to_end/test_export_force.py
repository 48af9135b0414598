"""`inpo export --force` replaces earlier exports, and nobody's work that lies in a folder which looks like one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inpo.errors import InputError
from inpo.models.families import SD
from inpo.models.saving import replace_folder
from inpo.results.card import Card
from tests.end_to_end.conftest import Run

PLACES = ["NOTES.txt", "weights.bak", "src/thesis.txt", "unet/deep/thesis.txt", "vae/thesis.docx", ".env", "base.json"]
HUBS = "---\ntags: [text-to-image]\n---\n# x\n"
OURS = Card("out", "pipeline", SD).text()


def keep(folder: Path, place: str) -> Path:
    """Puts somebody's work there."""
    file = folder / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("years of work")
    return file


@pytest.mark.parametrize("place", PLACES)
def test_an_export_that_somebody_keeps_work_in(place: str, run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """What no export has in it makes it another folder."""
    out = shutil.copytree(tiny_pipeline, tmp_path / "out")
    (out / "README.md").write_text(OURS)
    work = keep(out, place)
    refused = run("export", tiny_pipeline, "--out", out, "--force")
    words = f"--out {out} is no earlier export (it holds {'src' if 'src' in place else place.removesuffix('/thesis.txt')}"
    assert (refused.code, words in refused.err) == (2, True), refused.err
    assert work.read_text() == "years of work"


@pytest.mark.parametrize("card", [None, HUBS])
def test_a_base_model_is_no_export(card: str | None, run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """A copy or a download of one, though it has every file of an export; with our card it is replaced."""
    out = shutil.copytree(tiny_pipeline, tmp_path / "out")
    if card:
        (out / "README.md").write_text(card)
    refused = run("export", tiny_pipeline, "--out", out, "--force")
    assert (refused.code, "is no earlier export (" in refused.err) == (2, True), refused.err
    (out / "README.md").write_text(OURS)
    assert run("export", tiny_pipeline, "--out", out, "--force").code == 0


def test_a_projects_folder_is_no_export_of_a_unet(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Any program has a config.json."""
    (tmp_path / "proj" / "src").mkdir(parents=True)
    (tmp_path / "proj" / "config.json").write_text("{}")
    (tmp_path / "proj" / "src" / "thesis.txt").write_text("years of work")
    refused = run("export", tiny_pipeline, "--format", "unet", "--out", tmp_path / "proj", "--force")
    assert (refused.code, "is no earlier export" in refused.err) == (2, True)
    assert (tmp_path / "proj" / "src" / "thesis.txt").read_text() == "years of work"


def test_a_runs_own_result_is_no_export(run: Run, tiny_pipeline: Path, tmp_path: Path) -> None:
    """It has the same card and the same files."""
    model = shutil.copytree(tiny_pipeline, tmp_path / "mine" / "model")
    (model / "README.md").write_text(OURS)
    (model.parent / "config.yaml").write_text("model:\n  path: world\n")
    refused = run("export", tiny_pipeline, "--out", model, "--force")
    assert (refused.code, "is no earlier export (it is a run's own result)" in refused.err) == (2, True), refused.err
    assert (model / "README.md").read_text() == OURS


def test_a_save_refuses_what_no_save_has_written(tmp_path: Path) -> None:
    """From Python too: the marker alone makes no folder a save."""
    work = keep(tmp_path / "proj", "src/thesis.txt")
    (tmp_path / "proj" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"is no earlier save \(it holds src\)"), replace_folder(tmp_path / "proj", "config.json"):
        pass
    assert work.read_text() == "years of work"
