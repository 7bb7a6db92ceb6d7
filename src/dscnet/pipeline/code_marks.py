"""What a stage's code does, as a hash a module: comments, docstrings and messages do not count.

The modules are those that the stage imports, and what these import, so nobody keeps a list. Imports
inside functions are left out: what only some settings use is named by the stage itself.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from dscnet.run_folder import PACKAGE

NO_EFFECT = (
    *("dscnet.config", "dscnet.plugins", "dscnet.run_folder", "dscnet.files.atomic"),
    *("dscnet.pipeline.job", "dscnet.pipeline.stage", "dscnet.pipeline.code_marks"),
)
"""Packages and modules that do not change what a stage computes; settings count by value."""


def code_marks(modules: Iterable[str]) -> dict[str, str]:
    """Hash the modules and everything of the package that they import.

    Args:
        modules: Dotted names; those outside the package are read where they were imported from.

    Returns:
        Dotted name -> hash, in the order of the names.
    """
    found: set[str] = set()
    todo = list(modules)
    while todo:
        module = todo.pop()
        if module not in found and not _without_effect(module):
            found.add(module)
            todo += imports_of(module)
    return {module: code_mark(module) for module in sorted(found)}


@cache
def code_mark(module: str) -> str:
    """A hash of a module's syntax tree without comments, docstrings and messages."""
    tree = ast.parse(_file_of(module).read_text(encoding="utf-8"))
    return hashlib.sha256("\n".join(_nodes(tree)).encode()).hexdigest()[:16]


@cache
def imports_of(module: str) -> tuple[str, ...]:
    """Modules of the package that a module imports when it is itself imported."""
    tree = ast.parse(_file_of(module).read_text(encoding="utf-8"))
    found = {home: None for name, attribute in _imported(tree) for home in [_home(name, attribute)]}
    return tuple(home for home in found if home.startswith("dscnet."))


def _without_effect(module: str) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in NO_EFFECT)


def _imported(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Module and name of each import outside functions; no relative ones are in use."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imported(node)


def _home(module: str, name: str | None) -> str:
    """The module that a name imported from a module or package is defined in."""
    if name is None or module.split(".")[0] != "dscnet":
        return module
    if _exists(f"{module}.{name}"):
        return f"{module}.{name}"
    file = _file_of(module)
    if file.name != "__init__.py":
        return module
    for inner, attribute in _imported(ast.parse(file.read_text(encoding="utf-8"))):
        if attribute == name:
            return _home(inner, attribute)
    return module


def _exists(module: str) -> bool:
    base = PACKAGE.joinpath(*module.split(".")[1:])
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


def _file_of(module: str) -> Path:
    if module.split(".")[0] != "dscnet":
        # A plugin's; what is typed into an interpreter has no file and raises.
        return Path(str(import_module(module).__file__))
    base = PACKAGE.joinpath(*module.split(".")[1:])
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _nodes(node: object) -> Iterator[str]:
    """A syntax tree as text that no version of Python writes differently."""
    if isinstance(node, list):
        for item in node:
            yield from _nodes(item)
    elif not isinstance(node, ast.AST):
        yield repr(node)
    elif isinstance(node, ast.Raise):
        yield "Raise"
    elif not _says_only(node):
        yield type(node).__name__
        for field, value in ast.iter_fields(node):
            if field not in ("ctx", "kind", "type_comment", "type_params") and value:
                yield field
                yield from _nodes(value)
            elif value is not None and isinstance(node, ast.Constant):
                yield repr(value)
        yield ")"


def _says_only(node: ast.AST) -> bool:
    """Whether a statement is a docstring, or a line of the log."""
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        return isinstance(value.func.value, ast.Name) and value.func.value.id == "log"
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
