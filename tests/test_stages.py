from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from dscnet import stages
from dscnet.config import Config, LabelConfig, TrainConfig
from dscnet.data import EvalTransform, PhotoDataset, PhotoSet, Sample
from dscnet.job import Job
from dscnet.labelling import label, load_map
from dscnet.labels.cam import write_cam
from dscnet.labels.pseudo_label import read_label
from dscnet.run_folder import RunFolder, fresh_folder
from dscnet.stages import measure, same_size_batches, tag_matrix, truth
from dscnet.types import DataError


def photos(folder: Path, sizes: list[tuple[int, int]]) -> PhotoSet:
    samples = []
    for index, size in enumerate(sizes):
        path = folder / f"{index}.png"
        Image.new("RGB", size).save(path)
        tags = None if index == 2 else (1,) if index else ()
        samples.append(Sample(str(index), path, tags, path if index else None, None))
    return PhotoSet("made", ("cat", "dog"), tuple(samples), ())


def test_negatives_and_unknown_tags_are_rows_of_zeros(tmp_path):
    assert tag_matrix(photos(tmp_path, [(4, 4)] * 3)).tolist() == [[0, 0], [0, 1], [0, 0]]


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

    monkeypatch.setattr(stages, "load_map", read_map)
    monkeypatch.setattr(stages, "read_label", read_labels)
    monkeypatch.setattr(RunFolder, "fingerprint_of", lambda self, name: name in ("cam", "label"))
    job = Job(Config(label=LabelConfig(bg_score=0.4)), RunFolder(tmp_path / "run"), made, None)
    sections = measure(job)
    assert sections["cam"]["num_images"] == sections["pseudo_label"]["num_images"] == 49
    assert len(alive.references) == 98 and alive.most <= 2
