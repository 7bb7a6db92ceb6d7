"""The stages that train the CAM network and make its maps; files of the run folder in and out.

The stages from maps to labels are in ``labelling.py``, that from labels to masks is in
``segmenting.py``, those that measure and report are in ``measuring.py``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from dscnet.build import (
    build_eval_transform,
    build_model,
    build_objective,
    build_train_transform,
    device_of,
    optimiser_settings,
)
from dscnet.config import OptimiserConfig
from dscnet.data import (
    EvalTransform,
    PhotoDataset,
    PhotoSet,
    image_size,
    make_loader,
    read_image,
)
from dscnet.job import Job
from dscnet.labelling import map_name
from dscnet.labels.cam import multi_scale_cam, scaled_photos
from dscnet.labels.cam_files import coarse_maps, write_cam
from dscnet.models import PlainCam
from dscnet.predictor import restore, store
from dscnet.run_folder import fresh_folder, write_text
from dscnet.tag_scoring import tag_criterion, tag_map, tag_matrix
from dscnet.training import CollapseWatch, KeepBest, TrainingModule, fit, tag_entropy

log = logging.getLogger("dscnet")


def train(job: Job, resume: bool) -> None:
    """Train the CAM network on photos and tags."""
    L.seed_everything(job.config.seed, workers=True, verbose=False)
    model = build_model(job.config, job.train.num_classes)
    objective = build_objective(job.config.method, job.train.num_labels)
    learn(job, model, objective, resume)


def learn(
    job: Job,
    model: PlainCam,
    objective: torch.nn.Module,
    resume: bool,
    *,
    mask_dir: Path | None = None,
    saliency_dir: Path | None = None,
) -> None:
    """Train a CAM network into the job's folder; if a choice of weights is set, tags choose."""
    config, folder, backbone = job.config, job.folder, model.backbone
    dataset = PhotoDataset(
        job.train,
        build_train_transform(config.augment, backbone.mean, backbone.std),
        mask_dir=mask_dir,
        saliency_dir=saliency_dir,
    )
    write_card(folder.model_card, job, backbone.mean, backbone.std)
    watch = CollapseWatch("cls", tag_entropy(tag_matrix(job.train)))
    criterion, score = tag_criterion(job)
    best = KeepBest(lambda network: score(job, network)) if config.train.keep == "best" else None
    optimise(
        job,
        model,
        objective,
        dataset,
        config.train,
        folder.checkpoints,
        folder.losses,
        resume,
        [watch, *([] if best is None else [best])],
    )
    chosen: dict[str, Any] = {}
    if best is not None:
        best.restore(model)
        chosen = {"criterion": criterion, "scores": best.scores, "kept_epoch": best.epoch}
    store(model, folder.weights)
    scores = {"collapsed": watch.collapsed, "map": tag_map(job, model), **chosen}
    write_text(folder.tag_scores, json.dumps(scores) + "\n")


def optimise(
    job: Job,
    model: torch.nn.Module,
    objective: torch.nn.Module,
    dataset: PhotoDataset,
    settings: OptimiserConfig,
    checkpoints: Path,
    losses: Path,
    resume: bool,
    callbacks: list[Any],
) -> None:
    """One training by Lightning; a checkpoint of other settings is not resumed."""
    config = job.config
    if not resume:
        (checkpoints / "last.ckpt").unlink(missing_ok=True)
    loader = make_loader(
        dataset,
        batch_size=min(settings.batch_size, len(dataset)),
        seed=config.seed,
        shuffle=True,
        num_workers=config.augment.num_workers,
        drop_last=True,
    )
    total_steps = settings.steps(len(loader))
    module = TrainingModule(
        model,
        objective,
        total_steps=total_steps,
        seed=config.seed,
        **optimiser_settings(settings),
    )
    fit(
        module,
        loader,
        epochs=math.ceil(total_steps / len(loader)),
        folder=checkpoints,
        log_path=losses,
        clip=settings.clip,
        precision=settings.precision,
        accelerator=settings.accelerator,
        # It costs nothing on a CPU, and much on a GPU.
        deterministic=settings.deterministic or device_of(settings.accelerator).type == "cpu",
        resume=resume,
        callbacks=callbacks,
        progress=job.progress,
    )


def write_card(path: Path, job: Job, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """What prediction needs beside weights and settings."""
    photos = job.train
    card = {
        "data": photos.name,
        "classes": list(photos.classes),
        "mean": list(mean),
        "std": list(std),
    }
    write_text(path, json.dumps(card, indent=2) + "\n")


def cam(job: Job, resume: bool) -> None:
    """Write the maps of every training photo: ``cams/ID.npz``."""
    model = build_model(job.config, job.train.num_classes, pretrained=False)
    restore(model, job.folder.weights)
    write_cams(job, model)


def write_cams(job: Job, model: PlainCam) -> None:
    """Write a trained network's maps of every training photo into the job's folder."""
    config, folder = job.config, job.folder
    card = folder.read_card()
    device = device_of(config.train.accelerator)
    model.to(device).eval()
    transform = build_eval_transform(card["mean"], card["std"])
    fresh_folder(folder.cams)
    unstretched = ("refined",) if config.has_rounds and config.auxseg.published_cam_quirk else ()
    # Groups start at random: the same maps whatever ran before in this process.
    torch.manual_seed(config.seed)
    for indices in same_size_batches(job.train, config.cam.batch_size):
        samples = [job.train.samples[index] for index in indices]
        photos = [read_image(sample.image_path) for sample in samples]
        images = torch.stack([transform(photo, None)[0] for photo in photos])
        tags = tag_matrix(job.train)[indices]
        of_scales: list[dict[str, torch.Tensor]] = []
        with torch.inference_mode():
            maps = multi_scale_cam(
                model.score_maps,
                images.to(device),
                tags.to(device),
                scales=config.cam.scales,
                flip=config.cam.flip,
                views=published_views(photos, config.cam.scales, transform, device)
                if config.cam.published_resize_quirk
                else None,
                unstretched=unstretched,
                published_resize=config.cam.published_resize_quirk,
                each_scale=of_scales.append if config.cam.keep_scales else None,
            )
        coarse = [coarse_maps(one[map_name(one)]) for one in of_scales]
        for row, sample in enumerate(samples):
            present = np.asarray(sample.tags or (), dtype=np.int64)
            write_cam(
                folder.cams / f"{sample.image_id}.npz",
                {name: value[row, present].cpu().numpy() for name, value in maps.items()},
                present,
                scales=torch.stack([x[row, present] for x in coarse]).cpu() if coarse else None,
            )


def published_views(
    photos: Sequence[torch.Tensor],
    scales: Sequence[float],
    transform: EvalTransform,
    device: torch.device,
) -> list[torch.Tensor]:
    """Photos ``(3, H, W)`` uint8 of one size, scaled and then normalised: a batch a scale."""
    scaled = [scaled_photos(photo.permute(1, 2, 0).numpy(), scales) for photo in photos]
    return [
        torch.stack(
            [transform(torch.from_numpy(photo).permute(2, 0, 1), None)[0] for photo in view]
        ).to(device)
        for view in zip(*scaled, strict=True)
    ]


def same_size_batches(photos: PhotoSet, batch_size: int) -> Iterator[list[int]]:
    """Indices of photos that share one size, at most ``batch_size`` at once."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, sample in enumerate(photos.samples):
        by_size.setdefault(image_size(sample.image_path), []).append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]
