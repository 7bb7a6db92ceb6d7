"""Tests of ``dscnet.pipeline.self_training``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dscnet.config import Config, LabelConfig, RefineConfig, ScaleConfig
from dscnet.files.label_images import read_labels, write_label
from dscnet.labels.cam_files import write_cam
from dscnet.pipeline.job import Job
from dscnet.pipeline.self_training import (
    label_evidence,
    trusted_evidence,
    write_self_training_labels,
)
from dscnet.refine.probabilities import trusted_labels
from dscnet.run_folder import RunFolder
from test_fitting import photos

OWN = ScaleConfig(relative_to="photo")


class Says:
    """A network that says of every pixel what it is told."""

    device = torch.device("cpu")
    read_side = None

    def __init__(self, probabilities: list[float]) -> None:
        self.said = torch.tensor(probabilities)

    def work_probabilities(self, photo: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.said[:, None, None].expand(-1, *size)


@pytest.fixture
def job(tmp_path) -> Job:
    """Three photos of 4 x 6 pixels and two classes; the second alone has a tag, of class 1."""
    made = photos(tmp_path, [(6, 4)] * 3)
    return Job(Config(scale=OWN), RunFolder(tmp_path / "run"), made, None)


def trusting(label: int):
    """Evidence: all of each photo has this label, trusted with 0.7."""

    def evidence(sample):
        classes = np.array(sample.tags or (), dtype=np.int64)
        labels = np.full((4, 6), label, dtype=np.uint8)
        return trusted_labels(labels, np.array([0, *(classes + 1)])), classes

    return evidence


def relabelled(job: Job, networks, evidence) -> list[int]:
    """The one label of each photo."""
    write_self_training_labels(job, networks, evidence, job.folder.labels)
    labels = [read_labels(job.folder.labels / f"{each.image_id}.png") for each in job.train.samples]
    assert all(len(np.unique(one)) == 1 and one.shape == (4, 6) for one in labels)
    return [int(one[0, 0]) for one in labels]


@pytest.mark.parametrize(("background", "label"), [(0.75, 0), (0.6, 2)])
def test_network_and_label_weigh_as_their_probabilities(job, background, label):
    """With one tag, a label trusted with 0.7 gives way to a background of more than 0.7.

    The class that the photo is not tagged with says the most; it is not asked.
    """
    says = Says([background, 10.0, 1 - background])
    assert relabelled(job, [says], trusting(2)) == [0, label, 0]


@pytest.mark.parametrize(("networks", "label"), [(1, 2), (2, 0)])
def test_networks_weigh_as_the_product_of_their_probabilities(job, networks, label):
    """Odds of 0.61 to 0.39 give way to a label's 0.7 to 0.3; their square does not."""
    says = Says([0.61, 0.0, 0.39])
    assert relabelled(job, [says] * networks, trusting(2)) == [0, label, 0]


def test_numbers_that_vanish_in_a_product_decide_nonetheless(job):
    """1e-30 to 1e-32, twice, is below what a float holds."""
    says = Says([1e-32, 1e-30, 1e-30])
    assert relabelled(job, [says] * 2, trusting(255)) == [0, 2, 0]


@pytest.mark.parametrize(("background", "label"), [(0.6, 0), (0.4, 2)])
def test_undecided_pixels_are_the_networks(job, background, label):
    says = Says([background, 0.0, 1 - background])
    assert relabelled(job, [says], trusting(255)) == [0, label, 0]


def test_labels_that_are_there_alone_are_trusted_with_0_7(job, tmp_path):
    row = np.array([[0, 2, 255, 0, 0, 0]], dtype=np.uint8)
    write_label(tmp_path / "1.png", row.repeat(4, 0))
    found, classes = trusted_evidence(job, tmp_path)(job.train.samples[1])
    found = found[:, :1, :3]
    expected = torch.tensor([[[0.7, 0.3, 0.5]], [[0.3, 0.7, 0.5]]])
    torch.testing.assert_close(found, expected)
    assert classes.tolist() == [1]


def test_the_evidence_of_a_label_is_what_it_was_read_from(tmp_path: Path):
    """Of unrefined labels: scores of background and maps as shares. Tags need not be the maps'."""
    made = photos(tmp_path, [(3, 1)])
    write_cam(tmp_path / "cams" / "0.npz", {"cam": np.array([[[0.0, 0.4, 0.8]]])}, [1])
    settings = LabelConfig(bg_score=0.4, cams=str(tmp_path / "cams"))
    job = Job(Config(label=settings, scale=OWN), RunFolder(tmp_path / "run"), made, None)
    found, classes = label_evidence(job)(made.samples[0])
    expected = torch.tensor([[[1, 1 / 2, 1 / 3]], [[0, 1 / 2, 2 / 3]]])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert classes.tolist() == [1]


def test_the_evidence_of_a_refined_label_is_what_the_last_step_left(tmp_path):
    made, folder = photos(tmp_path, [(3, 1)]), RunFolder(tmp_path / "run")
    steps = {"pamr": np.array([[[1.0, 1, 1]]]), "crf": np.array([[[0.25, 0.5, 0.75]]])}
    write_cam(folder.refined / "0.npz", steps, [1])
    config = Config(refine=RefineConfig(steps=list(steps)))
    found, classes = label_evidence(Job(config, folder, made, None))(made.samples[0])
    assert found.tolist() == [[[0.75, 0.5, 0.25]], [[0.25, 0.5, 0.75]]]
    assert classes.tolist() == [1]
