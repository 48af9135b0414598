"""docs/equations.md and the code agree in both directions, and links between documents lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MATHEMATICS = [
    *(ROOT / "inpo" / f"{name}.py" for name in ("points", "schedule", "ddim", "grid", "release", "noising", "methods", "implicit")),
    *sorted((ROOT / "inpo" / "objectives").glob("*.py")),
    ROOT / "inpo" / "training" / "step.py",
]
PAGES = [*sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("*.md"))]
EQUATION = re.compile(r"\bM(\d+)\b")
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
Citations = dict[str, set[int]]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def documented(path: Path) -> Iterator[tuple[str, str]]:
    """Dotted names of a module, its classes and its functions, each with its docstring."""

    def walk(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, str]]:
        yield name, ast.get_docstring(node) or ""
        for child in node.body:
            if isinstance(child, ast.ClassDef):
                yield from walk(child, f"{name}.{child.name}")
            elif isinstance(child, ast.FunctionDef):
                yield f"{name}.{child.name}", ast.get_docstring(child) or ""

    return walk(ast.parse(path.read_text(encoding="utf-8")), module_name(path))


def cited_in_code() -> Citations:
    """What each docstring of the mathematics cites; symbols that cite nothing are left out."""
    found = {name: {int(n) for n in EQUATION.findall(text)} for path in MATHEMATICS for name, text in documented(path)}
    return {name: numbers for name, numbers in found.items() if numbers}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of docs/equations.md, without its head."""
    section = (DOCS / "equations.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def symbols(cell: str) -> list[str]:
    return [match["text"].strip("`") for match in LINK.finditer(cell)]


def table() -> Citations:
    """Of "By equation": which symbols stand in the row of which numbers."""
    out: Citations = {}
    for number, _, cell in rows("By equation"):
        for name in symbols(cell):
            out.setdefault(name, set()).update(int(n) for n in EQUATION.findall(number))
    return out


def test_every_symbol_of_the_table_exists_and_cites_its_number() -> None:
    """Where a method's own docstring is silent, its class's may speak for it."""
    cited = cited_in_code()
    for name, numbers in table().items():
        own, owner = cited.get(name, set()), cited.get(name.rpartition(".")[0], set())
        assert numbers <= own | owner, f"{name} should cite {sorted(numbers)}, but cites {sorted(own | owner)}"


def test_every_citation_of_the_mathematics_is_in_the_table() -> None:
    missing = {name: numbers - table().get(name, set()) for name, numbers in cited_in_code().items()}
    assert {name: numbers for name, numbers in missing.items() if numbers} == {}


def test_the_second_table_is_the_first_one_turned_round() -> None:
    turned = {symbols(cell)[0]: {int(n) for n in EQUATION.findall(numbers)} for cell, numbers in rows("By symbol")}
    assert turned == table()


def test_method_and_table_know_the_same_equations() -> None:
    """Each number is defined once in docs/method.md, at the start of a line of its displayed equations, and has one row."""
    method = (DOCS / "method.md").read_text(encoding="utf-8")
    defined = [int(n) for n in re.findall(r"^\(M(\d+)\)   ", method, re.MULTILINE)]
    listed = [int(n) for number, _, _ in rows("By equation") for n in EQUATION.findall(number)]
    assert sorted(defined) == sorted(listed) == sorted({int(n) for n in EQUATION.findall(method)})


def test_a_symbols_link_leads_to_the_file_that_defines_it() -> None:
    text = (DOCS / "equations.md").read_text(encoding="utf-8")
    home = {name: path for path in MATHEMATICS for name, _ in documented(path)}
    for match in LINK.finditer(text):
        name = match["text"].strip("`")
        if name.startswith("inpo."):
            assert (DOCS / match["target"]).resolve() == home[name], name


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings: lower case, spaces to hyphens, other punctuation dropped, repeats numbered."""
    out: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", LINK.sub(r"\g<text>", heading).lower()).strip().replace(" ", "-")
        number = 1
        while (numbered := slug if number == 1 else f"{slug}-{number - 1}") in out:
            number += 1
        out.add(numbered)
    return out


def prose(page: Path) -> str:
    """The page without fenced code, in which brackets and # mean other things."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def broken_links(page: Path, root: Path = ROOT) -> Iterator[str]:
    for match in LINK.finditer(prose(page)):
        if "://" in match["target"] or match["target"].startswith("mailto:"):
            continue
        path, _, anchor = match["target"].partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.is_relative_to(root) or not file.exists():
            yield f"{match['target']}: no such file in the repository"
        elif anchor and (file.suffix != ".md" or anchor not in anchors(file)):
            yield f"{match['target']}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_the_link_check_can_fail(tmp_path: Path) -> None:
    """A missing heading, a missing file and a way out of the repository are found; right ones and code are not."""
    page = tmp_path / "page.md"
    page.write_text("# A — b\n[x](#a--b) [x](page.md) [x](#a) [x](absent.md) [x](..)\n```\n[x](#c)\n```\n", encoding="utf-8")
    assert [link.partition(":")[0] for link in broken_links(page, tmp_path)] == ["#a", "absent.md", ".."]
    assert {"2-one-path-one-step", "what-τ-is-not"} <= anchors(DOCS / "method.md")
