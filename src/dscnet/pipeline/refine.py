"""Stage ``refine``: refines label probabilities, step by step."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dscnet.build import device_of
from dscnet.config import Config, OptimiserConfig
from dscnet.data import Sample, image_size
from dscnet.distributed.ranks import gather_objects, on_first, share
from dscnet.files.label_images import write_label
from dscnet.labels.cam_files import read_cam, write_cam
from dscnet.labels.pseudo_label import pseudo_label
from dscnet.pipeline.fitting import check_shares
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import background_score, load_pair, maps_needs, scored_by_saliency
from dscnet.pipeline.stage import Stage, Trained, extension, photo_files
from dscnet.refine.probabilities import label_probabilities, label_scores, probable_label
from dscnet.refine.steps import RefinementStep, Step, code_of_steps, find_steps, refine_labels
from dscnet.run_folder import write_text
from dscnet.types import DscnetError

log = logging.getLogger("dscnet")


def refine(job: Job, resume: bool) -> None:
    """Write label probabilities after each refinement step: ``refined/ID.npz``, one map per step.

    Also writes the labels before refinement for comparison: ``refined/before/ID.png``.
    """
    config, folder = job.config, job.folder
    steps_of = photo_steps(job)
    on_first(shutil.rmtree)(folder.refined, ignore_errors=True)
    on_first(folder.refinement.unlink)(missing_ok=True)
    if not config.refine.steps:
        log.info("no refinement steps are set (--refine.steps '[pamr]')")
        return
    bg_score = background_score(job)
    device = device_of(config.train.accelerator)
    seconds: dict[str, float] = {name: 0.0 for name in config.refine.steps}
    for sample in share(job.train.samples):
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
    of_ranks = gather_objects(seconds)
    slowest = {name: max(one[name] for one in of_ranks) for name in seconds}
    write_text(folder.refinement, json.dumps(slowest) + "\n")


def photo_steps(job: Job) -> Callable[[Sample], dict[str, Step]]:
    """Open (and train) the refinement steps; returns a function from a photo to its steps."""
    opened = {step.name: step.open(job) for step in _steps(job.config)}
    return lambda sample: {name: step_of(sample) for name, step_of in opened.items()}


def refinement_start(config: Config, scores: NDArray[Any], bg_score: float) -> torch.Tensor:
    """Input of the first step: labels with a fixed certainty, or scores for learned walks."""
    settings = config.refine
    background: dict[str, Any] = {"bg_score": bg_score, "bg_power": settings.bg_power}
    steps = _steps(config)
    if steps and steps[0].from_scores:
        return label_scores(scores, **background)
    return label_probabilities(scores, **background, certainty=settings.certainty)


def refined_labels(folder: Path, image_id: str, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Labels of a photo after each refinement step, at the given height and width."""
    maps, classes = read_cam(folder / f"{image_id}.npz")
    return [probable_label(foreground, classes, size) for foreground in maps.values()]


def own_background(config: Config) -> bool:
    """Whether refinement determines the background instead of ``label.bg_score``."""
    steps = _steps(config)
    return bool(steps) and (
        config.refine.bg_power is not None or any(step.own_background for step in steps)
    )


def _steps(config: Config) -> list[RefinementStep]:
    return find_steps(config.refine.steps)


def _needs(config: Config) -> tuple[str, ...]:
    steps = _steps(config)
    further = [need for step in steps for need in step.needs(config)]
    return tuple(dict.fromkeys([*maps_needs(config), *further])) if steps else ()


def _settings(config: Config) -> dict[str, Any]:
    steps = _steps(config)
    if not steps:
        return {"refine.steps": []}
    settings: dict[str, Any] = {"refine": config.refine, "scale": config.scale}
    settings |= {"label.bg_score": config.label.bg_score, "label.cams": config.label.cams}
    for step in steps:
        settings |= {**step.settings(config), **extension(config, step.name)}
    return settings


def _reads_saliency(config: Config) -> bool:
    return scored_by_saliency(config) or any(step.saliency for step in _steps(config))


def _check(job: Job) -> None:
    refine, label = job.config.refine, job.config.label
    steps = _steps(job.config)
    label_probabilities(
        np.zeros((0, 1, 1)),
        bg_score=0.5 if isinstance(label.bg_score, str) else label.bg_score,
        bg_power=refine.bg_power,
        certainty=refine.certainty,
    )
    if steps and label.ignore_band is not None:
        raise DscnetError(
            "label.ignore_band applies to CAM scores, which refine.steps replaces by probabilities:"
            " set only one of the two"
        )
    if refine.masks is not None and "masks" not in refine.steps:
        log.warning("refine.masks has no effect: add 'masks' to refine.steps")
    for step in steps:
        step.check(job)


def _check_training(job: Job) -> None:
    for name in job.config.refine.steps:
        section = getattr(job.config, name, None)
        if isinstance(section, OptimiserConfig):
            check_shares(name, section, len(job.train.samples))


def _trained(job: Job) -> Iterator[Trained]:
    for step in _steps(job.config):
        yield from step.trained(job)


def _makes(job: Job) -> tuple[Path, ...]:
    if not job.config.refine.steps:
        return ()
    before = photo_files(job.folder.unrefined, job.train, "png")
    return (*photo_files(job.folder.refined, job.train, "npz"), *before, job.folder.refinement)


STAGE = Stage(
    "refine",
    refine,
    makes=_makes,
    needs=_needs,
    settings=_settings,
    code=lambda config: code_of_steps(config.refine.steps),
    saliency=_reads_saliency,
    val=lambda config: False,
    check=_check,
    check_training=_check_training,
    trained=_trained,
    every_photo=lambda config: bool(config.refine.steps),
)
