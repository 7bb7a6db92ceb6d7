from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dscnet import measuring, stages
from dscnet.checks import check_mask_settings
from dscnet.config import (
    AuxSegConfig,
    CamConfig,
    Config,
    LabelConfig,
    ModelConfig,
    RefineConfig,
    TrainConfig,
)
from dscnet.data import EvalTransform, PhotoDataset, PhotoSet, Sample
from dscnet.job import Job
from dscnet.labelling import label, load_map, open_masks, photo_steps
from dscnet.labels.cam_files import read_cam, write_cam
from dscnet.labels.pseudo_label import read_label, write_label
from dscnet.measuring import measure, truth
from dscnet.run_folder import RunFolder, fresh_folder
from dscnet.stages import (
    published_views,
    same_size_batches,
    write_cams,
    write_card,
)
from dscnet.types import DataError


def photos(folder: Path, sizes: list[tuple[int, int]]) -> PhotoSet:
    samples = []
    for index, size in enumerate(sizes):
        path = folder / f"{index}.png"
        Image.new("RGB", size).save(path)
        tags = None if index == 2 else (1,) if index else ()
        samples.append(Sample(str(index), path, tags, path if index else None, None))
    return PhotoSet("made", ("cat", "dog"), tuple(samples), ())


def test_batches_hold_photos_of_one_size_each_once(tmp_path):
    made = photos(tmp_path, [(4, 6), (6, 4), (4, 6), (4, 6), (6, 4)])
    assert list(same_size_batches(made, 2)) == [[0, 2], [3], [1, 4]]


def test_labels_come_from_the_refined_map_where_there_is_one(tmp_path):
    plain, refined = np.zeros((1, 2, 2)), np.ones((1, 2, 2))
    write_cam(tmp_path / "both.npz", {"cam": plain, "refined": refined}, [1])
    write_cam(tmp_path / "plain.npz", {"cam": plain}, [1])
    assert load_map(tmp_path, "both")[0].max() == 1
    assert load_map(tmp_path, "plain")[0].max() == 0


def test_truth_is_of_photos_with_a_mask(tmp_path):
    made = photos(tmp_path, [(4, 4)] * 3)
    assert [image_id for image_id, _ in truth(made)] == ["1", "2"]
    assert truth(None) == []


def test_labels_of_maps_at_the_background_score_or_with_a_band(tmp_path):
    made = photos(tmp_path, [(3, 1)])
    write_cam(tmp_path / "cams" / "0.npz", {"cam": np.array([[[0.2, 0.5, 0.9]]])}, [1])
    for band, expected in ((None, [0, 2, 2]), ([0.3, 0.6], [0, 255, 2])):
        settings = LabelConfig(bg_score=0.4, ignore_band=band, cams=str(tmp_path / "cams"))
        folder = RunFolder(tmp_path / "run")
        label(Job(Config(label=settings), folder, made, None), False)
        assert read_label(folder.labels / "0.png").tolist() == [expected]
        assert folder.threshold.exists()


@pytest.mark.parametrize(
    ("iterations", "epochs", "steps"),
    [(None, 7, 14), (1, 1, 1), (4, 2, 4), (5, 3, 5), (20, 10, 20)],
)
def test_iterations_take_the_place_of_epochs(tmp_path, monkeypatch, iterations, epochs, steps):
    """Five photos in batches of two are two steps an epoch."""
    taken = []
    monkeypatch.setattr(
        stages,
        "fit",
        lambda module, loader, *, epochs, **rest: taken.append((epochs, module.total_steps)),
    )
    made = photos(tmp_path, [(4, 4)] * 5)
    stages.optimise(
        Job(Config(), RunFolder(tmp_path / "run"), made, None),
        nn.Conv2d(3, 2, 1),
        lambda output, batch, progress: None,
        PhotoDataset(made, EvalTransform((0.5,) * 3, (0.5,) * 3)),
        TrainConfig(epochs=7, batch_size=2, iterations=iterations),
        tmp_path / "checkpoints",
        tmp_path / "metrics.csv",
        False,
        [],
    )
    assert taken == [(epochs, steps)]


def test_a_missing_map_is_named(tmp_path):
    with pytest.raises(DataError, match=r"0\.npz"):
        load_map(tmp_path, "0")


def test_a_fresh_folder_is_empty(tmp_path):
    fresh_folder(tmp_path / "x")
    (tmp_path / "x" / "old").touch()
    fresh_folder(tmp_path / "x")
    assert list((tmp_path / "x").iterdir()) == []


def test_measuring_a_run_holds_a_photo_at_a_time(tmp_path, monkeypatch, alive):
    made = photos(tmp_path, [(2, 2)] * 50)
    for sample in made.samples:
        Image.new("L", (2, 2)).save(sample.image_path)

    def read_map(folder, image_id):
        return alive.watch(np.ones((1, 2, 2))), [0]

    def read_labels(path):
        return alive.watch(np.zeros((2, 2), np.uint8))

    monkeypatch.setattr(measuring, "load_map", read_map)
    monkeypatch.setattr(measuring, "read_label", read_labels)
    monkeypatch.setattr(RunFolder, "fingerprint_of", lambda self, name: name in ("cam", "label"))
    job = Job(Config(label=LabelConfig(bg_score=0.4)), RunFolder(tmp_path / "run"), made, None)
    sections = measure(job)
    assert sections["cam"]["num_images"] == sections["pseudo_label"]["num_images"] == 49
    assert len(alive.references) == 98 and alive.most <= 2


@pytest.mark.parametrize(
    ("refine", "score"),
    [
        (RefineConfig(bg_power=6.0), 0.4),  # not read without steps
        (RefineConfig(steps=["crf"]), 0.4),
        (RefineConfig(steps=["crf"], bg_power=6.0), None),
        (RefineConfig(steps=["irn"]), None),
    ],
)
def test_labels_name_the_background_score_where_it_made_them(tmp_path, monkeypatch, refine, score):
    made = photos(tmp_path, [(2, 2)] * 2)
    Image.new("L", (2, 2)).save(made.samples[1].mask_path)
    config = Config(label=LabelConfig(bg_score=0.4), refine=refine)
    job = Job(config, RunFolder(tmp_path / "run"), made, None)
    write_label(job.folder.labels / "1.png", np.zeros((2, 2), np.uint8))
    monkeypatch.setattr(RunFolder, "fingerprint_of", lambda self, name: name == "label")
    assert measure(job)["pseudo_label"]["bg_score"] == score


def masked(folder: Path, **settings) -> Job:
    """A job on three photos of 4 x 6 pixels, (rows, columns); the second alone has a tag."""
    config = Config(refine=RefineConfig(steps=["masks"], masks=str(folder / "masks"), **settings))
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
    assert open_masks(Job(Config(), RunFolder(tmp_path), photos(tmp_path, [(4, 4)]), None)) is None


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
    with pytest.raises(DataError, match="masks of none of the 1 tagged .* for '1'"):
        check_mask_settings(masked(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": None}, "step 'masks' needs refine.masks"),
        ({"mask_overlap": 0.0}, "refine.mask_overlap must be above 0"),
        ({"mask_overlap": 1.5}, "refine.mask_overlap must be above 0"),
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
        check_mask_settings(job)
    assert "add 'masks' to refine.steps" in caplog.text


def test_published_views_are_scaled_and_then_normalised(generator):
    photo = torch.randint(0, 256, (3, 8, 6), generator=generator, dtype=torch.uint8)
    transform = EvalTransform((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    half, whole = published_views([photo] * 2, (0.5, 1.0), transform, torch.device("cpu"))
    assert (half.shape, whole.shape) == ((2, 3, 4, 3), (2, 3, 8, 6))
    assert torch.equal(whole[1], transform(photo, None)[0])
    scaled = Image.fromarray(photo.permute(1, 2, 0).numpy()).resize((3, 4), Image.BICUBIC)
    expected = transform(torch.from_numpy(np.array(scaled)).permute(2, 0, 1), None)[0]
    assert torch.equal(half[0], expected)


class Ramp(nn.Module):
    """A network whose plain map is the red channel and whose refined one is half of it."""

    def score_maps(self, images, tags):
        red = images[:, :1].expand(-1, 2, -1, -1)
        return {"cam": red, "refined": red / 2}


@pytest.mark.parametrize("name", ["seam", "auxsegnet"])
@pytest.mark.parametrize("quirk", [False, True])
def test_maps_are_written_as_the_settings_say(tmp_path, name, quirk):
    made = photos(tmp_path, [(6, 8), (6, 8)])
    photo = np.zeros((8, 6, 3), dtype=np.uint8)
    photo[2:5] = 200
    Image.fromarray(photo).save(tmp_path / "1.png")
    config = Config(
        model=ModelConfig(name=name),
        auxseg=AuxSegConfig(published_cam_quirk=quirk),
        cam=CamConfig(scales=[1.0, 2.0], published_resize_quirk=quirk),
    )
    job = Job(config, RunFolder(tmp_path / "run"), made, None)
    write_card(job.folder.model_card, job, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    write_cams(job, Ramp())
    maps, classes = read_cam(job.folder.cams / "1.npz")
    assert classes.tolist() == [1]
    assert read_cam(job.folder.cams / "0.npz")[0]["cam"].shape == (0, 8, 6)
    assert maps["cam"].max() == pytest.approx(1, abs=1e-3)
    stretched = name == "seam" or not quirk
    if stretched:
        assert maps["refined"].max() == pytest.approx(1, abs=1e-3)
    else:
        assert maps["refined"].max() == pytest.approx(100 / 255, abs=0.05)
