"""Tests of ``benchmarks/cost_curves.py``, and of what opening a large data set costs."""

from __future__ import annotations

import csv
import importlib
import json
import time
import tracemalloc
from pathlib import Path

import pytest

from dscnet.data import datasets

ROOT = Path(__file__).parent.parent


@pytest.fixture
def curves(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("cost_curves")


def cpu_seconds(work):
    started = time.process_time()
    work()
    return time.process_time() - started


def bare_read(path):
    with path.open() as file:
        return list(csv.reader(file))


@pytest.mark.slow
def test_many_photos_open_within_a_multiple_of_reading_their_tags(curves, tmp_path):
    curves.write_set(tmp_path / "set", 100_000, 254, files=True)
    bare = min(cpu_seconds(lambda: bare_read(tmp_path / "set" / "tags.csv")) for _ in range(3))
    opened = min(cpu_seconds(lambda: datasets.open_dataset(tmp_path / "set")) for _ in range(3))
    # With several paths and file statuses for each photo it was above 200.
    assert opened < 100 * bare


def test_photos_without_records_take_little_memory(curves, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "MOST_RECORDS", 0)
    curves.write_set(tmp_path / "set", 5000, 20, files=True)
    datasets.open_dataset(tmp_path / "set")
    tracemalloc.start()
    photos = datasets.open_dataset(tmp_path / "set")
    bytes_held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(photos.samples) == 5000 and bytes_held / 5000 < 250


def test_records_made_on_demand_are_those_made_at_once(curves, tmp_path, monkeypatch):
    curves.write_set(tmp_path / "set", 50, 5, files=True)
    (tmp_path / "set" / "images" / "untagged.jpg").touch()
    records = datasets.open_dataset(tmp_path / "set")
    monkeypatch.setattr(datasets, "MOST_RECORDS", 0)
    photos = datasets.open_dataset(tmp_path / "set")
    assert isinstance(records.samples, tuple) and not isinstance(photos.samples, tuple)
    assert photos == records and photos.samples[-1] == records.samples[-1]
    assert photos.samples[3:9:2] == records.samples[3:9:2]
    assert [sample.tags for sample in photos.samples][-1] == ()


def test_the_page_says_what_was_not_run(curves):
    run = {"environment": {"processor": "a CPU", "git_revision": "abc"}}
    points = {"100": {"cpu_seconds": 0.5, "peak_mib": 700.4, "before_mib": 690.0}}
    text = f"before\n{curves.START}\nold\n{curves.END}\nafter\n"
    page = curves.page(text, {"curves": {"photos": {"points": points, **run}}})
    label = curves.CURVES["photos"][0]
    assert f"| {label} | 100 | 0.5 | 700 | 690 |" in page
    assert f"| {label} | 1,000,000 | not run | not run | not run |" in page
    assert page.startswith("before\n") and page.endswith(f"{curves.END}\nafter\n")
    assert "old" not in page and "Measured on a CPU, abc." in page


def test_the_page_is_that_of_the_result_file(curves):
    text = curves.PAGE.read_text()
    assert curves.page(text, json.loads(curves.JSON.read_text())) == text
