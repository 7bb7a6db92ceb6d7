"""What a run needs of the machine: memory, disk, minutes; told, or refused, before it starts."""

from __future__ import annotations

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
from dscnet.pipeline.machine import free_memory, memory_taken
from dscnet.pipeline.registry import list_stages
from dscnet.pipeline.trials import StageNeed, try_stages
from dscnet.types import DscnetError

log = logging.getLogger("dscnet")

FEW_STEPS = 50
"""Steps of a training below which it is not worth to try some first."""

LARGE_VIEW = 6_000_000
"""Pixels that the CAM network sees at once from which on that is tried first in any case."""

_NUMBER = np.dtype(np.float16).itemsize


@dataclass(frozen=True)
class Needs:
    """What a run needs: each stage, bytes of disk, and bytes that the program has already."""

    stages: tuple[StageNeed, ...]
    disk: float
    base: float = 0.0

    @property
    def largest(self) -> StageNeed:
        """The stage that needs the most memory."""
        return max(self.stages, key=lambda stage: stage.memory)

    def text(self) -> str:
        """One line for people."""
        minutes = sum(stage.seconds for stage in self.stages) / 60
        gigabytes = (self.base + self.largest.memory) / 1e9
        # Not every system tells.
        known = self.largest.memory > 0
        memory = f"{gigabytes:.1f} GB of memory (stage '{self.largest.stage}'), " * known
        return (
            f"a run needs about {memory}{self.disk / 1e9:.1f} GB of disk and"
            f" {max(1, math.ceil(minutes))} minutes here"
        )


def needs_of(job: Job) -> str:
    """Which things are too small for a run, and what it needs: a line each.

    Raises:
        ValueError: If a training would stop before its first step.
        DscnetError: Likewise, and as for :func:`refuse_what_cannot_fit`.
    """
    for stage in list_stages():
        stage.check_training(job)
    needs = measure_needs(job)
    refuse_what_cannot_fit(job, needs)
    return "\n".join([*size_notes(job), needs.text()])


def measure_needs(job: Job) -> Needs:
    """Try a step of each stage, and reckon what the files will take."""
    sizes = _sizes(job)
    base = memory_taken(device_of(job.config.train.accelerator))
    return Needs(try_stages(job, sizes), _disk(job, sizes), base)


def check_machine(job: Job) -> None:
    """Say what a run needs; refuse it where the machine does not have that.

    Nothing is tried for a training of few steps on photos of usual size, which would be over by
    then.

    Raises:
        DscnetError: As for :func:`refuse_what_cannot_fit`.
    """
    sizes = _sizes(job)
    refuse_full_disk(job, _disk(job, sizes))
    train, photos = job.config.train, len(job.train.samples)
    steps = train.steps(photos // min(train.batch_size, photos))
    if steps >= FEW_STEPS or _largest_view(job, sizes) > LARGE_VIEW:
        needs = measure_needs(job)
        log.info("%s", needs.text())
        refuse_what_cannot_fit(job, needs)


def refuse_what_cannot_fit(job: Job, needs: Needs) -> None:
    """Refuse a run whose largest stage needs more memory than is free, or whose files more disk.

    Raises:
        DscnetError: The message names what is short and the setting that lowers it.
    """
    largest, free = needs.largest, free_memory(device_of(job.config.train.accelerator))
    if free is not None and largest.memory > free:
        raise DscnetError(
            f"stage '{largest.stage}' needs about {largest.memory / 1e9:.1f} GB of memory, and"
            f" {free / 1e9:.1f} GB are free: {largest.remedy}"
        )
    refuse_full_disk(job, needs.disk)


def refuse_full_disk(job: Job, needed: float) -> None:
    """Refuse a run whose files outgrow what the run folder's disk has left.

    Raises:
        DscnetError: The message says how much, and what would take less.
    """
    left = shutil.disk_usage(_nearest(job.folder.root.absolute())).free
    if needed > left:
        side = max(build_scale(job.config).work_size(image_size(job.train.samples[0].image_path)))
        smaller = max(1, int(side * math.sqrt(0.8 * left / needed)))
        raise DscnetError(
            f"the maps and labels of {len(job.train.samples)} photos take about"
            f" {needed / 1e9:.1f} GB, and {job.folder.root} has {left / 1e9:.1f} GB left: free"
            f" some, name another --out, or keep smaller maps: --scale.work_side {smaller}"
        )


def _sizes(job: Job) -> list[Size]:
    """Heights and widths of all photos: one large one among small ones decides."""
    photos = (job.train,) if job.val is None else (job.train, job.val)
    return [image_size(sample.image_path) for part in photos for sample in part.samples]


def _disk(job: Job, sizes: Sequence[Size]) -> float:
    return bytes_of_maps(job.config, job.train.samples) + bytes_of_labels(job, sizes)


def _largest_view(job: Job, sizes: Sequence[Size]) -> int:
    """Pixels of the photos that the CAM network sees at once, at most."""
    scale, cam = build_scale(job.config), job.config.cam
    return cam.batch_size * max(
        math.prod(scale.view_size(size, one)) for size in sizes for one in cam.scales
    )


def bytes_of_maps(config: Config, samples: Sequence[Sample]) -> float:
    """About how many bytes the maps of all stages take together, by the size of some photos.

    Args:
        config: Settings; each map has a number a pixel and tag, in half precision.
        samples: Training photos; up to 200 of them are looked at, evenly spread.
    """
    scale = build_scale(config)
    some = some_samples(samples)
    numbers = [
        math.prod(scale.work_size(image_size(s.image_path))) * len(s.tags or ()) for s in some
    ]
    return fmean(numbers) * len(samples) * _NUMBER * _maps_a_tag(config)


def bytes_of_labels(job: Job, sizes: Sequence[Size]) -> float:
    """About how many bytes labels and masks take: flat regions shrink to a twentieth."""
    photos = len(job.train.samples) * (1 + bool(job.config.refine.steps))
    photos += 0 if job.val is None else len(job.val.samples)
    return fmean(math.prod(size) for size in sizes) * photos / 20


def _maps_a_tag(config: Config) -> int:
    """Maps that are kept of each photo and tag: raw, refined, after each step of refinement."""
    refines = config.baseline.refines_cam or config.method.variant != "baseline"
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
