"""The CAMs that labels are made from, and their background threshold."""

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
from dscnet.distributed.ranks import on_first
from dscnet.labels.cam_files import read_cam_file
from dscnet.labels.pseudo_label import resize_map
from dscnet.labels.thresholds import ScoreCounts, suggested_score
from dscnet.pipeline.counts_file import counts_file, counts_mark, read_counts, write_counts
from dscnet.pipeline.job import Job
from dscnet.run_folder import read_record
from dscnet.types import DataError

log = logging.getLogger("dscnet")


def map_name(maps: Container[str]) -> str:
    """Key of the CAM that labels are made from: the refined one if there is one."""
    return "refined" if "refined" in maps else "cam"


FALLBACK = "class_otsu"
"""Criterion of ``auto`` if its own finds no threshold; it needs only the CAMs."""


def maps_needs(config: Config) -> tuple[str, ...]:
    """The stage that makes the CAMs; none for external CAMs."""
    return () if config.label.cams else ("cam",)


def scored_by_saliency(config: Config) -> bool:
    """Whether the background threshold is estimated from saliency maps."""
    return config.label.bg_score == "saliency"


def load_map(folder: Path, image_id: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The CAM that labels are made from, and its classes."""
    maps, classes, _ = read_cam_file(folder / f"{image_id}.npz", lambda names: [map_name(names)])
    return maps[map_name(maps)], classes


def map_folder(job: Job) -> Path:
    """Folder of the CAMs that labels are made from."""
    external = job.config.label.cams
    return Path(external) if external else job.folder.cams


@on_first
def score_counts(
    photos: PhotoSet, cams: Path, *, saliency: bool = False, cache: Path | None = None
) -> ScoreCounts:
    """Statistics of the CAMs of all photos, for the background threshold.

    Args:
        photos: The photos.
        cams: Folder of their CAMs.
        saliency: Whether their saliency maps are counted too.
        cache: File that keeps the statistics until CAMs or saliency maps change; None = none.

    Raises:
        DataError: If a CAM is missing or damaged.
    """
    mark = None if cache is None else counts_mark(photos, cams, saliency=saliency)
    if cache is None or mark is None:
        return _count_scores(photos, cams, saliency)
    counts = read_counts(cache, mark)
    if counts is None:
        counts = _count_scores(photos, cams, saliency)
        write_counts(cache, mark, counts)
    return counts


def _count_scores(photos: PhotoSet, cams: Path, saliency: bool) -> ScoreCounts:
    counts = ScoreCounts()
    for sample in photos.samples:
        maps, classes, scales = read_cam_file(cams / f"{sample.image_id}.npz")
        refined = "refined" in maps and "cam" in maps
        path = sample.saliency_path if saliency else None
        counts.add(
            maps[map_name(maps)],
            classes,
            second=maps["cam"] if refined else None,
            saliency=None if path is None else _saliency_at(path, maps),
            scales=scales,
        )
    return counts


def _saliency_at(path: Path, maps: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """A saliency map at the size of the photo's CAMs."""
    size = maps[map_name(maps)].shape
    return resize_map(read_saliency(path)[0].numpy(), (size[-2], size[-1]))


def job_counts(job: Job) -> ScoreCounts:
    """Statistics of the job's CAMs, with saliency maps if the threshold needs them; kept."""
    saliency, cache = scored_by_saliency(job.config), counts_file(job.folder)
    return score_counts(job.train, map_folder(job), saliency=saliency, cache=cache)


def background_score(job: Job, counts: ScoreCounts | None = None) -> float:
    """The background threshold in use: the setting, or estimated from the CAMs by its criterion.

    Args:
        job: Settings and folder; the threshold recorded by stage ``label`` is used if there is one.
        counts: Statistics of the CAMs, if already computed.

    Raises:
        DataError: If the CAMs do not allow the criterion.
    """
    criterion = job.config.criterion
    if criterion is None:
        return float(job.config.label.bg_score)
    if counts is None and (recorded := _recorded_score(job)) is not None:
        return recorded
    counts = counts or job_counts(job)
    may_fall_back = job.config.label.bg_score == "auto" and criterion != FALLBACK
    if may_fall_back and suggested_score(counts, criterion) is None:
        log.warning("criterion '%s' finds no background threshold: using '%s'", criterion, FALLBACK)
        criterion = FALLBACK
    return estimated_score(counts, criterion, map_folder(job))


def estimated_score(counts: ScoreCounts, criterion: str, cams: Path) -> float:
    """The background threshold that a criterion estimates from CAMs.

    Args:
        counts: Statistics of the CAMs.
        criterion: One of ``CRITERIA``.
        cams: Their folder, for the message.

    Raises:
        DataError: If the CAMs do not allow the criterion.
    """
    score = suggested_score(counts, criterion)
    if score is None:
        raise DataError(
            f"label.bg_score: criterion '{criterion}' cannot estimate a background threshold from"
            f" {cams}: the CAMs are empty, or lack what it compares (refined CAMs, a saliency map"
            " for each photo); choose another criterion or a number"
        )
    log.info("background threshold %s, by criterion '%s' on the CAMs", score, criterion)
    return score


def _recorded_score(job: Job) -> float | None:
    """The threshold that the labels were made with; None if none, or by other settings."""
    label, folder = job.config.label, job.folder
    if folder.fingerprint_of("label") is None or not folder.threshold.exists():
        return None
    record = read_record(folder.threshold)
    made_by = (record.get("setting"), record.get("cams", ""))
    return record["used"] if made_by == (label.bg_score, label.cams) else None


def load_pair(job: Job, sample: Sample) -> tuple[NDArray[Any], NDArray[Any], torch.Tensor]:
    """CAM, its classes and the photo, at the size at which CAMs are refined.

    Raises:
        DataError: If CAM and photo differ in aspect ratio.
    """
    scores, classes = load_work_map(job, map_folder(job), sample)
    return scores, classes, work_photo(job.config, sample.image_path)


def load_work_map(
    job: Job, folder: Path, sample: Sample
) -> tuple[NDArray[np.floating], NDArray[Any]]:
    """CAM of a photo and its classes, at the size at which CAMs are refined.

    Raises:
        DataError: If CAM and photo differ in aspect ratio.
    """
    scores, classes = load_map(folder, sample.image_id)
    check_shape(folder, sample, scores)
    return resize_map(scores, work_size(job.config, sample.image_path)), classes


def work_size(config: Config, path: Path) -> tuple[int, int]:
    """Height and width at which the CAMs of a photo are refined."""
    return build_scale(config).work_size(image_size(path))


def work_photo(config: Config, path: Path) -> torch.Tensor:
    """A photo ``(3, h, w)`` uint8 at the size at which its CAMs are refined."""
    size = work_size(config, path)
    return resize_photo(read_image(path, max(size)), size)


def check_shape(folder: Path, sample: Sample, maps: NDArray[Any]) -> None:
    """Refuse CAMs whose aspect ratio is not that of the photo.

    Raises:
        DataError: With photo and folder.
    """
    size, own = (maps.shape[-2], maps.shape[-1]), image_size(sample.image_path)
    if not same_shape(size, own):
        raise DataError(
            f"{folder}: the CAMs of '{sample.image_id}' are {size}, its photo is {own} (height,"
            " width): compute them again from this photo"
        )


def check_external_files(job: Job, name: str, folder: str | None, ending: str) -> None:
    """Refuse a folder of external CAMs or labels that is missing or incomplete.

    Args:
        job: The run.
        name: Setting of the folder.
        folder: The folder; None = not used.
        ending: Ending of its files.

    Raises:
        DataError: With the setting and the first missing files.
    """
    if folder is None:
        return
    if not Path(folder).is_dir():
        raise DataError(f"{name}: {folder} is not a folder")
    files = (Path(folder) / f"{sample.image_id}{ending}" for sample in job.train.samples)
    if missing := [file.name for file in files if not file.exists()]:
        raise DataError(
            f"{name}: {folder} has no file for {len(missing)} of {len(job.train.samples)}"
            f" training photos ({first_few(missing)}); add them, or remove the setting"
        )
