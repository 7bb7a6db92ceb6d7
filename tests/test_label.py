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
from dscnet.labels import cam_files
from dscnet.labels.cam_files import write_cam
from dscnet.labels.thresholds import CRITERIA, suggested_score
from dscnet.pipeline.counts_file import counts_file
from dscnet.pipeline.evaluate import measure
from dscnet.pipeline.job import Job
from dscnet.pipeline.label import label
from dscnet.pipeline.maps import background_score, job_counts, load_map, score_counts
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


def with_maps(folder: Path, bg_score: float | str) -> Job:
    """A job on four photos with CAMs before and after refinement, of which three have tags."""
    made = photos(folder, [(6, 4)] * 4)
    config = Config(label=LabelConfig(bg_score=bg_score), scale=ScaleConfig(side=16))
    job = Job(config, RunFolder(folder / "run"), made, None)
    rng = np.random.default_rng(0)
    for sample in made.samples:
        if sample.mask_path is not None:
            Image.new("L", (6, 4), 1).save(sample.mask_path)
        shape = (len(sample.tags or ()), 4, 6)
        maps = {"cam": rng.random(shape), "refined": rng.random(shape)}
        scales = np.zeros((2, shape[0], 1, 2), np.uint8)
        write_cam(
            job.folder.cams / f"{sample.image_id}.npz", maps, sample.tags or (), scales=scales
        )
    return job


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the CAM files that are opened."""
    names: list[str] = []
    read = cam_files._read_arrays

    def counted(path, choose):
        names.append(path.name)
        return read(path, choose)

    monkeypatch.setattr(cam_files, "_read_arrays", counted)
    return names


@pytest.mark.parametrize("bg_score", [0.4, "class_otsu"])
def test_each_stage_opens_each_map_once(tmp_path, bg_score, opened):
    job = with_maps(tmp_path, bg_score)
    every_map = [f"{index}.npz" for index in range(4)]
    job_counts(job)  # as stage cam does
    assert opened == every_map
    opened.clear()
    label(job, False)
    assert opened == every_map
    for stage in ("cam", "label"):
        job.folder.start(stage, "mark")
        job.folder.finish(stage, "mark", 1.0)
    opened.clear()
    assert measure(job)["cam"]["num_images"] == 3
    assert opened == every_map[1:], "the first photo has no mask"


def test_kept_statistics_are_those_of_the_maps(tmp_path, opened):
    job = with_maps(tmp_path, "class_otsu")
    first, again = job_counts(job), job_counts(job)
    assert len(opened) == 4
    for name, value in vars(score_counts(job.train, job.folder.cams)).items():
        for counts in (first, again):
            assert type(getattr(counts, name)) is type(value)
            np.testing.assert_array_equal(getattr(counts, name), value)
    assert {suggested_score(first, name) for name in CRITERIA} == {
        suggested_score(again, name) for name in CRITERIA
    }


def test_statistics_are_counted_again_if_anything_changes(tmp_path, opened):
    job = with_maps(tmp_path, "class_otsu")
    file = job.folder.cams / "1.npz"
    job_counts(job)
    write_cam(file, {"cam": np.ones((1, 4, 6))}, [0])
    opened.clear()
    assert job_counts(job).by_label[1, -1] == 24
    assert len(opened) == 4
    opened.clear()
    fewer = replace(job, train=replace(job.train, samples=job.train.samples[:2]))
    assert job_counts(fewer).foreground.sum() == 24
    assert len(opened) == 2
    counts_file(job.folder).write_bytes(b"damaged")
    opened.clear()
    job_counts(job)
    assert len(opened) == 4
    file.unlink()
    with pytest.raises(DataError, match=r"1\.npz: no such CAM file"):
        job_counts(job)


def test_statistics_with_saliency_are_others(tmp_path, opened):
    job = with_maps(tmp_path, "class_otsu")
    job_counts(job)
    Image.new("L", (6, 4), 255).save(tmp_path / "salient.png")
    samples = tuple(
        replace(sample, saliency_path=tmp_path / "salient.png") for sample in job.train.samples
    )
    salient = replace(
        job,
        train=replace(job.train, samples=samples),
        config=replace(job.config, label=LabelConfig(bg_score="saliency")),
    )
    opened.clear()
    assert job_counts(salient).salient[0].sum() == 2 * 24
    assert len(opened) == 4
    Image.new("L", (6, 4), 0).save(tmp_path / "other.png")
    (tmp_path / "other.png").replace(tmp_path / "salient.png")
    assert job_counts(salient).salient[0].sum() == 0
