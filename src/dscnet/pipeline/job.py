"""The job that all stages share: settings, run folder and photos."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dscnet.config import Config
from dscnet.data import PhotoSet
from dscnet.files.marks import file_mark
from dscnet.models.weights import names_file
from dscnet.run_folder import RunFolder, fingerprint


@dataclass
class Job:
    """Settings, folder and photos of a run; ``val`` is None without validation photos.

    ``planned`` has the fingerprints of stages that are about to run; ``data_marks`` is a cache.
    ``trained_photos`` counts the photos of all batches, in all rounds. Trainings are profiled into
    the folder ``profile``, unless it is None.
    """

    config: Config
    folder: RunFolder
    train: PhotoSet
    val: PhotoSet | None
    progress: bool = True
    planned: Mapping[str, str] = field(default_factory=dict)
    data_marks: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    trained_photos: Counter[str] = field(default_factory=Counter, compare=False, repr=False)
    profile: Path | None = None

    def mark_of(self, stage: str) -> str | None:
        """Fingerprint of an earlier stage: the planned one, else that of its last run."""
        return self.planned.get(stage) or self.folder.fingerprint_of(stage)

    @property
    def stuff(self) -> list[int]:
        """Indices of the classes in ``auxseg.stuff``, 0-based, foreground only."""
        names = self.config.auxseg.stuff
        return [index for index, name in enumerate(self.train.classes) if name in names]


_PATHS = ("data", "label.cams", "segment.labels", "auxseg.cams", "refine.masks")
_PATHS_OR_NAMES = ("model.weights", "segment.weights")


def with_absolute_paths(config: Config) -> Config:
    """Settings with absolute paths, so that a run can be resumed from any working directory."""
    config = deepcopy(config)
    for name in (*_PATHS, *_PATHS_OR_NAMES):
        section, _, key = name.rpartition(".")
        owner = getattr(config, section) if section else config
        value = getattr(owner, key)
        if value and (name in _PATHS or names_file(value)):
            setattr(owner, key, os.path.abspath(value))
    return config


def data_mark(job: Job, split: str, *, masks: bool = False, saliency: bool = False) -> str:
    """Fingerprint of the photos of a split, ``train`` or ``val``, computed once per job."""
    photos = job.train if split == "train" else job.val
    key = (id(photos), masks, saliency)
    if key not in job.data_marks:
        mark = data_fingerprint(photos, masks=masks, saliency=saliency)
        # Keeps the photos alive, so that their id is not reused.
        job.data_marks[key] = (photos, mark)
    return str(job.data_marks[key][1])


def data_fingerprint(
    photos: PhotoSet | None, *, masks: bool = False, saliency: bool = False
) -> str:
    """Fingerprint of ids, tags and files of a photo set, regardless of its location."""
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
