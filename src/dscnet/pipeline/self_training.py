"""Self-training: labels from the networks of earlier rounds and the CAMs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dscnet.data import Sample, image_size, read_image
from dscnet.data.transforms import resize_labels
from dscnet.distributed.ranks import share
from dscnet.files.label_images import read_labels, write_label
from dscnet.labels.cam_files import read_cam
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import background_score, load_pair, work_photo, work_size
from dscnet.predictor import Predictor
from dscnet.refine.crf import dense_crf
from dscnet.refine.probabilities import (
    as_probabilities,
    label_probabilities,
    probable_label,
    trusted_labels,
)
from dscnet.run_folder import fresh_folder
from dscnet.types import BACKGROUND

Evidence = tuple[torch.Tensor, NDArray[Any]]
"""Probabilities of a photo's labels, ``(C' + 1, H, W)``, background first, and the C' classes."""


def write_self_training_labels(
    job: Job,
    predictors: Sequence[Predictor],
    evidence: Callable[[Sample], Evidence],
    out: Path,
) -> None:
    """Label the training photos by the networks so far and the CAMs.

    The probabilities of the photo's classes and background by each network are multiplied with
    those from the CAMs, and refined by a dense CRF. The networks generalise over photos; the CAMs
    use the tags of this one, and keep the networks from reinforcing their own errors. [Reading:
    self-training is common, this form is ours.]

    Args:
        job: The run.
        predictors: The networks, without CRF; at least one.
        evidence: Returns the probabilities of a photo from its CAMs, and its classes.
        out: Folder of the new labels.
    """
    fresh_folder(out)
    for sample in share(job.train.samples):
        size, path = image_size(sample.image_path), out / f"{sample.image_id}.png"
        joint, classes = evidence(sample)
        labels = np.array([BACKGROUND, *(classes + 1)])
        for predictor in predictors:
            photo = read_image(sample.image_path, predictor.read_side)
            # Normalised after each, as products of small numbers would underflow.
            asked = predictor.work_probabilities(photo, size).cpu()
            joint = as_probabilities(asked[labels] * joint)
        if len(classes):
            device = predictors[0].device
            photo = work_photo(job.config, sample.image_path)
            joint = dense_crf(joint[None].to(device), photo[None].to(device))[0].cpu()
        write_label(path, probable_label(joint[1:].numpy(), classes, size))


def label_evidence(job: Job) -> Callable[[Sample], Evidence]:
    """Function from a photo to the probabilities whose argmax is its pseudo label.

    They are those after the last refinement step, or else the scores of CAMs and background,
    normalised to sum to 1.

    Args:
        job: The run.
    """
    if job.config.refine.steps:
        return partial(_refined_evidence, job)
    return partial(_unrefined_evidence, job, background_score(job))


def _refined_evidence(job: Job, sample: Sample) -> Evidence:
    maps, classes = read_cam(job.folder.refined / f"{sample.image_id}.npz")
    *_, foreground = map(torch.from_numpy, maps.values())
    background = (1 - foreground.sum(0, keepdim=True)).clamp(min=0)
    return torch.cat([background, foreground]), classes


def _unrefined_evidence(job: Job, bg_score: float, sample: Sample) -> Evidence:
    scores, classes, _ = load_pair(job, sample)
    return label_probabilities(scores, bg_score=bg_score, certainty=None), classes


def trusted_evidence(job: Job, folder: Path) -> Callable[[Sample], Evidence]:
    """Function from a photo to probabilities from existing labels, with certainty 0.7.

    Args:
        job: The run.
        folder: Folder of the labels, ``ID.png``.
    """
    return partial(_trusted_evidence, job, folder)


def _trusted_evidence(job: Job, folder: Path, sample: Sample) -> Evidence:
    classes = np.asarray(sample.tags or (), dtype=np.int64)
    own = torch.from_numpy(read_labels(folder / f"{sample.image_id}.png"))
    labels = resize_labels(own, work_size(job.config, sample.image_path)).numpy()
    return trusted_labels(labels, np.array([BACKGROUND, *(classes + 1)])), classes
