"""Tests of ``dscnet.pipeline.label`` and of the checks of external masks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dscnet.config import (
    Config,
    LabelConfig,
    RefineConfig,
    ScaleConfig,
)
from dscnet.files.label_images import read_labels
from dscnet.labels.cam_files import write_cam
from dscnet.pipeline.job import Job
from dscnet.pipeline.label import label
from dscnet.pipeline.maps import background_score, load_map
from dscnet.pipeline.refine import STAGE, photo_steps
from dscnet.pipeline.refinement.masks import check_mask_settings, open_masks
from dscnet.run_folder import RunFolder
from dscnet.types import DataError
from test_fitting import photos


def test_labels_come_from_the_refined_map_where_there_is_one(tmp_path):
    plain, refined = np.zeros((1, 2, 2)), np.ones((1, 2, 2))
    write_cam(tmp_path / "both.npz", {"cam": plain, "refined": refined}, [1])
    write_cam(tmp_path / "plain.npz", {"cam": plain}, [1])
    assert load_map(tmp_path, "both")[0].max() == 1
    assert load_map(tmp_path, "plain")[0].max() == 0


def test_labels_of_maps_at_the_background_score_or_with_a_band(tmp_path):
    made = photos(tmp_path, [(3, 1)])
    write_cam(tmp_path / "cams" / "0.npz", {"cam": np.array([[[0.2, 0.5, 0.9]]])}, [1])
    for band, expected in ((None, [0, 2, 2]), ([0.3, 0.6], [0, 255, 2])):
        settings = LabelConfig(bg_score=0.4, ignore_band=band, cams=str(tmp_path / "cams"))
        folder = RunFolder(tmp_path / "run")
        label(Job(Config(label=settings), folder, made, None), False)
        assert read_labels(folder.labels / "0.png").tolist() == [expected]
        assert folder.threshold.exists()


def test_a_missing_map_is_named(tmp_path):
    with pytest.raises(DataError, match=r"0\.npz"):
        load_map(tmp_path, "0")


def masked(folder: Path, **settings) -> Job:
    """A job on three photos of 4 x 6 pixels, (rows, columns); the second alone has a tag."""
    refine = RefineConfig(steps=["masks"], masks=str(folder / "masks"), **settings)
    config = Config(refine=refine, scale=ScaleConfig(relative_to="photo"))
    return Job(config, RunFolder(folder / "run"), photos(folder, [(6, 4)] * 3), None)


def index_map(folder: Path, image_id: str, size: tuple[int, int] = (6, 4)) -> None:
    (folder / "masks").mkdir(exist_ok=True)
    Image.new("L", size, 1).save(folder / "masks" / f"{image_id}.png")


def test_a_step_of_masks_reads_those_of_its_photo(tmp_path):
    index_map(tmp_path, "1")
    job = masked(tmp_path)
    steps_of = photo_steps(job)
    start = torch.tensor([0.3, 0.7])[:, None, None].expand(2, 4, 6).clone()
    start[:, 0, :2] = torch.tensor([0.7, 0.3])[:, None]
    after = [
        steps_of(sample)["masks"](start[None], torch.zeros(1, 3, 4, 6))[0]
        for sample in job.train.samples
    ]
    assert (after[1].argmax(0) == 1).all()
    assert torch.equal(after[0], start)
    assert torch.equal(after[2], start)


def test_masks_of_another_size_are_refused_beforehand(tmp_path):
    index_map(tmp_path, "1", size=(5, 4))
    with pytest.raises(DataError, match=r"1\.png: the mask is 4 x 5, photo '1' is 4 x 6"):
        open_masks(masked(tmp_path))


def test_masks_of_photos_without_tags_are_not_missed(tmp_path, caplog):
    index_map(tmp_path, "1")
    with caplog.at_level("WARNING", "dscnet"):
        check_mask_settings(masked(tmp_path))
    assert not caplog.records


def test_masks_that_some_photos_lack_are_told(tmp_path, caplog):
    made = photos(tmp_path, [(6, 4)] * 5)
    index_map(tmp_path, "1")
    job = masked(tmp_path)
    job.train = made
    with caplog.at_level("WARNING", "dscnet"):
        check_mask_settings(job)
    assert "2 of 3 tagged training photos have no masks and keep their labels: 3, 4" in caplog.text


def test_masks_that_all_photos_lack_are_refused(tmp_path):
    index_map(tmp_path, "other")
    with pytest.raises(DataError, match="masks of any of the 1 tagged .* for '1'"):
        check_mask_settings(masked(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": None}, "step 'masks' needs refine.masks"),
        ({"mask_overlap": 0.0}, "refine.mask_overlap must be in"),
        ({"mask_overlap": 1.5}, "refine.mask_overlap must be in"),
    ],
)
def test_settings_of_masks(tmp_path, change, message):
    job = masked(tmp_path)
    for name, value in change.items():
        setattr(job.config.refine, name, value)
    with pytest.raises(ValueError, match=message):
        check_mask_settings(job)


def test_masks_without_their_step_are_told(tmp_path, caplog):
    job = masked(tmp_path)
    job.config.refine.steps = []
    with caplog.at_level("WARNING", "dscnet"):
        STAGE.check(job)
    assert "add 'masks' to refine.steps" in caplog.text


def test_the_score_of_finished_labels_is_read_and_not_recomputed(tmp_path):
    made = photos(tmp_path, [(6, 4)] * 4)
    config = Config(label=LabelConfig(bg_score="class_otsu"), scale=ScaleConfig(side=16))
    job = Job(config, RunFolder(tmp_path / "run"), made, None)
    rng = np.random.default_rng(0)
    for sample in made.samples:
        maps = {"cam": rng.random((len(sample.tags or ()), 11, 16))}
        write_cam(job.folder.cams / f"{sample.image_id}.npz", maps, sample.tags or ())
    counted = background_score(job)
    job.folder.start("label", "mark")
    label(job, False)
    assert background_score(job) == counted, "until labels are finished, maps are counted"
    job.folder.finish("label", "mark", 1.0)
    shutil.rmtree(job.folder.cams)
    assert background_score(job) == counted
    for changed in (
        LabelConfig(bg_score="otsu"),
        LabelConfig(bg_score="class_otsu", cams=str(tmp_path / "others")),
    ):
        with pytest.raises(DataError, match="no such CAM file"):
            background_score(replace(job, config=replace(config, label=changed)))
    job.folder.start("label", "another")
    with pytest.raises(DataError, match="no such CAM file"):
        background_score(job)
