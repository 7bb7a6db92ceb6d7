"""Step ``affinity``: a random walk with affinities learned by AffinityNet."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscnet.build import build_affinity_net, build_affinity_transform, device_of
from dscnet.config import Config
from dscnet.data import PhotoDataset, PhotoSet, Sample
from dscnet.data.loader import LabelledByMaps
from dscnet.data.transforms import TrainTransform
from dscnet.distributed.ranks import share
from dscnet.labels.cam_files import read_cam, write_cam
from dscnet.models.backbones import pad_to_multiple
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import load_pair
from dscnet.pipeline.refinement.learning import (
    PairNet,
    TrainedStep,
    check_crop,
    check_walk_settings,
    photo_views,
)
from dscnet.refine.affinity_labels import merge_scores, power_marginals
from dscnet.refine.objectives import AffinityObjective
from dscnet.refine.pair_walk import affinity_walk
from dscnet.refine.pairs import pair_affinity
from dscnet.refine.probabilities import as_probabilities
from dscnet.refine.steps import Step


def scored_photos(
    photo_set: PhotoSet, transform: TrainTransform, *, scores: Path, stride: int
) -> PhotoDataset:
    """Photos with AffinityNet's cell labels, merged for each crop.

    The scores, stored at the size at which CAMs are refined, are augmented with the photo and
    average-pooled to cells before labels are made from them.

    Deviation: photos are scaled as for the CAM network; in the published code they keep their size.

    Args:
        photo_set: The photos.
        transform: Augmentation.
        scores: Folder of ``ID.npz`` with ``low`` and ``high``, as :func:`_write_scores` makes them.
        stride: Stride of the cells, pixels.
    """

    def read(sample: Sample) -> Tensor:
        """Low and high scores of background and classes, ``(2 (C' + 1), h, w)``."""
        maps, _ = read_cam(scores / f"{sample.image_id}.npz")
        both = [torch.from_numpy(maps[name]) for name in ("low", "high")]
        return torch.cat([torch.cat([1 - part.sum(0, keepdim=True), part]) for part in both])

    def labels(augmented: Tensor) -> Tensor:
        cells = F.avg_pool2d(augmented[None], stride, ceil_mode=True)[0]
        return merge_scores(*cells.chunk(2))

    maps = LabelledByMaps(read, labels)
    return PhotoDataset(photo_set, transform, maps=maps, long_side=transform.read_side)


def _build(config: Config, pretrained: bool) -> PairNet:
    return build_affinity_net(config, pretrained=pretrained)


def _objective(config: Config) -> nn.Module:
    return AffinityObjective(config.affinity.radius)


def _write_scores(job: Job, target: Path) -> None:
    """Write the refined CAMs at both powers, without background; existing files are kept."""
    device = device_of(job.config.affinity.accelerator)
    for sample in share(job.train.samples):
        path = target / f"{sample.image_id}.npz"
        if path.exists():
            continue
        cam, classes, photo = load_pair(job, sample)
        maps = {
            name: power_marginals(cam, photo.to(device), power=power)[1:].cpu()
            for name, power in zip(("low", "high"), job.config.affinity.powers, strict=True)
        }
        write_cam(path, maps, classes)


def _dataset(job: Job, net: PairNet, labels: Path) -> PhotoDataset:
    return scored_photos(
        job.train,
        build_affinity_transform(job.config, net.backbone.mean, net.backbone.std),
        scores=labels,
        stride=job.config.affinity.output_stride,
    )


def _affinity_step(config: Config, net: PairNet) -> Step:
    settings = config.affinity
    views = photo_views(net)
    net.to(device_of(settings.accelerator)).eval()

    @torch.inference_mode()
    def step(scores: Tensor, photos: Tensor) -> Tensor:
        padded = pad_to_multiple(views(photos), settings.output_stride)
        affinity = pair_affinity(net(padded).features, radius=settings.radius)
        spread = [
            affinity_walk(
                one,
                pairs,
                stride=settings.output_stride,
                radius=settings.radius,
                beta=settings.beta,
                log_steps=settings.log_steps,
            )
            for one, pairs in zip(scores, affinity, strict=True)
        ]
        return torch.stack([as_probabilities(one) for one in spread])

    return step


def _check(job: Job) -> None:
    config, affinity = job.config, job.config.affinity
    check_walk_settings("affinity", affinity, "powers", affinity.powers)
    check_crop(config, "affinity.radius", affinity.radius, affinity.output_stride)
    build_affinity_transform(config, mean=(0.5,) * 3, std=(0.5,) * 3)
    build_affinity_net(config, pretrained=False)


STEP = TrainedStep(
    "affinity",
    __name__,
    _build,
    _objective,
    _write_scores,
    _dataset,
    _affinity_step,
    walk=("beta", "log_steps"),
).refinement_step(_check)
