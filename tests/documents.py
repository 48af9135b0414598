"""The documents as programs: their fenced blocks, what marks a block that a test cannot run, and how the others are run.

A comment on the lines before a fence marks it. `<!-- needs: KIND -->` keeps it from being run (`KINDS`), `<!-- exits: N -->` says with
which code its last command ends, and `<!-- output -->` before a fence without a language says that its lines are printed by the block
before; `…` there stands for anything.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
KINDS = {
    "weights": "weights or data that have to be downloaded, or the reader's own",
    "minutes": "more time than a test has",
    "gpus": "accelerators",
    "setup": "a fresh clone and the package registry",
    "fragment": "the rest of a program around it",
}
SHELLS = ("sh", "bash")
_FENCE = re.compile(r"^(?P<marks>(?:<!--.*?-->\n)*)```(?P<language>[\w-]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (?P<key>needs|exits|output)(?:: (?P<value>[\w ]+))? -->")
_SPECIAL = re.compile(r"[|<>;&$`(]")


@dataclass(frozen=True)
class Block:
    """A fenced block. `marks`: what the comments before it say, as {"needs": "weights"}."""

    place: str
    language: str
    code: str
    marks: dict[str, str]

    @property
    def runs(self) -> bool:
        """Whether a test runs it."""
        return "needs" not in self.marks


def blocks(page: Path) -> list[Block]:
    """A page's fenced blocks, in order."""
    text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT)
    return [
        Block(
            f"{name}, line {text[: found.end('marks')].count(chr(10)) + 1}", found["language"], found["code"],
            {mark["key"]: mark["value"] or "" for mark in _MARK.finditer(found["marks"])},
        )
        for found in _FENCE.finditer(text)
    ]  # fmt: skip


def lines(code: str) -> list[str]:
    """A shell block's commands: comments and empty lines left out, continued lines joined."""
    joined = code.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not line.lstrip().startswith("#")]


def simple(line: str) -> list[str] | None:
    """The words of a plain command; None where the line is more than that (a pipe, a redirection, a variable)."""
    words = shlex.split(line, comments=True)
    return None if _SPECIAL.search(_without_comment(line)) else words


def calls(code: str) -> Iterator[list[str]]:
    """The arguments of every `inpo` in a shell block, behind a launcher too, and without the shell's own signs."""
    for line in lines(code):
        for words in _commands(line):
            if words[0] == "inpo":
                yield words[1:]
            elif words[:2] == ["accelerate", "launch"] and "inpo" in words:
                yield words[words.index("inpo") + 1 :]
            elif words[1:3] == ["-m", "inpo"]:
                yield words[3:]


def launches(code: str) -> Iterator[list[str]]:
    """The arguments of every `accelerate launch` in a shell block."""
    for line in lines(code):
        yield from (words[2:] for words in _commands(line) if words[:2] == ["accelerate", "launch"])


def targets(code: str) -> Iterator[str]:
    """What a shell block asks of `make`."""
    for line in lines(code):
        yield from (target for words in _commands(line) if words[0] == "make" for target in words[1:])


def _commands(line: str) -> Iterator[list[str]]:
    """One line's commands, split at pipes and the like; a redirection ends what belongs to the command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("();<>|&"):
            words.append(word)
            continue
        if words:
            yield words
        words = []


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", line)
