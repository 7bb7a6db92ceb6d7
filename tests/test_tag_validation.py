from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dscnet.config import Config
from dscnet.data import PhotoSet, Sample
from dscnet.losses.tags import mean_average_precision, tag_loss
from dscnet.pipeline.full_images import tag_matrix
from dscnet.pipeline.job import Job
from dscnet.pipeline.tag_validation import tag_criterion
from dscnet.run_folder import RunFolder


def test_negatives_and_unknown_tags_are_rows_of_zeros():
    samples = [Sample(str(index), Path("x"), tags) for index, tags in enumerate([(), (1,), None])]
    photos = PhotoSet("made", ("cat", "dog"), tuple(samples))
    assert tag_matrix(photos).tolist() == [[0, 0], [0, 1], [0, 0]]


class Colours(torch.nn.Module):
    """A CAM network of two classes whose tag scores are the mean red and green of a photo."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Identity()
        self.backbone.mean, self.backbone.std = (0.0,) * 3, (1.0,) * 3

    def forward(self, image):
        return image

    def tag_logits(self, output, size):
        assert output.shape[-2:] == size
        return 3 * output[:, :2].mean((2, 3)) - 1


def coloured(folder: Path, colours, tags) -> PhotoSet:
    samples = []
    for index, (colour, own) in enumerate(zip(colours, tags, strict=True)):
        path = folder / f"{index}.png"
        Image.new("RGB", (5, 4), colour).save(path)
        samples.append(Sample(str(index), path, own))
    return PhotoSet("coloured", ("red", "green"), tuple(samples))


def test_tags_of_the_validation_photos_choose_where_there_are_any(tmp_path):
    colours = [(200, 0, 0), (0, 100, 0), (100, 200, 0)]
    made = coloured(tmp_path, colours, [(0,), (0,), (1,)])
    scores = 3 * torch.tensor([[200, 0], [0, 100], [100, 200]]) / 255 - 1
    tags = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    config = Config()
    config.train.accelerator = "cpu"
    bare = coloured(tmp_path, colours, [(), (), ()])
    for val in (made, None, bare):
        job = Job(config, RunFolder(tmp_path), made, val)
        name, score = tag_criterion(job)
        if val is made:
            expected = mean_average_precision(scores, tags)
        else:
            expected = -float(tag_loss(scores, tags))
        assert score(job, Colours()) == pytest.approx(expected)
        assert ("mAP" in name) == (val is made)
