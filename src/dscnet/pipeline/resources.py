"""Resources that a run needs: memory, disk and time, checked before it starts."""

from __future__ import annotations

import heapq
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from dscnet.build import build_scale, device_of
from dscnet.config import Config
from dscnet.data import Sample, image_size
from dscnet.data.datasets import some_samples
from dscnet.data.scale import Size
from dscnet.pipeline.check_photos import size_notes
from dscnet.pipeline.job import Job
from dscnet.pipeline.memory_use import free_memory, memory_in_use
from dscnet.pipeline.registry import list_stages
from dscnet.pipeline.stage_trials import StageNeed, try_stages
from dscnet.types import DscnetError

log = logging.getLogger("dscnet")

FEW_STEPS = 50
"""Trainings with fewer steps are not tried first."""

LARGE_VIEW = 6_000_000
"""Inference batches of the CAM network with more pixels than this are always tried first."""

SIZED_PHOTOS = 2000
"""Of more photos than this, only some sizes are read."""

LARGEST_FILES = 40
"""Number of the largest files among those; few, so that the mean stays that of the photos."""

_NUMBER = np.dtype(np.float16).itemsize


@dataclass(frozen=True)
class Needs:
    """Needs of a run: of each stage, disk in bytes, and memory in use before it starts in bytes."""

    stages: tuple[StageNeed, ...]
    disk: float
    base: float = 0.0

    @property
    def largest(self) -> StageNeed:
        """The stage that needs the most memory."""
        return max(self.stages, key=lambda stage: stage.memory)

    def text(self) -> str:
        """A one-line summary."""
        minutes = sum(stage.seconds for stage in self.stages) / 60
        gigabytes = (self.base + self.largest.memory) / 1e9
        # Not known on every system.
        known = self.largest.memory > 0
        memory = f"{gigabytes:.1f} GB of memory (stage '{self.largest.stage}'), " * known
        return (
            f"a run needs about {memory}{self.disk / 1e9:.1f} GB of disk and"
            f" {max(1, math.ceil(minutes))} minutes here"
        )


def needs_of(job: Job) -> str:
    """Notes on objects that are too small, and the needs of a run, one line each.

    Raises:
        ValueError: If a training would stop before its first step.
        DscnetError: Likewise, and as for :func:`check_fits`.
    """
    for stage in list_stages():
        stage.check_training(job)
    needs = measure_needs(job)
    check_fits(job, needs)
    return "\n".join([*size_notes(job), needs.text()])


def measure_needs(job: Job, sizes: Sequence[Size] | None = None) -> Needs:
    """Try a step of each stage, and estimate the size of the files.

    Args:
        job: The run.
        sizes: Sizes of its photos, if known.
    """
    sizes = _sizes(job) if sizes is None else sizes
    base = memory_in_use(device_of(job.config.train.accelerator))
    return Needs(try_stages(job, sizes), _disk(job, sizes), base)


def check_machine(job: Job) -> None:
    """Log what a run needs; reject it if the machine does not have that.

    Short trainings on photos of ordinary size are not tried first: they take about as long as the
    trial.

    Raises:
        DscnetError: As for :func:`check_fits`.
    """
    sizes = _sizes(job)
    check_disk_space(job, _disk(job, sizes))
    train, photos = job.config.train, len(job.train.samples)
    steps = train.steps(photos // min(train.batch_size, photos))
    if steps >= FEW_STEPS or _largest_view(job, sizes) > LARGE_VIEW:
        needs = measure_needs(job, sizes)
        log.info("%s", needs.text())
        check_fits(job, needs)


def check_fits(job: Job, needs: Needs) -> None:
    """Reject a run that needs more memory or disk than is free.

    Raises:
        DscnetError: With the resource and the setting that lowers its use.
    """
    largest, free = needs.largest, free_memory(device_of(job.config.train.accelerator))
    if free is not None and largest.memory > free:
        raise DscnetError(
            f"stage '{largest.stage}' needs about {largest.memory / 1e9:.1f} GB of memory, but"
            f" {free / 1e9:.1f} GB are free: {largest.remedy}"
        )
    check_disk_space(job, needs.disk)


def check_disk_space(job: Job, needed: float) -> None:
    """Reject a run whose files do not fit on the disk of the run folder.

    Raises:
        DscnetError: With the sizes and a remedy.
    """
    left = shutil.disk_usage(_nearest(job.folder.root.absolute())).free
    if needed > left:
        side = max(build_scale(job.config).work_size(image_size(job.train.samples[0].image_path)))
        smaller = max(1, int(side * math.sqrt(0.8 * left / needed)))
        raise DscnetError(
            f"the CAMs and labels of {len(job.train.samples)} photos take about"
            f" {needed / 1e9:.1f} GB, but {job.folder.root} has {left / 1e9:.1f} GB left: free"
            f" some, choose another --out, or store smaller CAMs: --scale.work_side {smaller}"
        )


def _sizes(job: Job) -> list[Size]:
    """Heights and widths of photos: a single large one determines the peak.

    Of many, evenly spaced ones and those with the largest files.
    """
    parts = (job.train,) if job.val is None else (job.train, job.val)
    paths = [sample.image_path for part in parts for sample in part.samples]
    if len(paths) > SIZED_PHOTOS:
        largest = heapq.nlargest(LARGEST_FILES, paths, key=_file_bytes)
        paths = [*paths[:: math.ceil(len(paths) / SIZED_PHOTOS)], *largest]
    return [image_size(path) for path in paths]


def _file_bytes(path: Path) -> float:
    try:
        return path.stat().st_size
    except OSError:  # opening it says why
        return math.inf


def _disk(job: Job, sizes: Sequence[Size]) -> float:
    return cam_bytes(job.config, job.train.samples) + label_bytes(job, sizes)


def _largest_view(job: Job, sizes: Sequence[Size]) -> int:
    """Maximum number of pixels per inference batch of the CAM network."""
    scale, cam = build_scale(job.config), job.config.cam
    return cam.batch_size * max(
        math.prod(scale.view_size(size, one)) for size in sizes for one in cam.scales
    )


def cam_bytes(config: Config, samples: Sequence[Sample]) -> float:
    """Estimate the bytes of the CAMs of all stages from the size of some photos.

    Args:
        config: Settings; a CAM has one half-precision number per pixel and tag.
        samples: Training photos; up to 200 of them are sampled evenly.
    """
    scale = build_scale(config)
    some = some_samples(samples)
    numbers = [
        math.prod(scale.work_size(image_size(s.image_path))) * len(s.tags or ()) for s in some
    ]
    return fmean(numbers) * len(samples) * _NUMBER * _maps_per_tag(config)


def label_bytes(job: Job, sizes: Sequence[Size]) -> float:
    """Estimate the bytes of labels and masks; PNG compresses flat regions to a twentieth."""
    photos = len(job.train.samples) * (1 + bool(job.config.refine.steps))
    photos += 0 if job.val is None else len(job.val.samples)
    return fmean(math.prod(size) for size in sizes) * photos / 20


def _maps_per_tag(config: Config) -> int:
    """CAMs stored per photo and tag: raw, refined, and after each refinement step."""
    refines = config.baseline.refines_cam or config.method.variant != "baseline"
    count = 1 + refines
    if config.has_rounds:
        # Each round has its own; the first uses those of a plain CAM network.
        count += config.auxseg.rounds * count + (config.auxseg.cams is None)
    steps = config.refine.steps
    # AffinityNet is trained on two CAMs of its own.
    return count + len(steps) + 2 * ("affinity" in steps)


def _nearest(place: Path) -> Path:
    """The folder itself, or its nearest existing parent."""
    return next(path for path in (place, *place.parents) if path.exists())
