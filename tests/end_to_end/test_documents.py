"""The commands of the documents: each block is run, page by page in a folder of its own, or marked with what it needs and then parsed."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import inpo
from inpo.cli.app import app
from inpo.config import load_experiment, recipe_names, recipe_text
from inpo.generation import GenerationConfig
from inpo.world.shapes import prompts
from tests import documents
from tests.documents import PAGES, ROOT, SHELLS, Block
from tests.end_to_end.conftest import Outcome, Run
from tests.unit.data import making

BLOCKS = [block for page in PAGES for block in documents.blocks(page)]
MARKED = [block for block in BLOCKS if block.language in SHELLS and not block.runs]
CODE = [block for block in BLOCKS if block.language == "python"]
RUN = [page for page in PAGES if any(block.runs and block.language in (*SHELLS, "python") for block in documents.blocks(page))]
COMMAND = re.compile(r"^(\$ )?(inpo|make|accelerate|pip|python|\.venv/bin/\w+) ")


def name(item: Block | Path) -> str:
    return item.place if isinstance(item, Block) else str(item.relative_to(ROOT))


def belongings(folder: Path) -> None:
    """What a page may take for granted: pairs, prompts and two pictures, all the reader's own."""
    making.write(folder / "pairs.parquet", [making.row(i) for i in range(24)])
    for picture in ("a.png", "b.png"):
        (folder / picture).write_bytes(making.png(ord(picture[0])))
    (folder / "prompts.txt").write_text("\n".join(prompts("validation")[:2]) + "\n")


class Session:
    """A shell at a page's folder: plain `inpo` commands run in this process, everything else in bash."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run = run
        (folder / "bin").mkdir()
        command = folder / "bin" / "inpo"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m inpo "$@"\n')
        command.chmod(0o755)
        path = f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}

    def __call__(self, line: str) -> Outcome:
        words = documents.simple(line)
        if words is not None and words[0] == "inpo":
            return self._run(*words[1:])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line], capture_output=True, text=True, check=False, env=self._environment, timeout=120
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("page", RUN, ids=name)
def test_a_page_does_what_it_shows(
    page: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks in their order, each command with the exit code that the page says, and the output that it shows."""
    session = Session(run, tmp_path)
    (tmp_path / "page").mkdir()
    monkeypatch.chdir(tmp_path / "page")
    belongings(tmp_path / "page")
    printed, names = "", {"__name__": "page"}
    for block in documents.blocks(page):
        if block.language in SHELLS and block.runs:
            printed = run_block(session, block)
        elif block.language == "python" and block.runs:
            exec(compile(block.code, block.place, "exec"), names)
            printed = capsys.readouterr().out
        elif "output" in block.marks:
            missing = [line for line in block.code.splitlines() if not re.search(pattern(line), printed)]
            assert not missing, f"{block.place} shows {missing}, but this was printed:\n{printed}"


def run_block(session: Session, block: Block) -> str:
    """Runs its commands and returns what they printed."""
    printed, commands = "", documents.lines(block.code)
    for i, line in enumerate(commands):
        done = session(line)
        wanted = int(block.marks.get("exits", 0)) if i == len(commands) - 1 else 0
        assert done.code == wanted, f"{block.place}: {line.strip()}\nexit {done.code}\n{done.out}{done.err}"
        printed += done.out + done.err
    return printed


def pattern(line: str) -> str:
    return re.escape(line.strip()).replace("…", ".*")


@pytest.mark.parametrize("block", MARKED, ids=name)
def test_a_marked_command_is_one_that_exists(block: Block) -> None:
    """What cannot be run here is parsed: options and arguments by the command line, recipes and settings by the configuration."""
    assert block.marks["needs"] in documents.KINDS
    for arguments in documents.calls(block.code):
        check(arguments)
    for arguments in documents.launches(block.code):
        from accelerate.commands.launch import launch_command_parser

        found = launch_command_parser().parse_args(arguments)
        assert found.module
        assert found.training_script == "inpo"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in documents.targets(block.code))


def check(arguments: list[str]) -> None:
    """Parses a command as the program would and looks up what it names, without running it."""
    command, rest = typer.main.get_command(app), list(arguments)
    while hasattr(command, "commands"):
        assert rest, f"inpo {' '.join(arguments)}: names no command"
        assert rest[0] in command.commands, f"inpo {' '.join(arguments)}: there is no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    given = command.make_context(command.name, rest).params
    if command.name == "train":
        source = given["recipe"] if given["recipe"] in recipe_names() or Path(given["recipe"]).suffix != ".yaml" else "world-inpo"
        load_experiment(source, ["data.path=PAIRS", *(given["overrides"] or [])])
    if command.name == "recipes" and given["name"]:
        recipe_text(given["name"])
    if "scheduler" in given:
        GenerationConfig(scheduler=given["scheduler"], steps=given["steps"], guidance=given["guidance"], samples=given["samples"])


@pytest.mark.parametrize("block", CODE, ids=name)
def test_code_compiles_and_names_what_the_package_has(block: Block) -> None:
    """`inpo.NAME` exists, and its calls use parameters that it has."""
    assert block.marks.get("needs", "minutes") in documents.KINDS
    for node in ast.walk(compile(block.code, block.place, "exec", ast.PyCF_ONLY_AST)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "inpo":
            assert hasattr(inpo, node.attr), f"{block.place}: inpo.{node.attr}"
        if isinstance(node, ast.Call) and re.fullmatch(r"inpo\.\w+", ast.unparse(node.func)):
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            function = getattr(inpo, ast.unparse(node.func).removeprefix("inpo."))
            inspect.signature(function).bind_partial(*(None for _ in node.args), **keywords)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_stand_in_blocks_that_are_run_or_parsed(page: Path) -> None:
    """No command hides in a block without a language, and each `inpo VERB` in running text is a command."""
    text = page.read_text(encoding="utf-8")
    for block in documents.blocks(page):
        if block.language not in (*SHELLS, "python"):
            hidden = [line for line in block.code.splitlines() if COMMAND.match(line)]
            assert not hidden, f"{block.place}: {hidden[0]!r} is a command; mark the block as sh"
    for found in re.finditer(r"`inpo ([^`\n]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)):
        command = typer.main.get_command(app)
        for word in found[1].split():
            if hasattr(command, "commands") and not word.startswith("-"):
                assert word in command.commands, f"{name(page)}: `{found[0]}`"
                command = command.commands[word]


WRONG = {
    "train sd15-inpo --ot x": "--ot",
    "train sd15-inpo train.step=1 --out x": "train.step",
    "train sd15-inpo train.steps=0 --out x": "train.steps",
    "train sd15-impo --out x": "sd15-impo",
    "train sd15-inpo": "out",
    "trian sd15-inpo --out x": "trian",
    "recipes sd15-impo": "sd15-impo",
    "generate --model m --prompts p --out o --scheduler dim": "dim",
}


@pytest.mark.parametrize("text", WRONG)
def test_the_parser_refuses_what_is_not_there(text: str) -> None:
    """A misspelt option, key, value, recipe, command and a missing option: each is found without running anything, and named."""
    with pytest.raises(Exception, match=WRONG[text]):
        check(text.split())


def test_blocks_and_their_commands_by_hand() -> None:
    """Marks, continued lines, comments, launchers and pipes."""
    code = "# first\ninpo train a \\\n  b=1 --out c  # why\naccelerate launch --num_processes 8 -m inpo train d --out e\n"
    code += "inpo recipes | head -3 > f\n"
    assert list(documents.calls(code)) == [["train", "a", "b=1", "--out", "c"], ["train", "d", "--out", "e"], ["recipes"]]
    assert list(documents.launches(code)) == [["--num_processes", "8", "-m", "inpo", "train", "d", "--out", "e"]]
    assert documents.simple("inpo recipes | head") is None
    assert documents.simple("inpo train a  # b > c") == ["inpo", "train", "a"]
    assert list(documents.targets("make demo && make test")) == ["demo", "test"]


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert pages - set(re.findall(r"\]\(([\w/-]+\.md)\)", index)) == set()
