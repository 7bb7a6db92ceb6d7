from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from dscnet.deprecation import MOVED, MOVED_NAMES
from dscnet.experiments import IN_GRID


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_old_paths_import_with_a_warning(old, new, monkeypatch):
    monkeypatch.delitem(sys.modules, f"dscnet.{old}", raising=False)
    target = importlib.import_module(f"dscnet.{new}")
    spec = (target.__name__, target.__spec__)
    with pytest.warns(DeprecationWarning, match=rf"dscnet\.{old} has moved to dscnet\.{new}"):
        assert importlib.import_module(f"dscnet.{old}") is target
    assert (target.__name__, target.__spec__) == spec


MOVED_APART = {
    **MOVED_NAMES,
    **{f"experiments.{name}": f"experiments.grid.{name}" for name in IN_GRID},
}


@pytest.mark.filterwarnings("ignore:dscnet.* has moved:DeprecationWarning")
@pytest.mark.parametrize(("old", "new"), MOVED_APART.items())
def test_old_names_of_split_modules_work_with_a_warning(old, new, monkeypatch):
    module, _, name = f"dscnet.{old}".rpartition(".")
    home, _, current = f"dscnet.{new}".rpartition(".")
    monkeypatch.delitem(sys.modules, module, raising=False) if old in MOVED_NAMES else None
    there = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{name} is deprecated, use {home}.{current}"):
        value = getattr(there, name)
    assert value is getattr(importlib.import_module(home), current)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        there.nothing  # noqa: B018


def test_an_unknown_module_is_missing_as_before():
    with pytest.raises(ModuleNotFoundError, match=r"dscnet\.no_such_module"):
        importlib.import_module("dscnet.no_such_module")


def test_old_imports_of_users_code_work():
    code = (
        "from dscnet.labels.crf import dense_crf; from dscnet.evaluation import evaluate_pairs;"
        "from dscnet.labels import write_label, read_label; from dscnet.pipeline import run"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
