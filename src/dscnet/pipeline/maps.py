"""The CAMs that labels are made from: which, at what size, and the background threshold."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dscnet.build import build_scale
from dscnet.config import Config
from dscnet.data import PhotoSet, Sample, image_size, read_image
from dscnet.data.io import read_saliency
from dscnet.data.scale import same_shape
from dscnet.data.tag_files import first_few
from dscnet.data.transforms import resize_photo
from dscnet.labels.cam_files import read_cam, read_scales
from dscnet.labels.pseudo_label import resize_map
from dscnet.labels.thresholds import ScoreCounts, suggested_score
from dscnet.pipeline.job import Job
from dscnet.run_folder import read_record
from dscnet.types import DataError

log = logging.getLogger("dscnet")


def map_name(maps: Container[str]) -> str:
    """Name of the map that labels are made from: the refined CAM where there is one."""
    return "refined" if "refined" in maps else "cam"


FALLBACK = "class_otsu"
"""What ``auto`` asks where its criterion finds nothing: it needs the maps alone."""


def maps_needs(config: Config) -> tuple[str, ...]:
    """The stage that makes the CAMs, unless they come from elsewhere."""
    return () if config.label.cams else ("cam",)


def scored_by_saliency(config: Config) -> bool:
    """Whether the background threshold is estimated from saliency maps."""
    return config.label.bg_score == "saliency"


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
    return score_counts(job.train, map_folder(job), saliency=scored_by_saliency(job.config))


def background_score(job: Job, counts: ScoreCounts | None = None) -> float:
    """The background threshold in use: the setting, or estimated from the CAMs by its criterion.

    Args:
        job: Settings, and where the CAMs lie. Once they are labelled the threshold is on record.
        counts: Those of the CAMs, where they were counted already.

    Raises:
        DataError: If the CAMs do not allow the criterion.
    """
    criterion = job.config.criterion
    if criterion is None:
        return float(job.config.label.bg_score)
    if counts is None and (recorded := _recorded_score(job)) is not None:
        return recorded
    counts = counts or job_counts(job)
    if job.config.label.bg_score == "auto" and suggested_score(counts, criterion) is None:
        log.warning("criterion '%s' finds no background threshold: using '%s'", criterion, FALLBACK)
        criterion = FALLBACK
    return estimated_score(counts, criterion, map_folder(job))


def estimated_score(counts: ScoreCounts, criterion: str, cams: Path) -> float:
    """The background threshold that a criterion estimates from CAMs.

    Args:
        counts: Those of the CAMs.
        criterion: One of ``CRITERIA``.
        cams: Their folder, for the message.

    Raises:
        DataError: If the CAMs do not allow the criterion.
    """
    score = suggested_score(counts, criterion)
    if score is None:
        raise DataError(
            f"label.bg_score: criterion '{criterion}' finds no background score in {cams}: its"
            " maps are empty, or lack what it compares them with (a refined map, a saliency map a"
            " photo); choose another criterion or a number"
        )
    log.info("background threshold %s, by criterion '%s' on the CAMs", score, criterion)
    return score


def _recorded_score(job: Job) -> float | None:
    """The score that the labels were made by, if by these settings; None before they are."""
    label, folder = job.config.label, job.folder
    if folder.fingerprint_of("label") is None or not folder.threshold.exists():
        return None
    record = read_record(folder.threshold)
    made_by = (record.get("setting"), record.get("cams", ""))
    return record["used"] if made_by == (label.bg_score, label.cams) else None


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


def check_made_elsewhere(job: Job, name: str, folder: str | None, ending: str) -> None:
    """Refuse a folder of CAMs or labels that is not there, or lacks those of a photo.

    Args:
        job: The run.
        name: The setting that names the folder.
        folder: The folder; None = not in use.
        ending: Of its files.

    Raises:
        DataError: The message names the setting and the first files that are missing.
    """
    if folder is None:
        return
    if not Path(folder).is_dir():
        raise DataError(f"{name}: {folder} is no folder")
    files = (Path(folder) / f"{sample.image_id}{ending}" for sample in job.train.samples)
    if missing := [file.name for file in files if not file.exists()]:
        raise DataError(
            f"{name}: {folder} has no file for {len(missing)} of {len(job.train.samples)}"
            f" training photos ({first_few(missing)}); make them, or leave the setting alone"
        )
