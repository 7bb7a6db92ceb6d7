"""What a run's maps take on disk: more than all else that it writes, and told before it starts."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from dscnet.config import Config
from dscnet.data import Sample
from dscnet.data.io import image_size
from dscnet.job import Job

log = logging.getLogger("dscnet")

_LOOKED_AT = 200
_NUMBER = np.dtype(np.float16).itemsize


def warn_of_full_disk(job: Job) -> None:
    """Warn if the maps of the training photos outgrow what the run folder's disk has left."""
    needed = bytes_of_maps(job.config, job.train.samples)
    left = shutil.disk_usage(_nearest(job.folder.root.absolute())).free
    if needed > left:
        log.warning(
            "the maps of %d photos take about %.1f GB, and %s has %.1f GB left",
            len(job.train.samples),
            needed / 1e9,
            job.folder.root,
            left / 1e9,
        )


def bytes_of_maps(config: Config, samples: Sequence[Sample]) -> float:
    """About how many bytes the maps of all stages take together, by the size of some photos.

    Args:
        config: Settings; each map has a number a pixel and tag, in half precision.
        samples: Training photos; up to 200 of them are looked at, evenly spread.
    """
    some = samples[:: math.ceil(len(samples) / _LOOKED_AT)]
    numbers = [math.prod(image_size(s.image_path)) * len(s.tags or ()) for s in some]
    return fmean(numbers) * len(samples) * _NUMBER * _maps_a_tag(config)


def _maps_a_tag(config: Config) -> int:
    """Maps that are kept of each photo and tag: raw, refined, after each step of refinement."""
    refines = config.model.name != "cam" or config.method.variant != "baseline"
    count = 1 + refines
    if config.has_rounds:
        # Each round has its own, the first of a plain CAM.
        count += config.auxseg.rounds * count + (config.auxseg.cams is None)
    steps = config.refine.steps
    # AffinityNet learns from two maps of its own.
    return count + len(steps) + 2 * ("affinity" in steps)


def _nearest(place: Path) -> Path:
    """The folder itself, or the one above it that is there."""
    return next(path for path in (place, *place.parents) if path.exists())
