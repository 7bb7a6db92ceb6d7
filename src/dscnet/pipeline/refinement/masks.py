"""Step ``masks``: merges masks of a class-agnostic segmenter into the labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dscnet.config import Config
from dscnet.data import Sample, image_size
from dscnet.data.tag_files import first_few
from dscnet.data.transforms import resize_labels
from dscnet.files.marks import file_mark
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import work_size
from dscnet.refine.mask_files import ExternalMasks
from dscnet.refine.mask_proposals import Mask, merge_masks
from dscnet.refine.steps import RefinementStep, Step
from dscnet.types import DataError

log = logging.getLogger("dscnet")


def check_mask_settings(job: Job) -> None:
    """Refuse a step ``masks`` without masks; log photos without masks, which are not refined.

    Raises:
        ValueError: If a setting of the step is missing or out of range.
        DataError: If no tagged training photo has masks.
    """
    refine = job.config.refine
    if refine.masks is None:
        raise ValueError("refine.steps: step 'masks' needs refine.masks, a folder or a JSON file")
    if not 0 < refine.mask_overlap <= 1:
        raise ValueError(f"refine.mask_overlap must be in (0, 1], got {refine.mask_overlap}")
    masks = ExternalMasks(refine.masks)
    tagged = [sample.image_id for sample in job.train.samples if sample.tags]
    missing = [image_id for image_id in tagged if image_id not in masks]
    if missing and len(missing) == len(tagged):
        raise DataError(
            f"{refine.masks}: has no masks of any of the {len(tagged)} tagged training photos;"
            f" expected, for '{missing[0]}' and the others, PNGs in a folder ID/, an index map"
            " ID.png, or COCO run lengths: ID.json or one JSON file that names the photos"
        )
    if missing:
        log.warning(
            "%s: %d of %d tagged training photos have no masks and keep their labels: %s",
            refine.masks,
            len(missing),
            len(tagged),
            first_few(missing),
        )


def open_masks(job: Job) -> ExternalMasks:
    """Open the external masks and check that they have the size of their photos.

    Raises:
        DataError: If there are none, or those of a tagged photo are invalid.
    """
    assert job.config.refine.masks is not None
    masks = ExternalMasks(job.config.refine.masks)
    for sample in job.train.samples:
        if sample.tags:
            masks.check(sample.image_id, image_size(sample.image_path))
    return masks


def _check_photos(job: Job) -> None:
    open_masks(job)


def _open(job: Job) -> Callable[[Sample], Step]:
    masks, overlap = open_masks(job), job.config.refine.mask_overlap

    def masks_of(sample: Sample) -> Iterator[Mask]:
        size = work_size(job.config, sample.image_path)
        for mask in masks.read(sample.image_id, image_size(sample.image_path)):
            yield resize_labels(torch.from_numpy(mask), size).numpy()

    def step_of(sample: Sample) -> Step:
        def step(probabilities: Tensor, photos: Tensor) -> Tensor:
            return merge_masks(probabilities[0], masks_of(sample), overlap=overlap)[None]

        return step

    return step_of


def _settings(config: Config) -> dict[str, Any]:
    """Names and fingerprints of the mask files."""
    if config.refine.masks is None:
        return {}
    root = Path(config.refine.masks)
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    marks = [(str(f.relative_to(root)), file_mark(f)) for f in files if f.is_file()]
    return {"files of refine.masks": marks}


STEP = RefinementStep(
    "masks", _open, settings=_settings, check=check_mask_settings, check_photos=_check_photos
)
