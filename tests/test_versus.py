from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STUB = "def environment(seed):\n    return {'seed': seed}\n"
PRINT = "import json; from dscnet.speed import S; print('took 7 s'); print(json.dumps({'a': [S]}))"


@pytest.fixture
def versus(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("versus")


def checkout(root: Path, seconds: float) -> Path:
    package = root / "src" / "dscnet"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "run_folder.py").write_text(STUB)
    (package / "speed.py").write_text(f"S = {seconds}\n")
    (root / ".gitignore").write_text("__pycache__\n")
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*names, "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(root), *words], check=True)
    return root


@pytest.fixture
def words(tmp_path) -> list[str]:
    old, new = checkout(tmp_path / "old", 4.0), checkout(tmp_path / "new", 1.0)
    return ["--old", str(old), "--new", str(new), "--json", str(tmp_path / "it.json")]


def test_pairs_alternate_and_are_continued(versus, words, tmp_path, capsys):
    command = ["--metric", "a.0", "--metric", r"took (\d+)", "--", "-c", PRINT]
    versus.main([*words, "--pairs", "1", *command])
    first = json.loads((tmp_path / "it.json").read_text())
    versus.main([*words, "--pairs", "3", *command])
    content = json.loads((tmp_path / "it.json").read_text())
    assert content["pairs"][0] == first["pairs"][0]
    assert [pair["first"] for pair in content["pairs"]] == ["old", "new", "old"]
    assert content["ratios"]["a.0"]["median"] == 0.25
    assert content["ratios"][r"took (\d+)"]["median"] == 1
    assert content["ratios"]["cpu_seconds"]["min"] > 0
    assert len(set(content["commits"].values())) == 2
    assert "0.250" in capsys.readouterr().out


def test_a_different_comparison_is_not_continued(versus, words):
    versus.main([*words, "--pairs", "1", "--", "-c", "pass"])
    with pytest.raises(SystemExit, match="busy is 0, not 1"):
        versus.main([*words, "--pairs", "2", "--busy", "1", "--", "-c", "pass"])


def test_uncommitted_code_is_refused(versus, words, tmp_path):
    (tmp_path / "new" / "src" / "dscnet" / "speed.py").write_text("S = 2\n")
    with pytest.raises(SystemExit, match="uncommitted changes"):
        versus.main([*words, "--pairs", "1", "--", "-c", "pass"])
    versus.main([*words, "--dirty", "--pairs", "1", "--", "-c", "pass"])


def test_a_folder_inside_a_checkout_is_refused(versus, words, tmp_path):
    words[1] += "/src"  # git finds the commit from there, Python another package
    with pytest.raises(SystemExit, match="old/src is not the root of a checkout"):
        versus.main([*words, "--pairs", "1", "--", "-c", "pass"])


def test_a_failed_run_shows_what_it_printed(versus, words):
    with pytest.raises(SystemExit, match="(?s)old failed with 1.*ZeroDivisionError"):
        versus.main([*words, "--pairs", "1", "--", "-c", "1 / 0"])


def test_metric_in_a_file_that_the_command_writes(versus, words, tmp_path):
    write = 'import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(\'{"t": {"s": 2}}\')'
    metric = ["--metric", "{out}#t.s"]
    versus.main([*words, "--pairs", "1", *metric, "--", "-c", write, "{out}"])
    content = json.loads((tmp_path / "it.json").read_text())
    assert content["ratios"]["{out}#t.s"]["old"] == 2


def test_missing_metric_is_named(versus):
    with pytest.raises(SystemExit, match="b.c: no such number"):
        versus.reported("b.c", '{"b": {}}')
    with pytest.raises(SystemExit, match="matches nothing"):
        versus.reported(r"took (\d+)", "nothing")


def test_recorded_words_have_no_folders_of_the_machine(versus):
    assert versus.without_folders("--data=/home/me/msrc") == "--data=msrc"
    assert versus.without_folders("{tree}/recipes/demo.yaml") == "{tree}/recipes/demo.yaml"
    assert versus.without_folders("a/b") == "a/b"
