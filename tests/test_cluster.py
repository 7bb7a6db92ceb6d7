"""Tests of ``dscnet.experiments.cluster``, with processes of this machine as the cluster."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path

import pytest
import yaml

from dscnet.cli import main
from dscnet.config.settings import to_dict
from dscnet.experiments.cluster import read_options, run_on_cluster
from dscnet.types import DscnetError
from helpers import small_config


def local(out, *words: str) -> list[str]:
    return ["sweep", "--out", str(out), "--cluster", "local", "--cluster_jobs", "2", *words]


def test_a_sweep_runs_as_jobs_and_is_collected(scenes, tmp_path, capsys):
    settings, out = tmp_path / "tiny.yaml", tmp_path / "runs"
    settings.write_text(yaml.safe_dump(to_dict(small_config(scenes, {"train.epochs": 1}))))
    words = ["--config", str(settings), "--variants", "baseline", "M4", "--seeds", "0"]
    assert main(local(out, *words, "--stages", "train", "cam", "label", "evaluate")) == 0
    rows = json.loads((out / "sweep.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["baseline", "M4"]
    assert "Difference from baseline" in capsys.readouterr().out
    logs = [file.read_text() for file in (out / "cluster").glob("*_log.out")]
    parts = [part for log in logs for part in re.findall(r"--shard (\d/\d)", log)]
    assert sorted(set(parts)) == ["1/2", "2/2"]


def test_a_failed_job_fails_the_sweep_and_names_its_messages(tmp_path, capsys, caplog):
    words = ["--data", str(tmp_path / "none"), "--variants", "M1", "--seeds", "0"]
    assert main(local(tmp_path, *words, "--cluster_options", "timeout_min=5")) == 1
    (message,) = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    named = Path(message.rsplit("its messages: ", 1)[1])
    assert "none: no such file or folder" in named.read_text()


@pytest.mark.parametrize(
    ("cluster", "jobs", "options", "message"),
    [
        ("local", 0, {}, "cluster_jobs must be at least 1, got 0"),
        ("local", 1, {"slurm_partitio": "gpu"}, "cluster_options.*partitio"),
        ("local", 1, {"timeout_min": "soon"}, "cluster_options.*timeout_min"),
    ],
)
def test_invalid_options_are_refused(tmp_path, cluster, jobs, options, message):
    with pytest.raises(ValueError, match=message):
        run_on_cluster(["sweep"], tmp_path, cluster=cluster, jobs=jobs, options=options)


def test_without_slurm_nothing_is_submitted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DscnetError, match="slurm: no jobs submitted"):
        run_on_cluster(["sweep"], tmp_path, cluster="slurm", jobs=1, options={})


def test_options_have_names_and_yaml_values():
    assert read_options(["slurm_partition=gpu", "timeout_min=600", "name=a=b"]) == {
        "slurm_partition": "gpu",
        "timeout_min": 600,
        "name": "a=b",
    }
    with pytest.raises(ValueError, match="NAME=VALUE, got gpu"):
        read_options(["gpu"])


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "submitit":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DscnetError, match=r"pip install 'dscnet\[cluster\]'"):
        run_on_cluster(["sweep"], tmp_path, cluster="local", jobs=1, options={})
