"""What the command line refuses before it works: places that cannot be written, options that would be ignored, and its own small print."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

import inpo
from inpo import world
from inpo.cli import app, faults
from inpo.compose import scorer
from inpo.errors import RunFault
from tests.end_to_end.conftest import Run, small

NOWHERE = Path("/proc/nope")
PROMPT = "a small red square on a white background\n"


def commands(prompts: Path) -> dict[str, tuple[object, ...]]:
    """Every command that writes to `--out` outside training, with nothing else wrong."""
    sampled = ("--prompts", prompts, "--steps", 1, "--guidance", 1)
    return {
        "generate": ("generate", "--model", "world", *sampled),
        "evaluate": ("evaluate", "--candidate", "world", "--baseline", "world", "--scorers", "world:oracle", *sampled),
        "data generate": ("data", "generate", "--model", "world", "--scorer", "world:oracle", *sampled),
        "score --images": ("score", "--scorer", "world:oracle", "--images", prompts.parent / "pictures", "--prompt", PROMPT.strip()),
        "score --pairs": ("score", "--scorer", "world:oracle", "--pairs", "world:pairs", "--limit", 1),
        "demo": ("demo",),
        "compare": ("compare", "world", "--quick", "--table"),
        "world build": ("world", "build"),
    }


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "p.txt").write_text(PROMPT)
    return tmp_path / "p.txt"


@pytest.mark.skipif(not NOWHERE.parent.is_dir(), reason="no /proc: a folder in which not even root can make another")
@pytest.mark.parametrize("name", list(commands(Path())))
def test_a_place_that_cannot_be_written_is_one_line(name: str, run: Run, prompts: Path) -> None:
    suffix = {"score --images": "x.csv", "score --pairs": "x.json", "data generate": "x.parquet"}.get(name, "")
    if name == "score --images":
        (prompts.parent / "pictures").mkdir()
        Image.new("RGB", (32, 32)).save(prompts.parent / "pictures" / "a.png")
    failed = run(*commands(prompts)[name], "--out", NOWHERE / suffix)
    errors = [line for line in failed.err.splitlines() if line.startswith("error: ")]
    assert (failed.code in (1, 2), len(errors)) == (True, 1), failed.err
    assert str(NOWHERE) in errors[0]


def test_a_file_where_a_folder_is_to_be_is_one_line(run: Run, prompts: Path) -> None:
    failed = run("world", "build", "--out", prompts)
    assert (failed.code, failed.err.count("\n")) == (1, 1)
    assert f"{prompts} cannot be written" in failed.err or f"{prompts}/scratch cannot be written" in failed.err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_halfway_is_one_line(
    number: int, run: Run, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system names no file then: the command's --out is named. The same command goes on when there is room."""

    def fill(file: Path, image: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("inpo.generation.folder.write_png", fill)
    command = (*commands(prompts)["generate"], "--out", tmp_path / "out")
    failed = run(*command)
    assert (failed.code, failed.err.count("error: ")) == (1, 1)
    assert f"{tmp_path / 'out'}: the disk is full ({os.strerror(number)})" in failed.err
    monkeypatch.undo()
    monkeypatch.setattr("sys.argv", ["inpo", *map(str, command)])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert not ended.value.code


def test_the_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch, run: Run, prompts: Path) -> None:
    monkeypatch.setenv("INPO_TRACEBACK", "1")
    with pytest.raises(RunFault, match="cannot be written"):
        run(*commands(prompts)["generate"], "--out", NOWHERE)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", str(Path(inpo.__file__).parent / "gone.css")),
        FileNotFoundError(errno.ENOENT, "No such file or directory", sys.executable + ".gone"),
        ConnectionError("reset by peer"),
        OSError("a library's words"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
)
def test_faults_of_the_program_keep_their_traceback(error: OSError, tmp_path: Path) -> None:
    """A file that ought to be there, and errors that are no disk's."""
    assert faults.refusal(error, tmp_path / "out") is None
    faults.OUT.set(tmp_path / "out")
    with pytest.raises(type(error)), faults.disk_told():
        raise error


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    """Wherever it lies: nothing of the program can mend it."""
    told = faults.refusal(PermissionError(errno.EACCES, "Permission denied", "/secret/prompts.txt"), tmp_path / "out")
    assert str(told) == "/secret/prompts.txt: the system refuses it (Permission denied)"


@pytest.mark.parametrize("name", list(commands(Path())))
@pytest.mark.parametrize("empty", [("--out", ""), ("--out=",)])
def test_an_empty_out_is_refused(name: str, empty: tuple[str, ...], run: Run, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unset variable of the shell is not the current folder."""
    (prompts.parent / "here").mkdir()
    monkeypatch.chdir(prompts.parent / "here")
    refused = run(*commands(prompts)[name], *empty)
    assert (refused.code, refused.err.startswith("error: --out is empty")) == (2, True)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "command", [("train", "world-inpo"), ("export", "world"), ("data", "import", "a"), ("data", "score", "a", "--scorer", "world:clip")]
)
def test_an_empty_out_is_refused_elsewhere_too(command: tuple[str, ...], run: Run) -> None:
    refused = run(*command, "--out", "")
    assert (refused.code, refused.err.startswith("error: --out is empty")) == (2, True)


def test_a_limit_with_images_is_refused(run: Run, prompts: Path, tmp_path: Path) -> None:
    """It would be ignored: every picture is scored."""
    refused = run(*commands(prompts)["score --images"], "--limit", 2, "--out", tmp_path / "x.csv")
    assert (refused.code, "--limit=2 is of --pairs" in refused.err) == (2, True)


def test_a_dry_run_checks_folder_and_checkpoint(run: Run, tiny_pipeline: Path, pairs_file: Path, tmp_path: Path) -> None:
    """What would be refused without --dry-run is refused with it, and the folder is as it was."""
    settings = small(tiny_pipeline, pairs_file, "sft")
    command = ("train", "sd15-sft", *settings, "--dry-run", "--out")
    assert run("train", "sd15-sft", *settings, "--out", tmp_path / "run").code == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*"))
    refused = {
        "holds another run": (tmp_path / "run",),
        "there is no such checkpoint": (tmp_path / "new", "--resume", tmp_path / "no" / "such"),
        "there is no run to resume": (tmp_path / "new", "--resume", "latest"),
        "is a file; a run needs a folder": (pairs_file,),
        "but no run of inpo": (tmp_path,),
    }
    for words, arguments in refused.items():
        said = run(*command, *arguments)
        assert (said.code, words in said.err) == (2, True), said.err
    other = run("train", "sd15-sft", *settings, "optimizer.lr=0.5", "--dry-run", "--out", tmp_path / "run", "--resume", "latest")
    assert (other.code, "other settings" in other.err) == (2, True), other.err
    for more in ((tmp_path / "run", "--resume", "latest"), (tmp_path / "run", "--force"), (tmp_path / "new",)):
        done = run(*command, *more)
        assert done.code == 0, done.err
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*")) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", [("data", "validate"), ("data", "score", "--scorer", "world:clip", "--out", "x.parquet")])
@pytest.mark.parametrize("source", ["world:pairs", "world:pairs-shuffled"])
def test_the_built_in_pairs_are_no_file(command: tuple[str, ...], source: str, run: Run) -> None:
    refused = run(*command, source)
    assert (refused.code, f"{source} is built in and endless" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("data", "import", "a.json", "--per-caption", 0, "--out", "a.parquet"), "--per-caption=0 must be a whole number of at least 1"),
        (("data", "import", "a.json", "--pairs", "best", "--out", "a.parquet"), "--pairs='best' is not known"),
        (("data", "generate", "--limit", 0), "--limit=0 must be a whole number of at least 1\n"),
        (("data", "generate", "--samples", 1), "--samples=1 must be a whole number of at least 2\n"),
        (("data", "generate", "--margin", -1), "--margin=-1.0 must be a finite number of at least 0"),
        (("data", "generate", "--near-ties", "keep"), "--near-ties='keep' is not known"),
        (("data", "generate", "--model", "nowhere"), "--model='nowhere'"),
    ],
)
def test_options_are_named_with_their_dashes(command: tuple[object, ...], words: str, run: Run, prompts: Path, tmp_path: Path) -> None:
    rest = ("--out", tmp_path / "o.parquet") if command[1] == "generate" else ()
    model = ("--model", "world") if "--model" not in command and command[1] == "generate" else ()
    scorer = ("--scorer", "world:oracle", "--prompts", prompts) if command[1] == "generate" else ()
    refused = run(*command, *model, *scorer, *rest)
    assert (refused.code, words in refused.err) == (2, True), refused.err


def test_version_and_short_help(run: Run) -> None:
    assert run("--version").out == f"inpo {inpo.__version__}\n"
    assert run("-h").out == run("--help").out
    assert run("data", "generate", "-h").out == run("data", "generate", "--help").out
    assert "--batch" in run("generate", "-h").out


def test_a_scorers_folder_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run's and a model's may."""
    shutil.copytree(world.scorer_path(), tmp_path / "ps")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert scorer("pickscore:~/ps").spec == scorer("world:clip").spec
