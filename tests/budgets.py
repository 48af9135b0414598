"""The budgets that keep this code readable, as a check: `python tests/budgets.py` exits 1 and lists what is over.

Functions: median ≤ 10 lines, p90 ≤ 30, none over 60. Files ≤ 300 lines. At most 6 parameters, keyword-only after the second
is a matter of taste that this does not judge. Nesting ≤ 3. No `utils.py`, no `**kwargs` in public functions. Tests ≥ 0.5 lines
a line of code, and every test asserts something.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEDIAN, P90, LONGEST, FILE, PARAMETERS, NESTING, TESTS_PER_LINE = 10, 30, 60, 300, 6, 3, 0.5
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def lines_of(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def depth(node: ast.AST) -> int:
    """Nested blocks; an `elif` is the same depth as its `if`, and a function inside a function starts anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse and len(node.orelse) == 1
        deepest = max(deepest, depth(child) + (isinstance(child, BLOCKS) and not chained))
    return deepest


def parameters(node: Function) -> int:
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len(named) - (bool(named) and named[0].arg in ("self", "cls"))


def is_command(node: Function) -> bool:
    """Whether the parameters are a command line's options, which nobody passes by position."""
    return any("command" in ast.dump(decorator) for decorator in node.decorator_list)


def over_budget(path: Path, tree: ast.AST) -> Iterator[str]:
    where, lines = path.relative_to(ROOT), len(path.read_text().splitlines())
    if lines > FILE:
        yield f"{where}: {lines} lines (at most {FILE})"
    if path.name == "utils.py":
        yield f"{where}: every helper has a home noun; utils is none"
    for node in functions(tree):
        at = f"{where}:{node.lineno} {node.name}"
        if lines_of(node) > LONGEST:
            yield f"{at}: {lines_of(node)} lines (at most {LONGEST})"
        if parameters(node) > PARAMETERS and not is_command(node):
            yield f"{at}: {parameters(node)} parameters (at most {PARAMETERS})"
        if depth(node) > NESTING:
            yield f"{at}: nested {depth(node)} deep (at most {NESTING})"
        if node.args.kwarg and not node.name.startswith("_"):
            yield f"{at}: **{node.args.kwarg.arg} swallows misspelt names"


def checks(node: Function) -> bool:
    calls = (getattr(c.func, "attr", getattr(c.func, "id", "")) for c in ast.walk(node) if isinstance(c, ast.Call))
    asserts = any(isinstance(n, ast.Assert) for n in ast.walk(node))
    return asserts or any(word in call.lower() for call in calls for word in ("assert", "raises", "check", "refuse"))


def toothless(path: Path, tree: ast.AST) -> Iterator[str]:
    for node in functions(tree):
        if node.name.startswith("test_") and not checks(node):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: asserts nothing"


def totals(lengths: list[int], code: int, tests: int) -> Iterator[str]:
    median, p90 = statistics.median(lengths), statistics.quantiles(lengths, n=10)[8]
    print(f"{len(lengths)} functions: median {median:.0f} lines, p90 {p90:.0f}, longest {max(lengths)}")
    print(f"{code} lines of code, {tests / code:.2f} of test a line")
    if median > MEDIAN or p90 > P90:
        yield f"functions: median {median} (at most {MEDIAN}), p90 {p90} (at most {P90})"
    if tests < TESTS_PER_LINE * code:
        yield f"tests: {tests / code:.2f} lines a line of code (at least {TESTS_PER_LINE})"


def main() -> int:
    code = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "inpo").rglob("*.py"))}
    tests = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "tests").rglob("*.py"))}
    lengths = [lines_of(node) for tree in code.values() for node in functions(tree)]
    sizes = [sum(len(path.read_text().splitlines()) for path in paths) for paths in (code, tests)]
    rows = [row for path, tree in code.items() for row in over_budget(path, tree)]
    rows += [row for path, tree in tests.items() for row in toothless(path, tree)]
    rows += totals(lengths, *sizes)
    print("\n".join(rows))
    return bool(rows)


if __name__ == "__main__":
    sys.exit(main())
