"""Refinement steps that train a network first: its labels, its training, and the step it gives.

Each leaves a folder ``affinity/STEP`` in the run: the labels it learned from, its checkpoint and
losses, its weights, and the time its training took.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscnet.build import (
    build_affinity_net,
    build_affinity_transform,
    build_boundary_net,
    build_eval_transform,
    build_model,
    build_scale,
    build_train_transform,
    device_of,
)
from dscnet.config import AffinityConfig, Config, IrnConfig
from dscnet.data import PhotoDataset, PhotoSet, image_size
from dscnet.data.scale import PhotoScale
from dscnet.data.transforms import TrainTransform, resize_labels, resize_photo
from dscnet.files.label_images import write_label
from dscnet.labels.cam_files import read_cam, write_cam
from dscnet.models.affinitynet import AffinityNet
from dscnet.models.backbones import pad_to_multiple
from dscnet.models.irn import STRIDE, BoundaryNet
from dscnet.pipeline.cam_network import optimise
from dscnet.pipeline.job import Job
from dscnet.pipeline.label import load_pair
from dscnet.predictor import restore, store
from dscnet.refine.affinity_labels import merge_labels, merge_scores, power_marginals, score_labels
from dscnet.refine.objectives import AffinityObjective, BoundaryObjective
from dscnet.refine.pair_walk import affinity_walk, boundary_walk, enlarge
from dscnet.refine.pairs import pair_affinity
from dscnet.refine.steps import LEARNED, Step, as_probabilities
from dscnet.run_folder import write_text


def learned_steps(job: Job, resume: bool) -> dict[str, Step]:
    """Train the networks that the refinement asks for, in the order of its steps."""
    make: dict[str, Callable[[Job], Step]] = {"affinity": _learn_affinity, "irn": _learn_boundaries}
    if not resume:
        shutil.rmtree(job.folder.learned, ignore_errors=True)
    scale = build_scale(job.config)
    names = [name for name in job.config.refine.steps if name in LEARNED]
    return {name: _at_scale_one(make[name](job), scale) for name in names}


def _at_scale_one(step: Step, scale: PhotoScale) -> Step:
    """The same step on photos as large as its network was trained on."""

    def resized(scores: Tensor, photos: Tensor) -> Tensor:
        size = (photos.shape[-2], photos.shape[-1])
        seen = scale.view_size(size, 1.0)
        if seen == size:
            return step(scores, photos)
        there = F.interpolate(scores, seen, mode="bilinear", align_corners=False)
        spread = step(there, resize_photo(photos, seen))
        return F.interpolate(spread, size, mode="bilinear", align_corners=False)

    return resized


class ScoredPhotos(PhotoDataset):
    """Photos with AffinityNet's labels of their cells, merged anew for each crop.

    The scores, kept at the size that maps are refined at, are varied with the photo and averaged
    over the cells before labels are made of them.

    Deviation: photos are scaled as the CAM network's are; published ones keep their size.

    Args:
        photo_set: The photos.
        transform: How they are varied.
        scores: Folder of ``ID.npz`` with ``low`` and ``high``, as :func:`_write_scores` makes them.
        stride: Pixels a cell.
    """

    def __init__(
        self, photo_set: PhotoSet, transform: TrainTransform, *, scores: Path, stride: int
    ) -> None:
        super().__init__(photo_set, transform, long_side=transform.read_side)
        self.scores, self.stride = scores, stride

    def _read_saliency(self, index: int, size: tuple[int, int]) -> Tensor:
        """Both scores of background and classes, ``(2 (C' + 1), h, w)``."""
        maps, _ = read_cam(self.scores / f"{self.photo_set.samples[index].image_id}.npz")
        both = [torch.from_numpy(maps[name]) for name in ("low", "high")]
        return torch.cat([torch.cat([1 - part.sum(0, keepdim=True), part]) for part in both])

    def _transform(
        self, image: Tensor, mask: Tensor | None, scores: Tensor | None
    ) -> tuple[Tensor, Tensor, None]:
        crop, _, varied = self.transform.joint(image, None, scores)  # type: ignore[attr-defined]
        cells = F.avg_pool2d(varied[None], self.stride, ceil_mode=True)[0]
        low, high = cells.chunk(2)
        return crop, merge_scores(low, high), None


def _learn_affinity(job: Job) -> Step:
    settings, folder = job.config.affinity, job.folder.learned / "affinity"
    L.seed_everything(job.config.seed, workers=True, verbose=False)
    net = build_affinity_net(job.config, pretrained=settings.start == "weights")
    if not (folder / "weights.safetensors").exists():
        _write_scores(job, folder / "labels")
        dataset = ScoredPhotos(
            job.train,
            build_affinity_transform(job.config, net.backbone.mean, net.backbone.std),
            scores=folder / "labels",
            stride=settings.output_stride,
        )
        _train(job, net, AffinityObjective(settings.radius), dataset, settings, folder)
    restore(net, folder / "weights.safetensors")
    return _affinity_step(job.config, net)


def _learn_boundaries(job: Job) -> Step:
    settings, folder = job.config.irn, job.folder.learned / "irn"
    L.seed_everything(job.config.seed, workers=True, verbose=False)
    net = build_boundary_net(job.config, pretrained=settings.start == "weights")
    if not (folder / "weights.safetensors").exists():
        _write_labels(job, folder / "labels")
        transform = build_train_transform(job.config, net.backbone.mean, net.backbone.std)
        dataset = PhotoDataset(
            job.train,
            transform,
            mask_dir=folder / "labels",
            long_side=transform.read_side,
        )
        _train(job, net, BoundaryObjective(settings.radius), dataset, settings, folder)
    restore(net, folder / "weights.safetensors")
    return _boundary_step(job.config, net)


def _write_scores(job: Job, target: Path) -> None:
    """AffinityNet's refined maps at both powers, without background; those there are stay."""
    device = device_of(job.config.affinity.accelerator)
    for sample in job.train.samples:
        path = target / f"{sample.image_id}.npz"
        if path.exists():
            continue
        cam, classes, photo = load_pair(job, sample)
        maps = {
            name: power_marginals(cam, photo.to(device), power=power)[1:].cpu()
            for name, power in zip(("low", "high"), job.config.affinity.powers, strict=True)
        }
        write_cam(path, maps, classes)


def _write_labels(job: Job, target: Path) -> None:
    """IRNet's labels of the pixels that both background scores agree on; those there are stay."""
    low, high = job.config.irn.bg_scores
    device = device_of(job.config.irn.accelerator)
    for sample in job.train.samples:
        path = target / f"{sample.image_id}.png"
        if path.exists():
            continue
        cam, classes, photo = load_pair(job, sample)
        photo = photo.to(device)
        sure = score_labels(cam, classes, photo, bg_score=high)
        likely = score_labels(cam, classes, photo, bg_score=low)
        labels = torch.from_numpy(merge_labels(sure, likely))
        write_label(path, resize_labels(labels, image_size(sample.image_path)).numpy())


def _train(
    job: Job,
    net: AffinityNet | BoundaryNet,
    objective: nn.Module,
    dataset: PhotoDataset,
    settings: AffinityConfig | IrnConfig,
    folder: Path,
) -> None:
    """Train a network into its folder; one that was interrupted goes on from its last epoch."""
    started = time.monotonic()
    if settings.start == "cam":
        trained = build_model(job.config, job.train.num_classes, pretrained=False)
        restore(trained, job.folder.weights)
        net.backbone.load_state_dict(trained.backbone.state_dict())
    # A folder of other settings was deleted before.
    optimise(job, net, objective, dataset, settings, folder, folder / "metrics.csv", True, [])
    seconds = round(time.monotonic() - started, 1)
    write_text(folder / "training.json", json.dumps({"training_seconds": seconds}) + "\n")
    store(net, folder / "weights.safetensors")


def _affinity_step(config: Config, net: AffinityNet) -> Step:
    settings = config.affinity
    images = _images(net)
    net.to(device_of(settings.accelerator)).eval()

    @torch.inference_mode()
    def step(scores: Tensor, photos: Tensor) -> Tensor:
        padded = pad_to_multiple(images(photos), settings.output_stride)
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


def _boundary_step(config: Config, net: BoundaryNet) -> Step:
    """IRNet's step: it spreads the classes alone, and the background is set anew."""
    settings = config.irn
    images = _images(net)
    net.to(device_of(settings.accelerator)).eval()

    @torch.inference_mode()
    def step(scores: Tensor, photos: Tensor) -> Tensor:
        views = images(photos)
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


def _images(net: AffinityNet | BoundaryNet) -> Callable[[Tensor], Tensor]:
    """From uint8 photos to the backbone's input."""
    transform = build_eval_transform(net.backbone.mean, net.backbone.std)

    def images(photos: Tensor) -> Tensor:
        return torch.stack([transform(photo.cpu(), None)[0] for photo in photos]).to(photos.device)

    return images
