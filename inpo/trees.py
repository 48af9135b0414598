"""Recipes and YAML files as nested plain values, read strictly."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import yaml

from inpo.errors import InputError, nearest

RECIPES = Path(__file__).parent / "recipes"

_WITHOUT_BASE_SIXTY = {
    f"tag:yaml.org,2002:{kind}": re.compile(f"(?!.*:)(?:{pattern.pattern})", re.VERBOSE)
    for kind in ("int", "float")
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers["1"]
    if tag == f"tag:yaml.org,2002:{kind}"
}
"""YAML 1.1's patterns of numbers, without those that have a colon."""


def read_tree(source: str) -> dict[str, object]:
    """The mapping in a recipe or file. Raises `InputError` for a missing file, broken YAML, or a key given twice."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise InputError(f"{source}: no such file; recipes are given by name: {', '.join(recipe_names())}")
    elif (RECIPES / f"{source}.yaml").is_file():
        path = RECIPES / f"{source}.yaml"
    else:
        raise InputError(
            f"{source!r} is neither a recipe{nearest(source, recipe_names())} nor a .yaml file; recipes: {', '.join(recipe_names())}"
        )
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{source}: expected sections such as 'model:' and 'method:', found {type(tree).__name__}")
    return tree


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_text(name: str) -> str:
    """A recipe with its comments, which name the source of every number. Raises `InputError` for an unknown name."""
    if name not in recipe_names():
        raise InputError(f"{name!r} is not a recipe{nearest(name, recipe_names())}; recipes: {', '.join(recipe_names())}")
    return (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")


class StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error: the second would silently win. 10:30 is text, and not 630 as in YAML 1.1."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[typing.Hashable, object]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {', '.join(sorted(twice))}", node.start_mark)
        return super().construct_mapping(node, deep)


StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, _WITHOUT_BASE_SIXTY.get(tag, pattern)) for tag, pattern in known]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
