"""docs/errors.md and the code agree in both directions: every class and every message that can be raised stands there, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inpo.cli import app
from inpo.errors import InputError, RunFault
from tests.raised import ANY, ROOT, Raised, raised, said

PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
SITES = raised()
LETTERS = re.compile(r"[^\W\d_]{3,}")


def first_cells(*, skip: tuple[str, ...]) -> list[str]:
    """Code in the first cells of the page's tables, the named sections left out."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    kept = [section for section in sections if section.splitlines()[0] not in skip]
    rows = [line.split("|")[1] for section in kept for line in section.splitlines() if line.startswith("| `")]
    return [text for row in rows for text in re.findall(r"`([^`]+)`", row)]


FRAGMENTS = first_cells(skip=("Exit codes", "Classes"))


def pattern(fragment: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in fragment.split(ANY)), re.DOTALL)


def own_words(message: str) -> bool:
    """Whether a message says anything itself: some only pass on another's, with a place before it."""
    return len(LETTERS.findall(message)) > 1


def explained(message: str) -> bool:
    return any(pattern(fragment).search(message) for fragment in FRAGMENTS)


def covered(fragment: str) -> list[Raised]:
    return [site for site in SITES if any(pattern(fragment).search(message) for message in site.messages)]


def test_every_class_is_in_the_table_and_nothing_else() -> None:
    section = PAGE.split("\n## Classes\n")[1].split("\n## ")[0]
    listed = {name for line in section.splitlines() if line.startswith("| `") for name in re.findall(r"`([\w.]+)`", line.split("|")[1])}
    assert listed == {site.kind for site in SITES}


def test_every_message_is_on_the_page() -> None:
    """By words of it that a reader would search for. A new error needs a row that says what to do."""
    missing = [f"inpo/{site.place}: {text}" for site in SITES for text in site.messages if own_words(text) and not explained(text)]
    assert not missing, "add to docs/errors.md:\n" + "\n".join(missing)


def test_every_row_is_of_an_error_that_exists() -> None:
    texts = said()
    unused = [fragment for fragment in FRAGMENTS if not any(pattern(fragment).search(text) for text in texts)]
    assert not unused, f"remove from docs/errors.md: {unused}"


def test_no_row_catches_all() -> None:
    """A row of few words would let new errors through: each fragment speaks for at most a tenth of the places."""
    assert [fragment for fragment in FRAGMENTS if len(covered(fragment)) > len(SITES) / 10] == []


def test_a_new_error_would_be_missed() -> None:
    """Messages that no row speaks for, one of them with the names of another."""
    assert not explained("data.colour=… has to be a colour; try red")
    assert not explained("…: the third text encoder is upside down")
    assert explained("…: there is no such checkpoint")


def test_templates_by_hand(tmp_path: Path) -> None:
    """Formatted values become …, a helper's texts take its call's place, a choice gives both, constants are read."""
    (tmp_path / "a.py").write_text(
        "LIMIT = 'a limit'\n"
        "class Broken(ValueError): ...\n"
        "def say(x) -> str:\n    return f'no {x}' if x else 'nothing'\n"
        "def go(x):\n    raise InputError(f'{x} is over {LIMIT}: ' + 'stop')\n"
        "def helper(x):\n    return Broken(say(x))\n"
        "def other():\n    raise KeyError\n",
        encoding="utf-8",
    )
    found = {(site.kind, site.messages) for site in raised(tmp_path)}
    assert found == {("InputError", ("… is over a limit: stop",)), ("Broken", ("no …", "nothing")), ("KeyError", ())}


@pytest.mark.parametrize(("error", "code"), [(InputError("x"), 2), (RunFault("x"), 1)])
def test_exit_codes_are_as_stated(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.delenv("INPO_TRACEBACK", raising=False)
    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == code
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{type(error).__name__}`"))
    assert f"exit {code}" in row
