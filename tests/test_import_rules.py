"""Rules checked on the source: allowed imports, lazy imports, no pickle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import dscnet

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "dscnet"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# What each place may import from dscnet, besides itself. A place is a room (folder) or a module.
# A module that is not listed may import anything below the top.
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "numerics": set(),
    "distributed": {"types", "numerics"},
    "plugins": set(),
    "deprecation": set(),
    "files": {"types"},
    "config": {"plugins", "files"},
    "command": {"config", "files", "tables.specs"},
    "losses": {"types", "deprecation", "numerics", "distributed"},
    "context": {"types", "deprecation", "numerics", "distributed"},
    "labels": {"types", "deprecation", "numerics", "files"},
    "data": {"types", "deprecation", "files", "plugins"},
    "models": {"types", "deprecation", "numerics", "files", "context", "config.baselines"},
    "objective": {"types", "numerics", "distributed", "losses", "context"},
    "refine": {"types", "numerics", "files", "plugins", "labels", "losses"},
    "training": {"types", "distributed", "data"},
    "metrics": {"types", "distributed", "files", "labels"},
    "report": {"types", "files", "labels"},
    "prepare": {"types", "files", "data", "metrics"},
}
# The top wires the rest and reads the settings. Everything below takes plain arguments.
TOP = {
    "__main__",
    "build",
    "cli",
    "command",
    "config",
    "demo",
    "experiments",
    "export",
    "pipeline",
    "predictor",
    "run_folder",
    "submission",
    "tables",
}

HEAVY = {"torch", "torchvision", "timm", "lightning", "segmentation_models_pytorch", "torchmetrics"}
PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


class Import(NamedTuple):
    target: str
    line: int
    at_start: bool  # runs when the module is imported, not inside a function
    typing_only: bool


def find_imports(source: str, module: str) -> list[Import]:
    """Every import of a module's source, by absolute dotted name, one entry per imported name.

    Args:
        source: Python text.
        module: Path inside the package, e.g. ``losses/tags.py``; relative imports start there.
    """
    folder = ["dscnet", *Path(module).parts[:-1]]
    found: list[Import] = []

    def visit(node: ast.AST, at_start: bool, typing_only: bool) -> None:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{prefix}.{alias.name}" for alias in node.names]
        else:
            names = []
        found.extend(Import(name, node.lineno, at_start, typing_only) for name in names)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_start = False
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, at_start, True)
            for child in node.orelse:
                visit(child, at_start, typing_only)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, at_start, typing_only)

    visit(ast.parse(source), True, False)
    return found


def place_of(module: str) -> str:
    """``losses/tags.py`` -> ``losses``; ``training.py`` -> ``training``."""
    return Path(module).parts[0].removesuffix(".py")


def within(target: str, places: set[str]) -> bool:
    """Whether ``dscnet.a.b.name`` lies in one of the places, e.g. ``a`` or ``a.b``."""
    return any(f"{target}.".startswith(f"dscnet.{place}.") for place in places)


def breaches(source: str, module: str) -> Iterator[str]:
    """Imports of a module that its place may not have."""
    place = place_of(module)
    for found in find_imports(source, module):
        if found.target.split(".")[0] != "dscnet" or within(found.target, {place}):
            continue
        # The records that everyone shares name a class of `context` only for the type checker.
        if place == "types" and found.typing_only:
            continue
        if place in ALLOWED:
            permitted = within(found.target, ALLOWED[place])
        else:
            permitted = place in TOP or not within(found.target, TOP)
        if not permitted:
            yield f"{module}:{found.line} imports {found.target}"


def unsafe_calls(source: str, module: str) -> Iterator[str]:
    """Code that reads or writes pickled objects."""
    for found in find_imports(source, module):
        if found.target.split(".")[0] in PICKLERS:
            yield f"{module}:{found.line} imports {found.target}"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if given.get("allow_pickle", "False") != "False":
            yield f"{module}:{node.lineno} {name} with allow_pickle"
        if name == "torch.load" and given.get("weights_only") != "True":
            yield f"{module}:{node.lineno} torch.load without weights_only=True"
        if name == "torch.save":
            yield f"{module}:{node.lineno} torch.save: weights are written as safetensors"


def locale_reads(source: str, module: str) -> Iterator[str]:
    """Text files opened without an encoding."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, given = node.func.attr, {keyword.arg for keyword in node.keywords}
        modes = [ast.unparse(argument) for argument in node.args]
        text = name in ("read_text", "write_text") or (
            # Path.open, not that of Pillow or of archives, which take a file.
            name == "open" and (not modes or modes[0] in ("'r'", "'w'", "'a'"))
        )
        if text and "encoding" not in given:
            yield f"{module}:{node.lineno} {name} without encoding"


@pytest.mark.parametrize("module", MODULES)
def test_no_text_depends_on_the_machines_encoding(module):
    assert list(locale_reads((PACKAGE / module).read_text(encoding="utf-8"), module)) == []


@pytest.mark.parametrize("line", ["path.read_text()", "path.open()", "path.open('w', newline='')"])
def test_text_without_encoding_is_found(line):
    assert len(list(locale_reads(line, "x.py"))) == 1


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__.py"])
def test_every_module_imports_only_what_its_place_may(module):
    assert list(breaches((PACKAGE / module).read_text(), module)) == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_pickled(module):
    assert list(unsafe_calls((PACKAGE / module).read_text(), module)) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("losses/tags.py", "from dscnet.context import group_pixels"),
        ("losses/tags.py", "from dscnet import models"),
        ("losses/tags.py", "from ..models import cam"),
        ("context/fusion.py", "import dscnet.losses.contrastive"),
        ("labels/cam.py", "def f():\n    from dscnet.models import create_model"),
        ("data/io.py", "from dscnet.config import Config"),
        ("models/seam.py", "from dscnet.losses.tags import tag_loss"),
        ("training.py", "from dscnet.models.seam import Seam"),
        ("training.py", "from dscnet.objective import Objective"),
        ("metrics/evaluation.py", "from dscnet.models.cam import PlainCam"),
        ("report/page.py", "from dscnet.pipeline import run"),
        ("types.py", "from dscnet.context import ContextOutput"),
        ("types.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import dscnet.context"),
        ("config.py", "from dscnet.types import Batch"),
    ],
)
def test_a_forbidden_import_is_found(module, line):
    assert len(list(breaches(line, module))) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("losses/tags.py", "from dscnet.types import Batch"),
        ("losses/tags.py", "from .contrastive import group_contrast"),
        ("losses/tags.py", "from ..types import Batch"),
        ("models/seam.py", "from dscnet.context import DualStreamContext"),
        ("metrics/evaluation.py", "from dscnet.labels.pseudo_label import best_label"),
        ("report/page.py", "from dscnet.labels import pseudo_label"),
        ("types.py", "if TYPE_CHECKING:\n    from dscnet.context import ContextOutput"),
        ("cli.py", "from dscnet.config import Config"),
        ("pipeline/cam.py", "from dscnet.build import build_model"),
        ("export.py", "from dscnet.predictor import Predictor"),
    ],
)
def test_an_allowed_import_is_not_found(module, line):
    assert list(breaches(line, module)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.save(state, path)",
    ],
)
def test_a_pickle_is_found(line):
    assert len(list(unsafe_calls(line, "labels/cam.py"))) == 1


@pytest.mark.parametrize(
    "line",
    ["np.load(path)", "np.load(path, allow_pickle=False)", "torch.load(path, weights_only=True)"],
)
def test_a_safe_load_is_not_found(line):
    assert list(unsafe_calls(line, "labels/cam.py")) == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("config/")])
def test_config_needs_only_the_standard_library_and_yaml(module):
    imports = find_imports((PACKAGE / module).read_text(), module)
    roots = {found.target.split(".")[0] for found in imports}
    assert roots - set(sys.stdlib_module_names) <= {"dscnet", "yaml"}


def test_cli_imports_nothing_heavy_at_its_start():
    imports = find_imports((PACKAGE / "cli.py").read_text(), "cli.py")
    roots = {found.target.split(".")[0] for found in imports if found.at_start}
    assert roots & HEAVY == set()


@pytest.mark.parametrize("modules", ["dscnet", "dscnet.config", "dscnet.cli"])
def test_settings_and_command_line_do_not_import_torch(modules):
    code = f"import sys, {modules}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["recipes"]])
def test_help_imports_neither_torch_nor_numpy(words):
    code = f"import sys, dscnet.cli as c; c.main({words}); print('!', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    imported = set(result.stdout.rpartition("!")[2].split())
    assert "jsonargparse" in imported, "the verb has run"
    assert imported & {*HEAVY, "numpy", "PIL", "scipy"} == set()


@pytest.mark.parametrize("name", dscnet.__all__)
def test_every_public_name_is_there(name):
    assert getattr(dscnet, name) is not None
    assert name in dir(dscnet)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        _ = dscnet.creat_model


def test_the_type_checker_sees_the_same_public_names():
    imports = find_imports((PACKAGE / "__init__.py").read_text(), "__init__.py")
    seen = {found.target.rpartition(".")[::2] for found in imports if found.typing_only}
    assert seen == {(home, name) for name, home in dscnet._HOMES.items()}
