"""Hashes of the code of stages, one per module, regardless of comments, docstrings and messages.

A stage depends on the modules that it imports, directly or not, so no list has to be maintained.
Imports inside functions are skipped: stages declare modules that only some settings use.
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
    *("dscnet.pipeline.allocator", "dscnet.pipeline.timing", "dscnet.pipeline.profiling"),
    *("dscnet.deprecation", "dscnet.data.formats", "dscnet.data.ignored_files"),
    *("dscnet.data.split_lists", "dscnet.data.tag_files", "dscnet.data.tag_text"),
    "dscnet.files.file_search",
)
"""Packages and modules that do not affect results.

Settings are compared by value, and so is what the input formats find: ids, tags, classes, files.
"""


def code_marks(modules: Iterable[str]) -> dict[str, str]:
    """Hash modules and everything in the package that they import.

    Args:
        modules: Dotted names, also outside the package.

    Returns:
        Dotted name -> hash, sorted by name.
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
    """Hash of a module's syntax tree without comments, docstrings and messages."""
    tree = ast.parse(_file_of(module).read_text(encoding="utf-8"))
    return hashlib.sha256("\n".join(_nodes(tree)).encode()).hexdigest()[:16]


@cache
def imports_of(module: str) -> tuple[str, ...]:
    """Modules of the package that a module imports at its top level."""
    tree = ast.parse(_file_of(module).read_text(encoding="utf-8"))
    found = {home: None for name, attribute in _imported(tree) for home in [_home(name, attribute)]}
    return tuple(home for home in found if home.startswith("dscnet."))


def _without_effect(module: str) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in NO_EFFECT)


def _imported(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Module and name of each import outside functions; there are no relative ones."""
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
    """Module that defines a name imported from a module or package."""
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
        # A plugin. Code typed into an interpreter has no file and raises.
        return Path(str(import_module(module).__file__))
    base = PACKAGE.joinpath(*module.split(".")[1:])
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _nodes(node: object) -> Iterator[str]:
    """A syntax tree as text, the same in all Python versions."""
    if isinstance(node, list):
        for item in node:
            yield from _nodes(item)
    elif not isinstance(node, ast.AST):
        yield repr(node)
    elif isinstance(node, ast.Raise):
        yield "Raise"
    elif not _is_docstring_or_log(node):
        yield type(node).__name__
        for field, value in ast.iter_fields(node):
            if field not in ("ctx", "kind", "type_comment", "type_params") and value:
                yield field
                yield from _nodes(value)
            elif value is not None and isinstance(node, ast.Constant):
                yield repr(value)
        yield ")"


def _is_docstring_or_log(node: ast.AST) -> bool:
    """Whether a statement is a docstring or logs a message."""
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        return isinstance(value.func.value, ast.Name) and value.func.value.id == "log"
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
