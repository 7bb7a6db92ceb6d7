from __future__ import annotations

import gzip
import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dscnet.pipeline import profiling, timing
from dscnet.pipeline.job import Job
from dscnet.pipeline.runner import run
from dscnet.pipeline.stage import Stage
from dscnet.run_folder import RunFolder
from helpers import small_config


@pytest.fixture(scope="module")
def profiled(scenes, tmp_path_factory) -> Path:
    """A run with a profile. Training: eight photos in batches of four, three epochs."""
    out = tmp_path_factory.mktemp("profiled") / "run"
    run(small_config(scenes, {"train.epochs": 3}), out, progress=False, profile=True)
    return out


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """Wall and CPU time that tests set."""
    now = SimpleNamespace(wall=100.0, cpu=7.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.wall)
    monkeypatch.setattr(timing, "cpu_seconds", lambda: now.cpu)
    return now


def job_of(photos: int) -> Job:
    train = SimpleNamespace(samples=(None,) * photos)
    return Job(None, RunFolder(Path("run")), train, None)


def test_a_training_is_measured_by_the_photos_in_its_batches(clock):
    job = job_of(10)
    job.trained_photos["photos"] = 5  # of an earlier stage
    watch = timing.StageClock(Stage("train", lambda job, resume: None), job)
    count = timing.PhotoCount(job)
    for ids in (["a", "b"], ["c"]):
        batch = SimpleNamespace(ids=ids)
        count.on_train_batch_end(SimpleNamespace(world_size=2), None, None, batch, 0)
    clock.wall, clock.cpu = 104.0, 13.26
    assert watch.seconds == 4
    assert watch.measured() == {"cpu_seconds": 6.3, "photos_per_second": 1.5}


def test_other_stages_are_measured_by_the_training_photos_if_they_go_over_them(clock):
    job = job_of(10)
    answers = (lambda config: True, lambda config: False)
    stages = [Stage("cam", lambda job, resume: None, every_photo=each) for each in answers]
    watches = [timing.StageClock(stage, job) for stage in stages]
    clock.wall = 103.0
    assert [watch.measured()["photos_per_second"] for watch in watches] == [3.33, None]


def test_cpu_seconds_count_children(monkeypatch):
    spent = SimpleNamespace(user=1.0, system=2.0, children_user=4.0, children_system=8.0)
    monkeypatch.setattr(timing.os, "times", lambda: spent)
    assert timing.cpu_seconds() == 15


def test_metrics_list_the_time_of_each_stage(profiled):
    times = json.loads((profiled / "metrics.json").read_text())["timing"]
    assert list(times) == ["train", "cam", "refine", "label", "segment"]
    assert all(set(row) == set(timing.COLUMNS) for row in times.values())
    assert times["train"]["cpu_seconds"] > 0
    measured = {name: row["photos_per_second"] is not None for name, row in times.items()}
    assert measured == dict.fromkeys(times, True) | {"refine": False}
    rate, seconds = times["train"]["photos_per_second"], times["train"]["seconds"]
    assert rate * seconds == pytest.approx(24, abs=0.06 * rate + 0.2), "three epochs of eight"


def test_a_resumed_run_keeps_the_times(profiled, scenes, tmp_path):
    copy = Path(shutil.copytree(profiled, tmp_path / "run"))
    before = timing.stage_times(RunFolder(copy))
    (copy / "metrics.json").unlink()
    config = small_config(scenes, {"train.epochs": 3})
    assert run(config, copy, resume=True, progress=False)["timing"]["train"] == before["train"]


def test_a_run_of_an_earlier_version_has_seconds_only(tmp_path):
    folder = RunFolder(tmp_path)
    folder.finish("train", "mark", 12.34)
    folder.finish("segmenter", "mark", 3.0)  # a network within the stage 'segment'
    row = {"seconds": 12.3, "cpu_seconds": None, "photos_per_second": None}
    assert timing.stage_times(folder) == {"train": row}


def test_the_report_has_a_row_for_each_stage(profiled):
    page = (profiled / "report.html").read_text()
    rows = page.split("Time of each stage")[1].split("</table>")[0].count('<th scope="row">')
    assert rows == 6, "those of metrics.json and 'evaluate'"


def test_each_training_has_a_trace_and_its_operators(profiled):
    files = {path.name for path in (profiled / "profile").iterdir()}
    assert files == {
        "checkpoints.json.gz",
        "checkpoints.txt",
        "segmenter.json.gz",
        "segmenter.txt",
    }
    trace = json.loads(gzip.decompress((profiled / "profile" / "checkpoints.json.gz").read_bytes()))
    steps = [e for e in trace["traceEvents"] if e.get("name", "").startswith("ProfilerStep#")]
    assert {event["name"] for event in steps} >= {"ProfilerStep#2", "ProfilerStep#3"}
    assert "aten::convolution_backward" in (profiled / "profile" / "checkpoints.txt").read_text()


def test_a_profile_changes_nothing(profiled, scenes, tmp_path):
    plain = tmp_path / "run"
    config = small_config(scenes, {"train.epochs": 3})
    run(config, plain, stages=["train"], progress=False)
    assert not (plain / "profile").exists()
    assert (plain / "metrics.csv").read_text() == (profiled / "metrics.csv").read_text()
    marks = [RunFolder(out).fingerprint_of("train") for out in (plain, profiled)]
    assert marks[0] == marks[1]


def test_the_profiler_is_stopped_once(tmp_path, monkeypatch):
    stopped: list[int] = []
    monkeypatch.setattr(profiling.profile, "stop", lambda self: stopped.append(1))
    monkeypatch.setattr(profiling.profile, "start", lambda self: None)
    monkeypatch.setattr(profiling.profile, "step", lambda self: None)
    watch = profiling.StepProfile(tmp_path / "profile", tmp_path / "checkpoints")
    watch.on_train_end(None, None)
    assert stopped == []
    watch.on_train_start(None, SimpleNamespace(device=torch.device("cpu")))
    watch.on_exception(None, None, RuntimeError())
    watch.on_train_end(None, None)
    watch.on_train_batch_end(None)
    assert stopped == [1]
