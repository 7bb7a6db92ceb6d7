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
from typing import Any, NamedTuple

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
from dscnet.context import DualStreamContext, LabelDiscriminant
from dscnet.data import (
    EvalTransform,
    PhotoDataset,
    PhotoSet,
    Sample,
    image_size,
    make_loader,
    read_image,
)
from dscnet.job import Job
from dscnet.labelling import map_name
from dscnet.labels.cam import multi_scale_cam, normalise_scores, scaled_photos
from dscnet.labels.cam_files import coarse_maps, write_cam
from dscnet.labels.thresholds import BINS, otsu_score
from dscnet.models import PlainCam
from dscnet.predictor import restore, store
from dscnet.run_folder import fresh_folder, write_text
from dscnet.tag_scoring import tag_criterion, tag_map, tag_matrix
from dscnet.training import CollapseWatch, KeepBest, TrainingModule, fit, tag_entropy
from dscnet.types import BACKGROUND

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
    fit_discriminant(job, model)
    store(model, folder.weights)
    scores = {"collapsed": watch.collapsed, "map": tag_map(job, model), **chosen}
    write_text(folder.tag_scores, json.dumps(scores) + "\n")


@torch.no_grad()
def fit_discriminant(job: Job, model: PlainCam) -> None:
    """Teach a context with PGCL what each label looks like, by the network's own labels.

    Each training photo is seen once, at its own size. Otsu's threshold on its maps parts the
    classes from background, so that no setting of inference matters here.
    """
    context = model.context
    if not job.config.method.pgcl or not isinstance(context, DualStreamContext):
        return
    learned = LabelDiscriminant(context.num_labels, context.embedding_dim).double()
    # One that an earlier training left would have a say in the labels that this one learns from.
    context.discriminant.load_state_dict(learned.state_dict())
    device = device_of(job.config.train.accelerator)
    model.to(device).eval()
    transform = build_eval_transform(model.backbone.mean, model.backbone.std)
    # Groups start at random: the same ones whether or not the training was resumed.
    torch.manual_seed(job.config.seed)
    for batch in photo_batches(job, transform):
        tags = batch.tags.to(device)
        output = model.one_view(batch.images.to(device), tags)
        maps = output.final_logits if output.cam_refined is None else output.cam_refined
        scores = normalise_scores(maps[:, 1:], tags).flatten(2).cpu()
        assert output.features is not None
        embedded = context.embed(output.features).cpu()
        for photo, embeddings in zip(scores, embedded, strict=True):
            best, strongest = photo.max(0)
            cut = otsu_score(torch.histc(best, BINS, 0, 1).numpy())
            # Maps without contrast, as of a photo without tags, show nothing.
            shown = best > (1.0 if cut is None else cut)
            learned.add(embeddings, torch.where(shown, strongest + 1, BACKGROUND))
    context.discriminant.load_state_dict(learned.state_dict())


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
    for batch in photo_batches(job, transform):
        of_scales: list[dict[str, torch.Tensor]] = []
        with torch.inference_mode():
            maps = multi_scale_cam(
                model.score_maps,
                batch.images.to(device),
                batch.tags.to(device),
                scales=config.cam.scales,
                flip=config.cam.flip,
                views=published_views(batch.photos, config.cam.scales, transform, device)
                if config.cam.published_resize_quirk
                else None,
                unstretched=unstretched,
                published_resize=config.cam.published_resize_quirk,
                each_scale=of_scales.append if config.cam.keep_scales else None,
            )
        coarse = [coarse_maps(one[map_name(one)]) for one in of_scales]
        for row, sample in enumerate(batch.samples):
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


class PhotoBatch(NamedTuple):
    """Training photos of one size, and what a network reads of them."""

    samples: list[Sample]
    photos: list[torch.Tensor]
    """uint8, ``(3, H, W)`` each."""
    images: torch.Tensor
    """Normalised, ``(B, 3, H, W)``."""
    tags: torch.Tensor
    """``(B, C)`` in {0, 1}."""


def photo_batches(job: Job, transform: EvalTransform) -> Iterator[PhotoBatch]:
    """All training photos, whole and unvaried, a few of one size at once."""
    tags = tag_matrix(job.train)
    for indices in same_size_batches(job.train, job.config.cam.batch_size):
        samples = [job.train.samples[index] for index in indices]
        photos = [read_image(sample.image_path) for sample in samples]
        images = torch.stack([transform(photo, None)[0] for photo in photos])
        yield PhotoBatch(samples, photos, images, tags[indices])


def same_size_batches(photos: PhotoSet, batch_size: int) -> Iterator[list[int]]:
    """Indices of photos that share one size, at most ``batch_size`` at once."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, sample in enumerate(photos.samples):
        by_size.setdefault(image_size(sample.image_path), []).append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]
