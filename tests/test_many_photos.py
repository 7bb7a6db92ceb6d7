"""What is done for some photos only, if there are very many."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from dscnet.pipeline import check_photos as checking
from dscnet.pipeline import resources
from dscnet.pipeline.check_photos import check_photos
from dscnet.pipeline.job import Job
from dscnet.pipeline.runner import open_run
from dscnet.run_folder import RunFolder
from dscnet.types import DataError
from helpers import small_config


@pytest.fixture
def job(scenes, tmp_path) -> Job:
    """A run whose second training photo is damaged."""
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    job = open_run(small_config(data), RunFolder(tmp_path / "run"))
    job.train.samples[1].image_path.write_bytes(b"no photo")
    return job


def test_all_photos_are_opened_before_a_training_unless_there_are_very_many(job, monkeypatch):
    with pytest.raises(DataError, match=job.train.samples[1].image_path.name):
        check_photos(job)
    monkeypatch.setattr(checking, "ALL_OPENED", len(job.train.samples) - 1)
    monkeypatch.setattr(checking, "OPENED_PHOTOS", 2)
    check_photos(job)  # the first and the last


def test_of_many_photos_the_largest_files_are_sized(scenes, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    job = open_run(small_config(data), RunFolder(tmp_path / "run"))
    Image.effect_noise((301, 207), 99).convert("RGB").save(job.train.samples[1].image_path)
    every = resources._sizes(job)
    monkeypatch.setattr(resources, "SIZED_PHOTOS", 2)
    monkeypatch.setattr(resources, "LARGEST_FILES", 1)
    assert every.count((207, 301)) == 1
    first, *_, largest = some = resources._sizes(job)
    assert (first, largest, len(some)) == (every[0], (207, 301), 3)
