"""The stages that train the CAM network and make its maps; files of the run folder in and out.

The stages from maps to labels are in ``pipeline/label.py``, that from labels to masks is in
``pipeline/segment.py``, those that measure and report are in ``pipeline/evaluate.py``.
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
    build_scale,
    build_train_transform,
    device_of,
    optimiser_settings,
)
from dscnet.config import OptimiserConfig
from dscnet.context import DualStreamContext, ShrinkageLDA
from dscnet.data import (
    EvalTransform,
    PhotoDataset,
    PhotoSet,
    Sample,
    image_size,
    make_loader,
    read_image,
)
from dscnet.data.scale import PhotoScale, windows
from dscnet.labels.cam import (
    Score,
    multi_scale_cam,
    normalise_scores,
    resize_photos,
    scaled_photo,
)
from dscnet.labels.cam_files import coarse_maps, write_cam
from dscnet.labels.thresholds import BINS, otsu_score
from dscnet.labels.windows import score_windows
from dscnet.models import PlainCam
from dscnet.pipeline.job import Job
from dscnet.pipeline.label import map_name
from dscnet.pipeline.tag_validation import tag_criterion, tag_map, tag_matrix
from dscnet.predictor import restore, store
from dscnet.run_folder import fresh_folder, write_text
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
    transform = build_train_transform(config, backbone.mean, backbone.std)
    dataset = PhotoDataset(
        job.train,
        transform,
        mask_dir=mask_dir,
        saliency_dir=saliency_dir,
        long_side=transform.read_side,
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
    fit_lda(job, model)
    store(model, folder.weights)
    scores = {"collapsed": watch.collapsed, "map": tag_map(job, model), **chosen}
    write_text(folder.tag_scores, json.dumps(scores) + "\n")


@torch.no_grad()
def fit_lda(job: Job, model: PlainCam) -> None:
    """Teach a context with PGCL what each label looks like, by the network's own labels.

    Each training photo is seen once, at scale 1. Otsu's threshold on its maps parts the classes
    from background, so that no other setting of inference matters here.
    """
    context = model.context
    if not job.config.method.pgcl or not isinstance(context, DualStreamContext):
        return
    learned = ShrinkageLDA(context.num_labels, context.embedding_dim).double()
    # One that an earlier training left would have a say in the labels that this one learns from.
    context.lda.load_state_dict(learned.state_dict())
    device = device_of(job.config.train.accelerator)
    model.to(device).eval()
    transform = build_eval_transform(model.backbone.mean, model.backbone.std)
    scale = build_scale(job.config)
    # Groups start at random: the same ones whether or not the training was resumed.
    torch.manual_seed(job.config.seed)
    for batch in photo_batches(job, transform, scales=[1.0]):
        tags = batch.tags.to(device)
        view = batch.views[0].to(device)
        size = (view.shape[-2], view.shape[-1])
        for rows, columns in windows(size, scale.tiles, scale.tile_overlap):
            output = model.one_view(view[..., rows, columns], tags)
            maps = output.final_logits if output.cam_refined is None else output.cam_refined
            scores = normalise_scores(maps[:, 1:], tags).flatten(2).cpu()
            assert output.features is not None
            embedded = context.embed(output.features).cpu()
            for photo, embeddings in zip(scores, embedded, strict=True):
                learned.add(embeddings, _shown_labels(photo))
    context.lda.load_state_dict(learned.state_dict())


def _shown_labels(scores: torch.Tensor) -> torch.Tensor:
    """Labels ``(N,)`` of a photo's cells by its maps ``(C, N)`` and Otsu's threshold."""
    best, strongest = scores.max(0)
    cut = otsu_score(torch.histc(best, BINS, 0, 1).numpy())
    # Maps without contrast, as of a photo without tags, show nothing.
    shown = best > (1.0 if cut is None else cut)
    return torch.where(shown, strongest + 1, BACKGROUND)


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
    for batch in photo_batches(job, transform, scales=config.cam.scales):
        of_scales: list[dict[str, torch.Tensor]] = []
        with torch.inference_mode():
            maps = multi_scale_cam(
                _by_windows(model.score_maps, build_scale(config)),
                None,
                batch.tags.to(device),
                flip=config.cam.flip,
                views=[view.to(device) for view in batch.views],
                size=batch.size,
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


def _by_windows(score: Score, scale: PhotoScale) -> Score:
    """Score photos through the windows that their tiles are."""

    def scored(view: torch.Tensor, tags: torch.Tensor) -> dict[str, torch.Tensor]:
        size = (view.shape[-2], view.shape[-1])
        return score_windows(score, view, tags, windows(size, scale.tiles, scale.tile_overlap))

    return scored


class PhotoBatch(NamedTuple):
    """Training photos that are seen at the same sizes, and what a network reads of them."""

    samples: list[Sample]
    views: list[torch.Tensor]
    """The photos at each scale, normalised, ``(B, 3, *, *)``."""
    tags: torch.Tensor
    """``(B, C)`` in {0, 1}."""
    size: tuple[int, int]
    """Of their maps."""


def photo_batches(
    job: Job, transform: EvalTransform, *, scales: Sequence[float]
) -> Iterator[PhotoBatch]:
    """All training photos, whole and unvaried, a few of one shape at once."""
    tags, cam, scale = tag_matrix(job.train), job.config.cam, build_scale(job.config)
    make = _published_view if cam.published_resize_quirk else _view
    for indices in same_size_batches(job.train, scale, scales, cam.batch_size):
        samples = [job.train.samples[index] for index in indices]
        sizes = [image_size(sample.image_path) for sample in samples]
        photos = [read_image(sample.image_path, scale.read_side(scales)) for sample in samples]
        views = [
            torch.stack(
                [
                    make(photo, scale.view_size(size, one), transform)
                    for photo, size in zip(photos, sizes, strict=True)
                ]
            )
            for one in scales
        ]
        yield PhotoBatch(samples, views, tags[indices], scale.work_size(sizes[0]))


def _view(photo: torch.Tensor, size: tuple[int, int], transform: EvalTransform) -> torch.Tensor:
    """A photo ``(3, H, W)`` uint8 as a network sees it at a size."""
    return resize_photos(transform(photo, None)[0][None], size)[0]


def _published_view(
    photo: torch.Tensor, size: tuple[int, int], transform: EvalTransform
) -> torch.Tensor:
    """The same, scaled in 8 bits and then normalised."""
    scaled = scaled_photo(photo.permute(1, 2, 0).numpy(), size)
    return transform(torch.from_numpy(scaled).permute(2, 0, 1), None)[0]


def same_size_batches(
    photos: PhotoSet, scale: PhotoScale, scales: Sequence[float], batch_size: int
) -> Iterator[list[int]]:
    """Indices of photos that are seen at the same sizes, at most ``batch_size`` at once."""
    by_size: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for index, sample in enumerate(photos.samples):
        size = image_size(sample.image_path)
        seen = (scale.work_size(size), *(scale.view_size(size, one) for one in scales))
        by_size.setdefault(seen, []).append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]
