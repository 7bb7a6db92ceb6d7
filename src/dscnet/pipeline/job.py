"""What every stage gets, and where its files lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from dscnet.config import Config
from dscnet.data import PhotoSet
from dscnet.models.weights import names_file
from dscnet.run_folder import RunFolder, file_mark, fingerprint


@dataclass
class Job:
    """Settings, folder and photos of a run; ``val`` is None without validation photos.

    ``planned`` holds the fingerprints of stages that are about to run; ``data_marks`` is a cache.
    """

    config: Config
    folder: RunFolder
    train: PhotoSet
    val: PhotoSet | None
    progress: bool = True
    planned: Mapping[str, str] = field(default_factory=dict)
    data_marks: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def mark_of(self, stage: str) -> str | None:
        """Fingerprint of an earlier stage: the planned one, or that which it finished with."""
        return self.planned.get(stage) or self.folder.fingerprint_of(stage)

    @property
    def stuff(self) -> list[int]:
        """Those of the classes that ``auxseg.stuff`` names, 0-based, foreground only."""
        names = self.config.auxseg.stuff
        return [index for index, name in enumerate(self.train.classes) if name in names]


_PLACES = ("data", "label.cams", "segment.labels", "auxseg.cams", "refine.masks")
_FILES_OR_NAMES = ("model.weights", "segment.weights")


def located(config: Config) -> Config:
    """The same settings with absolute places, for a run is resumed from wherever one stands."""
    config = deepcopy(config)
    for name in (*_PLACES, *_FILES_OR_NAMES):
        section, _, key = name.rpartition(".")
        owner = getattr(config, section) if section else config
        value = getattr(owner, key)
        if value and (name in _PLACES or names_file(value)):
            setattr(owner, key, os.path.abspath(value))
    return config


def data_marks(job: Job, *, masks: bool, saliency: bool) -> dict[str, str]:
    """Fingerprints of the training and validation photos, taken once per job."""
    marks = {}
    for name, photos in (("train", job.train), ("val", job.val)):
        key = (id(photos), masks, saliency)
        if key not in job.data_marks:
            mark = data_fingerprint(photos, masks=masks, saliency=saliency)
            # With the photos, so that no others can get their id.
            job.data_marks[key] = (photos, mark)
        marks[name] = job.data_marks[key][1]
    return marks


def data_fingerprint(
    photos: PhotoSet | None, *, masks: bool = False, saliency: bool = False
) -> str:
    """Names, tags and files of a photo set, not where it lies; its other files only where asked."""
    if photos is None:
        return ""
    rows = []
    for sample in photos.samples:
        files = [
            sample.image_path,
            sample.mask_path if masks else None,
            sample.saliency_path if saliency else None,
        ]
        marks = [file_mark(file) for file in files if file is not None]
        rows.append([sample.image_id, sample.tags, marks])
    return fingerprint(photos.classes, rows)
