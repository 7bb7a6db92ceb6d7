from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from dscnet.config import (
    AugmentConfig,
    AuxSegConfig,
    Config,
    MethodConfig,
    ModelConfig,
    RefineConfig,
    ScaleConfig,
    SegmentConfig,
    TrainConfig,
)
from dscnet.data import PhotoSet, Sample
from dscnet.pipeline.job import Job
from dscnet.pipeline.resources import (
    Needs,
    cam_bytes,
    check_disk_space,
    check_fits,
    check_machine,
    measure_needs,
)
from dscnet.pipeline.stage_trials import StageNeed
from dscnet.run_folder import RunFolder
from dscnet.types import DscnetError


@pytest.fixture
def photos(tmp_path) -> PhotoSet:
    """Four photos of 24 pixels with two tags, one, none and no list of them."""
    return made_photos(tmp_path)


@pytest.fixture
def job(tmp_path) -> Job:
    """Small networks on four photos of 24 pixels a side."""
    return made_job(tmp_path)


def made_photos(folder: Path) -> PhotoSet:
    samples = []
    for index, tags in enumerate([(0, 1), (1,), (), None]):
        path = folder / f"{index}.png"
        Image.new("RGB", (6, 4)).save(path)
        samples.append(Sample(str(index), path, tags, None, None))
    return PhotoSet("made", ("cat", "dog"), tuple(samples), ())


def made_job(folder: Path) -> Job:
    photos = made_photos(folder)
    for sample in photos.samples:
        Image.new("RGB", (24, 24)).save(sample.image_path)
    config = Config(
        augment=AugmentConfig(crop_size=64, long_side=[64, 96]),
        model=ModelConfig(backbone="test_resnet", weights="none", output_stride=8),
        train=TrainConfig(batch_size=2, epochs=7, accelerator="cpu"),
        segment=SegmentConfig(network="deeplabv1", batch_size=2, epochs=3, accelerator="cpu"),
        refine=RefineConfig(steps=["crf"]),
    )
    return Job(config, RunFolder(folder / "run"), photos, photos)


@pytest.mark.parametrize(
    ("config", "maps"),
    [
        (Config(), 2),
        (Config(model=ModelConfig(name="cam"), method=MethodConfig(variant="baseline")), 1),
        (Config(refine=RefineConfig(steps=["affinity", "crf"])), 6),
        (Config(model=ModelConfig(name="auxsegnet"), auxseg=AuxSegConfig(rounds=3)), 1 + 6 + 2),
        (
            Config(model=ModelConfig(name="auxsegnet"), auxseg=AuxSegConfig(cams="made", rounds=2)),
            4 + 2,
        ),
    ],
)
def test_each_tag_has_so_many_maps_in_half_precision(photos, config, maps):
    config.scale = ScaleConfig(relative_to="photo")
    assert cam_bytes(config, photos.samples) == 3 * 24 * maps * 2


def test_many_photos_are_told_by_some(photos, monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        "dscnet.pipeline.resources.image_size", lambda path: looked_at.append(path) or (4, 6)
    )
    own_size = Config(scale=ScaleConfig(relative_to="photo"))
    assert cam_bytes(own_size, photos.samples[:1] * 1001) == 1001 * 2 * 24 * 2 * 2
    assert 100 < len(looked_at) <= 200


def test_a_disk_that_is_too_small_is_refused_and_the_remedy_fits(photos, tmp_path, monkeypatch):
    job = Job(Config(), RunFolder(tmp_path / "not" / "there"), photos, None)
    asked = []
    needed = cam_bytes(job.config, photos.samples)
    left = SimpleNamespace(free=needed)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or left)
    check_disk_space(job, needed)
    assert asked == [tmp_path]
    left.free -= 1
    with pytest.raises(DscnetError, match="there has 0.0 GB left") as refused:
        check_disk_space(job, needed)
    job.config.scale.work_side = int(re.search(r"work_side (\d+)", str(refused.value))[1])
    assert 0.5 * needed < cam_bytes(job.config, photos.samples) < needed


def test_what_a_run_needs_is_a_line(job):
    expected = r".* \d+\.\d GB of memory \(stage '\w+'\), 0\.0 GB of disk and 1 minutes here"
    assert re.fullmatch(expected, measure_needs(job).text())


def test_one_large_photo_among_many_decides(job, monkeypatch):
    """Of a thousand photos every fifth would be looked at; the large one is none of these."""
    samples = job.train.samples[:1] * 1001
    job.train = replace(job.train, samples=(*samples[:501], job.train.samples[1], *samples[501:]))
    large = job.train.samples[501].image_path
    monkeypatch.setattr(
        "dscnet.pipeline.resources.image_size",
        lambda path: (3000, 4000) if path == large else (24, 24),
    )
    tried = []
    monkeypatch.setattr(
        "dscnet.pipeline.resources.try_stages", lambda job, sizes: tried.append(sizes) or ()
    )
    measure_needs(job)
    assert max(tried[0]) == (3000, 4000)
    job.train, job.val = job.val, job.train
    measure_needs(job)
    assert max(tried[1]) == (3000, 4000), "photos of val are predicted"


def test_a_system_that_tells_no_memory_is_not_said_to_need_none():
    told = Needs((StageNeed("cam", 5e8, 90, "lower it"),), 2e9, 1e9)
    assert "1.5 GB of memory (stage 'cam'), 2.0 GB of disk and 2 minutes" in told.text()
    untold = Needs((StageNeed("cam", 0.0, 90, "lower it"),), 2e9)
    assert untold.text() == "a run needs about 2.0 GB of disk and 2 minutes here"


def test_what_does_not_fit_is_refused_with_a_setting_that_does(job, monkeypatch):
    monkeypatch.setattr("dscnet.pipeline.stage_trials.TRIED_PIXELS", 100_000)
    for module in ("resources", "stage_trials"):
        monkeypatch.setattr(f"dscnet.pipeline.{module}.free_memory", lambda device: 3e9)
    check_fits(job, measure_needs(job))
    monkeypatch.setattr("dscnet.pipeline.resources.image_size", lambda path: (6000, 8000))
    job.config.scale.relative_to = "photo"
    with pytest.raises(DscnetError, match=r"stage 'cam' needs .* set --cam.batch_size 1"):
        check_fits(job, measure_needs(job))
    job.config.cam.batch_size = 1
    with pytest.raises(DscnetError, match="--scale.relative_to training") as refused:
        check_fits(job, measure_needs(job))
    job.config.scale.work_side = int(re.search(r"work_side (\d+)", str(refused.value))[1])
    check_fits(job, measure_needs(job))
    job.config.scale.work_side, job.config.scale.relative_to = None, "training"
    check_fits(job, measure_needs(job))


@pytest.mark.parametrize(("epochs", "tried"), [(7, False), (70, True)])
def test_a_short_training_is_not_tried_first(job, monkeypatch, epochs, tried):
    measured = []
    needs = Needs((StageNeed("cam", 5e8, 90, "lower it"),), 2e9)
    monkeypatch.setattr(
        "dscnet.pipeline.resources.measure_needs", lambda job, sizes: measured.append(job) or needs
    )
    job.config.train.epochs = epochs
    check_machine(job)
    assert bool(measured) == tried
