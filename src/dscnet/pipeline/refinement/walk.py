"""Step ``walk``: a random walk by the similarity of features of the trained CAM network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dscnet.build import build_features, build_model, device_of
from dscnet.data import Sample
from dscnet.models.checkpoint import restore
from dscnet.pipeline.job import Job
from dscnet.refine.random_walk import random_walk
from dscnet.refine.steps import RefinementStep, Step


def walk_features(job: Job) -> Callable[[torch.Tensor], torch.Tensor]:
    """Function from photos to features of the trained backbone."""
    config = job.config
    model = build_model(config, job.train.num_classes, pretrained=False)
    restore(model, job.folder.weights)
    model.to(device_of(config.train.accelerator)).eval()
    card = job.folder.read_card()
    return build_features(config, model, card["mean"], card["std"])


def _open(job: Job) -> Callable[[Sample], Step]:
    features = walk_features(job)

    def step(probabilities: Tensor, photos: Tensor) -> Tensor:
        return random_walk(probabilities, features(photos))

    return lambda sample: step


STEP = RefinementStep("walk", _open, needs=lambda config: ("train",))
