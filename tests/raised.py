"""What the package can raise, read from its source: each exception's class and message, with `…` for what is known only when it runs."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ANY = "…"


@dataclass(frozen=True)
class Raised:
    """One place that makes an exception. `messages`: its templates, more than one where the text is chosen."""

    kind: str
    messages: tuple[str, ...]
    place: str


def raised(root: Path = ROOT / "inpo") -> list[Raised]:
    """Every place of the package, in the order of files and lines."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.py"))}
    kinds, texts = _exceptions(list(trees.values())), _Texts(list(trees.values()))
    return [
        Raised(ast.unparse(name), tuple(dict.fromkeys(messages)), f"{path.relative_to(root).as_posix()}:{name.lineno}")
        for path, tree in trees.items()
        for name, messages in _made(tree, texts)
        if ast.unparse(name) in kinds
    ]


def said(root: Path = ROOT / "inpo") -> set[str]:
    """Every text of the source, as a template: messages that are put together elsewhere than where they are raised are among them."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")]
    texts = _Texts(trees)
    return {text for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant | ast.JoinedStr) for text in texts.of(node)}


def _made(tree: ast.Module, texts: _Texts) -> Iterator[tuple[ast.expr, list[str]]]:
    """Calls, which may make an exception, and classes that are raised without a call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            kinds = (node.func.body, node.func.orelse) if isinstance(node.func, ast.IfExp) else (node.func,)
            yield from ((kind, texts.of(node.args[0]) if node.args else []) for kind in kinds)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
            yield node.exc, []


def _exceptions(trees: list[ast.Module]) -> set[str]:
    """Names that stand after `raise`, and classes of the package that derive from one; helpers that return an exception are no class."""
    found: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                target = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                found |= {ast.unparse(name) for name in ((target.body, target.orelse) if isinstance(target, ast.IfExp) else (target,))}
            if isinstance(node, ast.ClassDef) and any(_is_exception(ast.unparse(base)) for base in node.bases):
                found.add(node.name)
    return {name for name in found if name.rpartition(".")[2][:1].isupper()}


def _is_exception(name: str) -> bool:
    found = getattr(builtins, name, None)
    return name in ("InputError", "RunFault") or (isinstance(found, type) and issubclass(found, BaseException))


class _Texts:
    """Templates of expressions; a call of the package's own functions stands for what they return."""

    def __init__(self, trees: list[ast.Module]) -> None:
        nodes = [node for tree in trees for node in ast.walk(tree)]
        self._functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
        self._constants = {
            target.id: node.value for node in nodes if isinstance(node, ast.Assign) for target in node.targets
            if isinstance(target, ast.Name) and target.id.isupper()
        }  # fmt: skip

    def of(self, node: ast.expr, depth: int = 0) -> list[str]:
        """The texts that an expression can have."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [node.value]
        if isinstance(node, ast.JoinedStr):
            return self._joined([self.of(part.value if isinstance(part, ast.FormattedValue) else part, depth) for part in node.values])
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._joined([self.of(node.left, depth), self.of(node.right, depth)])
        if isinstance(node, ast.IfExp):
            return [*self.of(node.body, depth), *self.of(node.orelse, depth)]
        if isinstance(node, ast.Name) and node.id in self._constants:
            return self.of(self._constants[node.id], depth + 1) if depth < 2 else [ANY]
        if isinstance(node, ast.Call) and depth < 2:
            return self._returned(ast.unparse(node.func).rpartition(".")[2], depth)
        return [ANY]

    def _returned(self, name: str, depth: int) -> list[str]:
        function = self._functions.get(name)
        if function is None or function.returns is None or ast.unparse(function.returns) != "str":
            return [ANY]
        returns = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]
        return [text for value in returns for text in self.of(value, depth + 1)]

    def _joined(self, parts: list[list[str]]) -> list[str]:
        out = [""]
        for choices in parts:
            # A message with many choices inside is one message: its choices do not make new ones.
            choices = choices if len(choices) * len(out) <= 4 else [ANY]
            out = [head + tail for head in out for tail in choices]
        return out
