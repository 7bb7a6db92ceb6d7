"""Tests of ``dscnet.files.label_folders``."""

from __future__ import annotations

import tracemalloc

import numpy as np

from dscnet.files.label_folders import label_files
from dscnet.files.label_images import write_label
from dscnet.metrics.evaluation import evaluate_folders


def test_files_take_little_memory_each(tmp_path):
    labels = np.zeros((2, 2), np.uint8)
    peaks = []
    for count in (20, 1020):
        folders = [tmp_path / f"{kind}{count}" for kind in ("pred", "gt")]
        for folder in folders:
            write_label(folder / "0.png", labels)
            for index in range(1, count):
                (folder / f"{index}.png").symlink_to(folder / "0.png")
        tracemalloc.start()
        assert evaluate_folders(*folders, ["boat"])["num_images"] == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 600 * 1000, "two names of a file, no paths"


def test_label_files_are_a_mapping_of_paths(tmp_path):
    for name in ("b.png", "sub/a.x.PNG", ".hidden.png", "photo.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    files = label_files(tmp_path)
    assert dict(files) == {"b": tmp_path / "b.png", "sub/a.x": tmp_path / "sub" / "a.x.PNG"}
    assert len(files) == 2 and "photo" not in files
    assert len(label_files(tmp_path / "none")) == 0
