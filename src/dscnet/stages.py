"""What each stage does; files of the run folder in, files of the run folder out.

The stages from maps to labels are in ``labelling.py``, that from labels to masks is in
``segmenting.py``.
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
from numpy.typing import NDArray

from dscnet import evaluation
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
    read_mask,
)
from dscnet.job import Job
from dscnet.labelling import background_score, load_map, map_name, refined_labels
from dscnet.labels.cam import multi_scale_cam, scaled_photos
from dscnet.labels.cam_files import coarse_maps, write_cam
from dscnet.labels.pseudo_label import read_label
from dscnet.models import PlainCam
from dscnet.predictor import restore, store
from dscnet.run_folder import fresh_folder, write_text
from dscnet.run_report import write_run_report
from dscnet.tag_agreement import tag_agreement
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


def measure(job: Job) -> dict[str, Any]:
    """Measure every stage against the true masks, where the data set has them.

    Returns:
        Sections of ``metrics.json``.
    """
    config, folder = job.config, job.folder
    classes = job.train.classes
    train_masks = truth(job.train)
    val_masks = truth(job.val)
    sections: dict[str, Any] = {
        "cam": None,
        "pseudo_label": None,
        "segmenter": None,
        "tags": {"map": None},
        "supervision": config.supervision,
    }
    measured = train_masks and (folder.fingerprint_of("cam") or folder.fingerprint_of("label"))
    bg_score = background_score(job) if measured else None
    if train_masks and bg_score is not None and folder.fingerprint_of("cam"):
        items = (
            (*load_map(folder.cams, image_id), read_mask(path).numpy())
            for image_id, path in train_masks
        )
        sections["cam"] = evaluation.evaluate_cams(
            items, classes, split=config.train_split, bg_score=bg_score
        )
    if train_masks and folder.fingerprint_of("label"):
        pairs = label_pairs(folder.labels, train_masks)
        sections["pseudo_label"] = evaluation.evaluate_pairs(
            pairs, classes, split=config.train_split, bg_score=bg_score
        )
    if train_masks and config.refine.steps and folder.fingerprint_of("refine"):
        sections["refine"] = refinement_section(job, train_masks)
    if val_masks and folder.fingerprint_of("segment"):
        pairs = label_pairs(folder.masks, val_masks)
        sections["segmenter"] = evaluation.evaluate_pairs(pairs, classes, split=config.val_split)
    if job.val is not None and folder.fingerprint_of("segment"):
        masks = (
            (folder.masks / f"{sample.image_id}.png", sample.tags) for sample in job.val.samples
        )
        sections["tags"] |= tag_agreement(
            # A photo that could not be read has no mask.
            (read_label(path), tags)
            for path, tags in masks
            if tags is not None and path.exists()
        )
    if folder.fingerprint_of("train"):
        sections["tags"]["map"] = json.loads(folder.tag_scores.read_text())["map"]
    return sections


def refinement_section(job: Job, masks: list[tuple[str, Path]]) -> dict[str, Any]:
    """Measure the labels before refinement and after each step: mIoU and times."""
    folder, classes = job.folder, job.train.classes
    before = evaluation.evaluate_pairs(label_pairs(folder.unrefined, masks), classes, split=None)
    seconds = json.loads(folder.refinement.read_text())
    steps = []
    for index, (name, spent) in enumerate(seconds.items()):
        pairs = (
            (refined_labels(folder.refined, image_id)[index], read_mask(path).numpy())
            for image_id, path in masks
        )
        after = evaluation.evaluate_pairs(pairs, classes, split=None)
        step = {"step": name, "seconds": round(spent, 2), "miou": after["miou"]}
        training = folder.learned / name / "training.json"
        if training.exists():
            step |= json.loads(training.read_text())
        steps.append(step)
    return {"miou_before": before["miou"], "steps": steps}


def truth(photos: PhotoSet | None) -> list[tuple[str, Path]]:
    """Ids and true masks of the photos that have one."""
    if photos is None:
        return []
    return [
        (sample.image_id, sample.mask_path)
        for sample in photos.samples
        if sample.mask_path is not None
    ]


def label_pairs(
    folder: Path, masks: list[tuple[str, Path]]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Written labels beside the true masks."""
    for image_id, path in masks:
        yield read_label(folder / f"{image_id}.png"), read_mask(path).numpy()


def report(job: Job, resume: bool) -> None:
    """Write ``report.html``."""
    write_run_report(job.config, job.folder, job.train, job.val)
