"""Step ``irn``: IRNet's random walk, confined by learned class boundaries."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscnet.build import build_boundary_net, build_train_transform, device_of
from dscnet.config import Config
from dscnet.data import PhotoDataset, image_size
from dscnet.data.transforms import resize_labels
from dscnet.distributed.ranks import share
from dscnet.files.label_images import write_label
from dscnet.models.irn import STRIDE
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import load_pair
from dscnet.pipeline.refinement.learning import (
    PairNet,
    TrainedStep,
    check_crop,
    check_walk_settings,
    photo_views,
)
from dscnet.refine.affinity_labels import merge_labels, score_labels
from dscnet.refine.objectives import BoundaryObjective
from dscnet.refine.pair_walk import boundary_walk, enlarge
from dscnet.refine.pairs import pair_offsets
from dscnet.refine.probabilities import as_probabilities
from dscnet.refine.steps import Step


def _build(config: Config, pretrained: bool) -> PairNet:
    return build_boundary_net(config, pretrained=pretrained)


def _objective(config: Config) -> nn.Module:
    return BoundaryObjective(config.irn.radius)


def _write_labels(job: Job, target: Path) -> None:
    """Write IRNet's labels from both background thresholds; existing files are kept."""
    low, high = job.config.irn.bg_scores
    device = device_of(job.config.irn.accelerator)
    for sample in share(job.train.samples):
        path = target / f"{sample.image_id}.png"
        if path.exists():
            continue
        cam, classes, photo = load_pair(job, sample)
        photo = photo.to(device)
        sure = score_labels(cam, classes, photo, bg_score=high)
        likely = score_labels(cam, classes, photo, bg_score=low)
        labels = torch.from_numpy(merge_labels(sure, likely))
        write_label(path, resize_labels(labels, image_size(sample.image_path)).numpy())


def _dataset(job: Job, net: PairNet, labels: Path) -> PhotoDataset:
    transform = build_train_transform(job.config, net.backbone.mean, net.backbone.std)
    return PhotoDataset(job.train, transform, mask_dir=labels, long_side=transform.read_side)


def _boundary_step(config: Config, net: PairNet) -> Step:
    """IRNet's step: propagates only the classes, then sets the background by a threshold."""
    settings = config.irn
    views_of = photo_views(net)
    net.to(device_of(settings.accelerator)).eval()

    @torch.inference_mode()
    def step(scores: Tensor, photos: Tensor) -> Tensor:
        views = views_of(photos)
        logits = net(views).boundary_logits + net(views.flip(-1)).boundary_logits.flip(-1)
        refined = []
        for maps, boundary in zip(scores[:, 1:], (logits / 2).sigmoid()[:, 0], strict=True):
            cells = F.avg_pool2d(maps[None].float(), STRIDE, ceil_mode=True)[0]
            spread = boundary_walk(
                cells,
                boundary,
                radius=settings.walk_radius,
                beta=settings.beta,
                log_steps=settings.log_steps,
            )
            full = enlarge(spread, STRIDE, (maps.shape[-2], maps.shape[-1]))
            peak = full.amax()
            full = full / peak.where(peak > 0, 1.0)
            background = torch.full_like(full[:1], settings.threshold)
            refined.append(as_probabilities(torch.cat([background, full])))
        return torch.stack(refined)

    return step


def _check(job: Job) -> None:
    irn = job.config.irn
    check_walk_settings("irn", irn, "bg_scores", irn.bg_scores)
    check_crop(job.config, "irn.radius", irn.radius, STRIDE)
    pair_offsets(irn.walk_radius)
    if irn.bg_scores[1] > 1 or not 0 < irn.threshold <= 1:
        raise ValueError(
            "irn.bg_scores and irn.threshold must be in (0, 1], got"
            f" {irn.bg_scores} and {irn.threshold}"
        )


STEP = TrainedStep(
    "irn",
    __name__,
    _build,
    _objective,
    _write_labels,
    _dataset,
    _boundary_step,
    walk=("walk_radius", "beta", "log_steps", "threshold"),
).refinement_step(_check, own_background=True)
