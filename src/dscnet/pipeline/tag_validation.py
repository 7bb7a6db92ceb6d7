"""Validation of the CAM network on tags, which may select weights as it needs no masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from dscnet.build import build_eval_transform, build_scale, device_of
from dscnet.data import PhotoSet, image_size, read_image
from dscnet.data.scale import windows
from dscnet.distributed.ranks import gather_parts, own_part
from dscnet.labels.cam import resize_photos
from dscnet.losses.tags import mean_average_precision, tag_loss
from dscnet.models import PlainCam
from dscnet.pipeline.full_images import tag_matrix
from dscnet.pipeline.job import Job


def tag_criterion(job: Job) -> tuple[str, Callable[[Job, PlainCam], float]]:
    """Name and function of the score that selects the best epoch, from tags only."""
    if job.val is not None and tag_matrix(job.val).any():
        return "tag mAP on the validation photos", lambda job, model: tag_map(job, model) or 0.0
    return "negative tag loss on the training photos", negative_tag_loss


def tag_map(job: Job, model: PlainCam) -> float | None:
    """Mean average precision of the tags on the validation photos; None without tags."""
    if job.val is None:
        return None
    value = mean_average_precision(tag_scores(job, job.val, model), tag_matrix(job.val))
    return None if np.isnan(value) else value


def negative_tag_loss(job: Job, model: PlainCam) -> float:
    """Negative tag loss on the whole training photos, without augmentation."""
    return -float(tag_loss(tag_scores(job, job.train, model), tag_matrix(job.train)))


@torch.no_grad()
def tag_scores(job: Job, photos: PhotoSet, model: PlainCam) -> torch.Tensor:
    """Tag scores of photos at scale 1, ``(N, C)``."""
    device = device_of(job.config.train.accelerator)
    model.to(device).eval()
    transform = build_eval_transform(model.backbone.mean, model.backbone.std)
    scale = build_scale(job.config)
    scores = []
    for sample in own_part(photos.samples):
        # K-means starts at random: the result must depend neither on the photos before this one
        # nor on whether training was resumed.
        torch.manual_seed(job.config.seed)
        photo = read_image(sample.image_path, scale.read_side([1.0]))
        size = scale.view_size(image_size(sample.image_path), 1.0)
        view = resize_photos(transform(photo, None)[0][None], size).to(device)
        seen = [
            view[..., rows, columns]
            for rows, columns in windows(size, scale.tiles, scale.tile_overlap)
        ]
        of_windows = [model.tag_logits(model(w), (w.shape[-2], w.shape[-1])) for w in seen]
        # A class is in a photo if it is in any of its windows.
        scores.append(torch.stack(of_windows).amax(0).cpu())
    return torch.cat(gather_parts(scores))
