from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from PIL import Image

from dscnet.config import AuxSegConfig, Config, MethodConfig, ModelConfig, RefineConfig
from dscnet.data import PhotoSet, Sample
from dscnet.disk import bytes_of_maps, warn_of_full_disk
from dscnet.job import Job
from dscnet.run_folder import RunFolder


@pytest.fixture
def photos(tmp_path) -> PhotoSet:
    """Four photos of 24 pixels with two tags, one, none and no list of them."""
    samples = []
    for index, tags in enumerate([(0, 1), (1,), (), None]):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (6, 4)).save(path)
        samples.append(Sample(str(index), path, tags, None, None))
    return PhotoSet("made", ("cat", "dog"), tuple(samples), ())


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
    assert bytes_of_maps(config, photos.samples) == 3 * 24 * maps * 2


def test_many_photos_are_told_by_some(photos, monkeypatch):
    looked_at = []
    monkeypatch.setattr("dscnet.disk.image_size", lambda path: looked_at.append(path) or (4, 6))
    assert bytes_of_maps(Config(), photos.samples[:1] * 1001) == 1001 * 2 * 24 * 2 * 2
    assert 100 < len(looked_at) <= 200


def test_a_disk_that_is_too_small_is_told(photos, tmp_path, monkeypatch, caplog):
    job = Job(Config(), RunFolder(tmp_path / "not" / "there"), photos, None)
    asked = []
    left = SimpleNamespace(free=3 * 24 * 2 * 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or left)
    warn_of_full_disk(job)
    assert not caplog.messages
    assert asked == [tmp_path]
    left.free -= 1
    warn_of_full_disk(job)
    assert f"{tmp_path / 'not' / 'there'} has 0.0 GB left" in caplog.text
