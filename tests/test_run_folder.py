from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dscnet import run_folder
from dscnet.config import Config
from dscnet.files.marks import file_mark
from dscnet.run_folder import RunFolder, environment, fingerprint, git_revision
from dscnet.types import DscnetError


def test_nothing_is_overwritten_unasked(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_config(Config())
    with pytest.raises(DscnetError, match="--resume"):
        folder.create()
    folder.create(resume=True)
    assert folder.config.exists()
    folder.create(force=True)
    assert not folder.config.exists()


@pytest.mark.parametrize("name", ["thesis.txt", "config.yaml"])
@pytest.mark.parametrize("how", [{"force": True}, {"resume": True}])
def test_a_folder_that_is_not_a_run_is_unchanged(tmp_path, name, how):
    (tmp_path / name).write_text("years: 3\n")
    with pytest.raises(DscnetError, match="is not a run folder"):
        RunFolder(tmp_path).create(**how)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DscnetError, match="is a file"):
        RunFolder(tmp_path / "file").create()


def test_config_round_trip_and_environment(tmp_path):
    folder = RunFolder(tmp_path)
    config = Config(data="photos", seed=5)
    folder.write_config(config)
    assert folder.read_config() == config
    assert '"seed": 5' in folder.environment.read_text()


def test_a_run_of_a_version_without_scales_saw_photos_at_their_own_size(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_config(Config(data="photos"))
    stored = yaml.safe_load(folder.config.read_text())
    assert folder.read_config().scale.relative_to == "training"
    del stored["scale"]
    folder.config.write_text(yaml.safe_dump(stored))
    assert folder.read_config().scale.relative_to == "photo"


def test_a_foreign_config_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(DscnetError, match="no config.yaml"):
        folder.read_config()
    folder.config.write_text("train: {lrr: 1}\n")
    with pytest.raises(DscnetError, match="did you mean 'lr'"):
        folder.read_config()


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_record_is_named(tmp_path, text):
    folder = RunFolder(tmp_path)
    folder.stages.write_text(text)
    with pytest.raises(DscnetError, match=r"stages\.json.* run the stage .* again"):
        folder.seconds()


def test_stage_records(tmp_path):
    folder = RunFolder(tmp_path)
    assert not folder.start("train", "a")
    assert folder.start("train", "a"), "an interrupted try with the same inputs goes on"
    assert not folder.start("train", "b"), "other inputs start anew"
    folder.finish("train", "b", 1.23)
    assert folder.is_done("train", "b")
    assert not folder.is_done("train", "a")
    assert folder.seconds() == {"train": 1.2}
    folder.finish("cam", "c", 1.0)
    folder.start("train", "d", stale={"cam"})
    assert folder.fingerprint_of("cam") is None


def test_fingerprint_depends_on_its_parts():
    assert fingerprint({"a": 1}) == fingerprint({"a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def save_with_time(image: Image.Image, path: Path, seconds: int) -> list[object]:
    image.save(path)
    os.utime(path, (seconds, seconds))
    return file_mark(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_copy_has_the_mark_of_its_file_and_a_changed_pixel_another(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    first = save_with_time(Image.fromarray(noise), tmp_path / f"a{suffix}", 1)
    (tmp_path / "copy").mkdir()
    copied = tmp_path / "copy" / f"b{suffix}"
    copied.write_bytes((tmp_path / f"a{suffix}").read_bytes())
    assert file_mark(copied) == first
    noise[100:108, 144:152] = 0
    assert save_with_time(Image.fromarray(noise), tmp_path / f"a{suffix}", 1) != first


def test_uncompressed_files_are_told_by_their_time(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    first = save_with_time(Image.fromarray(noise), tmp_path / "a.bmp", 1)
    noise[100, 150] = 0
    assert save_with_time(Image.fromarray(noise), tmp_path / "a.bmp", 2) != first


def test_a_photo_that_is_turned_in_place_has_another_mark(tmp_path):
    paths = {orientation: tmp_path / f"{orientation}.jpg" for orientation in (1, 6)}
    for orientation, path in paths.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (200, 300)).save(path, exif=exif)
    assert paths[1].stat().st_size == paths[6].stat().st_size
    assert file_mark(paths[1]) != file_mark(paths[6])


def test_a_file_without_bytes_has_a_mark(tmp_path):
    (tmp_path / "empty.png").touch()
    assert file_mark(tmp_path / "empty.png")[0] == 0


def test_the_revision_is_a_hash_whatever_tags_there_are(tmp_path, monkeypatch):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (
        ["init", "-q"],
        ["commit", "-q", "--allow-empty", "-m", "first"],
        ["tag", "-a", "archive", "-m", "what was"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)
    monkeypatch.setattr(run_folder, "PACKAGE", tmp_path)
    git_revision.cache_clear()
    assert re.fullmatch(r"[0-9a-f]{12}", environment(0)["git_revision"])
    git_revision.cache_clear()
