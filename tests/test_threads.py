from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from dscnet.cli import main
from dscnet.command import threads
from dscnet.command.arguments import build_parser

# Prints the environment at the moment at which torch is imported, and ends the process.
WATCH = """
import json, os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(json.dumps(dict(os.environ)), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
sys.argv = ["dscnet", *sys.argv[1:]]
runpy.run_module("dscnet", run_name="__main__", alter_sys=True)
"""
VERBS = {
    "run": ["--config", "demo", "--data", "x", "--out", "y"],
    "train": ["--config", "demo", "--data", "x", "--out", "y"],
    "demo": ["--out", "y"],
    "predict": ["x", "--model", "y", "--out", "z"],
    "saliency": ["x", "--out", "y"],
    "sweep": ["--config", "demo", "--data", "x", "--out", "y"],
    "tables": ["IV", "--data", "x", "--out", "y"],
    "check": ["x"],
    "evaluate": ["--out", "y"],
    "export": ["--model", "x", "--out", "y"],
    "submit": ["voc2012", "--model", "x", "--images", "y", "--out", "z.tgz"],
}


@pytest.fixture
def environ(monkeypatch) -> dict[str, str]:
    """An environment without choices about threads; changes do not outlive the test."""
    names = {*threads._WAITING, *threads._COUNTS}
    plain = {name: value for name, value in os.environ.items() if name not in names}
    monkeypatch.setattr(os, "environ", plain)
    return plain


def seen_by_torch(verb: str, environ: dict[str, str], *options: str) -> dict[str, str]:
    command = [sys.executable, "-c", WATCH, verb, *VERBS[verb], *options]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    seen: dict[str, str] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize("verb", VERBS)
def test_torch_is_loaded_with_threads_that_spin_briefly_and_the_chosen_number(verb, environ):
    seen = seen_by_torch(verb, environ, "--threads", "3")
    assert (seen["GOMP_SPINCOUNT"], seen["KMP_BLOCKTIME"]) == ("1000", "0")
    assert [seen[name] for name in threads._COUNTS] == ["3", "3", "3"]


def test_what_the_user_has_chosen_is_kept(environ):
    seen = seen_by_torch("run", {**environ, "OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "5"})
    assert (seen["OMP_WAIT_POLICY"], seen["OMP_NUM_THREADS"]) == ("ACTIVE", "5")
    assert "KMP_BLOCKTIME" not in seen
    assert "MKL_NUM_THREADS" not in seen


@pytest.mark.parametrize("name", threads._WAITING)
def test_any_choice_about_waiting_is_kept(name, environ):
    environ[name] = "7"
    threads.spin_briefly()
    assert {other: environ.get(other) for other in threads._WAITING if other != name} == (
        dict.fromkeys(other for other in threads._WAITING if other != name)
    )
    assert environ[name] == "7"


def test_torch_that_is_already_loaded_is_told(environ, monkeypatch):
    counts: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    threads.use_threads(None)
    assert (counts, "OMP_NUM_THREADS" in environ) == ([], False)
    threads.use_threads(2)
    assert (counts, environ["OMP_NUM_THREADS"]) == ([2], "2")


def test_less_than_one_thread_is_refused(capsys):
    assert main(["demo", "--threads", "0"]) == 1
    assert "threads must be at least 1, got 0" in capsys.readouterr().err


def test_parallel_processes_share_the_cores_unless_the_user_chose(environ, monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    assert [threads.threads_per_process(count) for count in (1, 3, 9)] == [8, 2, 1]
    for text, number in (("3", 3), ("5,2", 5), ("", 2), ("0", 2), ("many", 2)):
        environ["OMP_NUM_THREADS"] = text
        assert threads.threads_per_process(4) == number


def test_only_the_cores_of_this_process_count(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    assert threads.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert threads.usable_cores() == 64


def test_every_verb_that_computes_with_torch_has_the_option():
    verbs = build_parser().verbs.items()
    having = {name for name, parser in verbs if "threads" in parser.option_names()}
    stages = {"cam", "refine", "label", "segment", "report"}
    assert having == {*VERBS, *stages}
