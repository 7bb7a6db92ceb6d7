"""Validates all photos before anything is trained."""

from __future__ import annotations

import logging

from dscnet.build import build_scale
from dscnet.data import PhotoSet, available_splits, check_dataset
from dscnet.data.overlap import compare_splits
from dscnet.data.small_objects import small_object_notes
from dscnet.data.split_lists import missing_split_notes
from dscnet.pipeline.job import Job
from dscnet.refine.steps import find_steps
from dscnet.types import DataError

log = logging.getLogger("dscnet")

ALL_OPENED = 20_000
"""Up to this many photos of a split are all opened before a training."""

OPENED_PHOTOS = 1000
"""Number of photos to open of a larger split; reading reports the others."""


def check_photos(job: Job) -> None:
    """Reject photos that training or labelling cannot use, listing all of them.

    Of very many photos, evenly spaced ones are opened.
    """
    config = job.config
    stride = config.model.output_stride
    report = check_dataset(
        job.train,
        min_size=stride,
        need_saliency=config.needs_saliency,
        opened=_opened(job.train),
    )
    if job.val is None:
        report.info += missing_split_notes(
            job.train.name, config.val_split, available_splits(config.data)
        )
    else:
        report.add(check_dataset(job.val, min_size=stride, opened=_opened(job.val)))
        compare_splits(job.train, job.val, report)
    for line in (*report.info, *report.warnings):
        log.info("data: %s", line)
    if not report.ok:
        raise DataError("the data set has errors:\n  " + "\n  ".join(report.errors))
    for line in size_notes(job):
        log.info("data: %s", line)
    for step in find_steps(config.refine.steps):
        step.check_photos(job)


def size_notes(job: Job) -> list[str]:
    """Notes on classes whose objects are too small for the network at its input size."""
    return small_object_notes(job.train, build_scale(job.config), job.config.model.output_stride)


def _opened(photos: PhotoSet) -> int:
    count = len(photos.samples)
    return count if count <= ALL_OPENED else OPENED_PHOTOS
