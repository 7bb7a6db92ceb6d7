from __future__ import annotations

import sys
from importlib import metadata

import pytest

from dscnet.plugins import GROUP, VARIABLE, load_plugins


@pytest.fixture(autouse=True)
def unloaded():
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_plugin.py").write_text("LOADED = True\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "toy_plugin"
    sys.modules.pop("toy_plugin", None)


def test_modules_of_the_environment_are_imported(toy, monkeypatch):
    monkeypatch.setenv(VARIABLE, f" {toy} ,")
    load_plugins()
    assert sys.modules[toy].LOADED


def test_entry_points_are_imported(toy, monkeypatch):
    entry = metadata.EntryPoint(name="any", value=toy, group=GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry] if group == GROUP else [])
    load_plugins()
    assert sys.modules[toy].LOADED


def test_a_broken_plugin_is_named(monkeypatch):
    monkeypatch.setenv(VARIABLE, "no_such_plugin")
    with pytest.raises(ValueError, match=f"'no_such_plugin' .*No module.* {VARIABLE}"):
        load_plugins()
