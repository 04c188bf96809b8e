"""What modules that can be compiled must keep to, checked in their source (docs/decisions/0014-compiled-modules.md)."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
MODULES: list[str] = BUILD["targets"]["wheel"]["hooks"]["mypyc"]["include"]


def names_of_two_exceptions(source: str) -> list[str]:
    """Names that handlers of one function give to exceptions of different types."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            caught: dict[str, set[str]] = {}
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and node.name is not None:
                    caught.setdefault(node.name, set()).add("" if node.type is None else ast.unparse(node.type))
            found += [f"{function.name}: {name}" for name, types in caught.items() if len(types) > 1]
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_name_stands_for_exceptions_of_one_type(module: str) -> None:
    """The compiler gives a name the type of its first handler: in the second, TypeError before the first line."""
    assert names_of_two_exceptions((ROOT / module.lstrip("/")).read_text()) == []


def test_the_check_sees_such_a_name() -> None:
    source = "def f():\n try:\n  g()\n except ValueError as p:\n  h(p)\n except Exception as p:\n  h(p)\n"
    assert names_of_two_exceptions(source) == ["f: p"]
    assert names_of_two_exceptions(source.replace("Exception as p", "Exception as q")) == []
