"""From maps to pseudo labels: stages `refine` and `label`, and the choice of the background score.

Nothing here opens a mask.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Container, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dscnet.build import build_features, build_model, build_scale, device_of
from dscnet.config import Config
from dscnet.data import PhotoSet, Sample, image_size, read_image
from dscnet.data.io import read_saliency
from dscnet.data.scale import same_shape
from dscnet.data.transforms import resize_labels, resize_photo
from dscnet.files.label_images import read_labels, write_label
from dscnet.labels.cam_files import read_cam, read_scales, write_cam
from dscnet.labels.pseudo_label import pseudo_label, resize_map
from dscnet.labels.thresholds import CRITERIA, ScoreCounts, suggested_score
from dscnet.losses.saliency import SALIENT
from dscnet.pipeline.job import Job
from dscnet.predictor import restore
from dscnet.refine.mask_files import ExternalMasks
from dscnet.refine.mask_proposals import Mask
from dscnet.refine.steps import (
    LEARNED,
    Step,
    label_probabilities,
    label_scores,
    probable_label,
    refine_labels,
    refinement_steps,
)
from dscnet.run_folder import fresh_folder, read_record, write_text
from dscnet.types import BACKGROUND, DataError

log = logging.getLogger("dscnet")


def map_name(maps: Container[str]) -> str:
    """Name of the map that labels are made from: the refined CAM where there is one."""
    return "refined" if "refined" in maps else "cam"


FALLBACK = "class_otsu"
"""What ``auto`` asks where its criterion finds nothing: it needs the maps alone."""


def load_map(folder: Path, image_id: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The map that labels are made from, with its classes."""
    maps, classes = read_cam(folder / f"{image_id}.npz")
    return maps[map_name(maps)], classes


def map_folder(job: Job) -> Path:
    """Where the maps lie that labels are made from."""
    elsewhere = job.config.label.cams
    return Path(elsewhere) if elsewhere else job.folder.cams


def score_counts(photos: PhotoSet, cams: Path, *, saliency: bool = False) -> ScoreCounts:
    """What the criteria for the background score read: counts over the maps of all photos."""
    counts = ScoreCounts()
    for sample in photos.samples:
        file = cams / f"{sample.image_id}.npz"
        maps, classes = read_cam(file)
        refined = "refined" in maps and "cam" in maps
        path = sample.saliency_path if saliency else None
        counts.add(
            maps[map_name(maps)],
            classes,
            second=maps["cam"] if refined else None,
            saliency=None if path is None else _saliency_at(path, maps),
            scales=read_scales(file),
        )
    return counts


def _saliency_at(path: Path, maps: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """A saliency map at the size of a photo's maps."""
    size = maps[map_name(maps)].shape
    return resize_map(read_saliency(path)[0].numpy(), (size[-2], size[-1]))


def job_counts(job: Job) -> ScoreCounts:
    """Counts over the job's maps; of saliency maps only where they choose the score."""
    by_saliency = job.config.label.bg_score == "saliency"
    return score_counts(job.train, map_folder(job), saliency=by_saliency)


def background_score(job: Job, counts: ScoreCounts | None = None) -> float:
    """The background score in use: the setting, or what its criterion reads off the maps.

    Args:
        job: Settings, and where the maps lie. Once they are labelled the score is on record.
        counts: Those of the maps, where they were counted already.

    Raises:
        DataError: If the maps do not allow the criterion.
    """
    criterion = job.config.criterion
    if criterion is None:
        return float(job.config.label.bg_score)
    if counts is None and (recorded := _recorded_score(job)) is not None:
        return recorded
    counts = counts or job_counts(job)
    score = suggested_score(counts, criterion)
    if score is None and job.config.label.bg_score == "auto" and criterion != FALLBACK:
        log.warning("criterion '%s' finds no background score: '%s' is asked", criterion, FALLBACK)
        criterion = FALLBACK
        score = suggested_score(counts, criterion)
    if score is None:
        raise DataError(
            f"label.bg_score: criterion '{criterion}' finds no background score in"
            f" {map_folder(job)}: its maps are empty, or lack what it compares them with (a refined"
            " map, a saliency map a photo); choose another criterion or a number"
        )
    log.info("background score %s, by criterion '%s' on the maps", score, criterion)
    return score


def _recorded_score(job: Job) -> float | None:
    """The score that the labels were made by, if by these settings; None before they are."""
    label, folder = job.config.label, job.folder
    if folder.fingerprint_of("label") is None or not folder.threshold.exists():
        return None
    record = read_record(folder.threshold)
    made_by = (record.get("setting"), record.get("cams", ""))
    return record["used"] if made_by == (label.bg_score, label.cams) else None


def refine(job: Job, learned: Mapping[str, Step] | None = None) -> None:
    """Write label probabilities after each refinement step: ``refined/ID.npz``, a map a step.

    And the labels before it, ``refined/before/ID.png``, to compare with.

    Args:
        job: Settings, photos, and where the maps lie.
        learned: The steps that have a trained network.
    """
    config, folder = job.config, job.folder
    steps_of = photo_steps(job, learned)
    shutil.rmtree(folder.refined, ignore_errors=True)
    folder.refinement.unlink(missing_ok=True)
    if not config.refine.steps:
        log.info("no refinement steps are set (--refine.steps '[pamr]')")
        return
    bg_score = background_score(job)
    device = device_of(config.train.accelerator)
    seconds: dict[str, float] = {name: 0.0 for name in config.refine.steps}
    for sample in job.train.samples:
        scores, classes, photo = load_pair(job, sample)
        start = refinement_start(config, scores, bg_score).to(device)
        maps = {}
        started = time.monotonic()
        for name, refined in refine_labels(start, photo.to(device), steps_of(sample)):
            maps[name] = refined[1:].clamp(0, 1).cpu()
            seconds[name] += time.monotonic() - started
            started = time.monotonic()
        write_cam(folder.refined / f"{sample.image_id}.npz", maps, classes)
        before = pseudo_label(
            scores, classes, bg_score=bg_score, size=image_size(sample.image_path)
        )
        write_label(folder.unrefined / f"{sample.image_id}.png", before)
    write_text(folder.refinement, json.dumps(seconds) + "\n")


def photo_steps(
    job: Job, learned: Mapping[str, Step] | None = None
) -> Callable[[Sample], dict[str, Step]]:
    """What gives the refinement steps of a photo; networks and masks are opened once, here.

    Args:
        job: Settings, photos, and where the trained backbone lies.
        learned: The steps that have a trained network.
    """
    settings = job.config.refine
    features, masks = walk_features(job), open_masks(job)

    def masks_at(sample: Sample) -> Iterator[Mask]:
        assert masks is not None
        size = work_size(job.config, sample.image_path)
        for mask in masks.read(sample.image_id, image_size(sample.image_path)):
            yield resize_labels(torch.from_numpy(mask), size).numpy()

    def steps_of(sample: Sample) -> dict[str, Step]:
        return refinement_steps(
            settings.steps,
            features,
            None if masks is None else partial(masks_at, sample),
            mask_overlap=settings.mask_overlap,
            learned=learned,
        )

    return steps_of


def open_masks(job: Job) -> ExternalMasks | None:
    """The masks made elsewhere, none of another size than its photo; None where no step reads them.

    Raises:
        DataError: If there are none, or the masks of a tagged photo cannot be used.
    """
    settings = job.config.refine
    if "masks" not in settings.steps or settings.masks is None:
        return None
    masks = ExternalMasks(settings.masks)
    for sample in job.train.samples:
        if sample.tags:
            masks.check(sample.image_id, image_size(sample.image_path))
    return masks


def load_pair(job: Job, sample: Sample) -> tuple[NDArray[Any], NDArray[Any], torch.Tensor]:
    """Map, its classes and the photo, at the size that maps are refined at.

    Raises:
        DataError: If map and photo differ in shape.
    """
    scores, classes = load_work_map(job, map_folder(job), sample)
    return scores, classes, work_photo(job.config, sample.image_path)


def load_work_map(
    job: Job, folder: Path, sample: Sample
) -> tuple[NDArray[np.floating], NDArray[Any]]:
    """Map of a photo and its classes, at the size that maps are refined at.

    Raises:
        DataError: If map and photo differ in shape.
    """
    scores, classes = load_map(folder, sample.image_id)
    check_shape(folder, sample, scores)
    return resize_map(scores, work_size(job.config, sample.image_path)), classes


def work_size(config: Config, path: Path) -> tuple[int, int]:
    """Height and width at which the maps of a photo are refined."""
    return build_scale(config).work_size(image_size(path))


def work_photo(config: Config, path: Path) -> torch.Tensor:
    """A photo ``(3, h, w)`` uint8 at the size that its maps are refined at."""
    size = work_size(config, path)
    return resize_photo(read_image(path, max(size)), size)


def check_shape(folder: Path, sample: Sample, maps: NDArray[Any]) -> None:
    """Refuse maps that are those of another photo, by the proportion of their sides.

    Raises:
        DataError: The message names photo and folder.
    """
    size, own = (maps.shape[-2], maps.shape[-1]), image_size(sample.image_path)
    if not same_shape(size, own):
        raise DataError(
            f"{folder}: the maps of '{sample.image_id}' are {size}, its photo is {own} (height,"
            " width): make them anew, of that photo"
        )


def refinement_start(config: Config, scores: NDArray[Any], bg_score: float) -> torch.Tensor:
    """What the first step gets: labels trusted in part, or scores where it is a learned walk."""
    settings = config.refine
    background: dict[str, Any] = {"bg_score": bg_score, "bg_power": settings.bg_power}
    if settings.steps and settings.steps[0] in LEARNED:
        return label_scores(scores, **background)
    return label_probabilities(scores, **background, certainty=settings.certainty)


def walk_features(job: Job) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The trained backbone's features of photos; None where no random walk needs them."""
    config = job.config
    if "walk" not in config.refine.steps:
        return None
    model = build_model(config, job.train.num_classes, pretrained=False)
    restore(model, job.folder.weights)
    model.to(device_of(config.train.accelerator)).eval()
    card = job.folder.read_card()
    return build_features(config, model, card["mean"], card["std"])


def label(job: Job, resume: bool) -> None:
    """Write the pseudo label of every training photo: ``labels/ID.png``.

    Beside the background score in use it notes those that the maps themselves suggest.
    """
    settings, folder = job.config.label, job.folder
    counts = job_counts(job)
    bg_score = background_score(job, counts)
    band = (
        None if settings.ignore_band is None else (settings.ignore_band[0], settings.ignore_band[1])
    )
    fresh_folder(folder.labels)
    last = folder.round(job.config.auxseg.rounds)
    for sample in job.train.samples:
        size = image_size(sample.image_path)
        if job.config.keeps_labels:
            labels = read_labels(last.labels / f"{sample.image_id}.png")
        elif job.config.refine.steps:
            labels = refined_labels(folder.refined, sample.image_id, size)[-1]
        else:
            scores, classes = load_map(map_folder(job), sample.image_id)
            check_shape(map_folder(job), sample, scores)
            labels = pseudo_label(scores, classes, bg_score=bg_score, ignore_band=band, size=size)
        if settings.salient_only:
            saliency = read_saliency(last.saliency / f"{sample.image_id}.png")[0].numpy()
            stuff = np.isin(labels, [index + 1 for index in job.stuff])
            labels[(saliency <= SALIENT) & ~stuff] = BACKGROUND
        write_label(folder.labels / f"{sample.image_id}.png", labels)
    suggested = {name: suggested_score(counts, name) for name in CRITERIA if name != "saliency"}
    record = {**suggested, "used": bg_score, "setting": settings.bg_score, "cams": settings.cams}
    write_text(folder.threshold, json.dumps(record) + "\n")
    log.info("background score %s; the maps suggest %s", bg_score, suggested)


def refined_labels(folder: Path, image_id: str, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Labels of a photo after each refinement step, at the photo's height and width."""
    maps, classes = read_cam(folder / f"{image_id}.npz")
    return [probable_label(foreground, classes, size) for foreground in maps.values()]
