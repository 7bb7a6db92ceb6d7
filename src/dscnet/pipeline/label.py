"""Stage ``label``: writes the pseudo labels of the training photos."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from dscnet.config import Config
from dscnet.data import image_size
from dscnet.data.io import read_saliency
from dscnet.distributed.ranks import share
from dscnet.files.label_images import read_labels, write_label
from dscnet.labels.pseudo_label import pseudo_label
from dscnet.labels.thresholds import CRITERIA, suggested_score
from dscnet.losses.saliency import SALIENT
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import (
    background_score,
    check_external_files,
    check_shape,
    job_counts,
    load_map,
    map_folder,
    maps_needs,
    scored_by_saliency,
)
from dscnet.pipeline.refine import refined_labels
from dscnet.pipeline.stage import Stage, photo_files
from dscnet.run_folder import fresh_folder, write_text
from dscnet.types import BACKGROUND, DscnetError

log = logging.getLogger("dscnet")


def label(job: Job, resume: bool) -> None:
    """Write the pseudo labels of the training photos: ``labels/ID.png``.

    ``threshold.json`` records the background threshold and what each criterion gives.
    """
    settings, folder = job.config.label, job.folder
    counts = job_counts(job)
    bg_score = background_score(job, counts)
    band = (
        None if settings.ignore_band is None else (settings.ignore_band[0], settings.ignore_band[1])
    )
    fresh_folder(folder.labels)
    last = folder.round(job.config.auxseg.rounds)
    for sample in share(job.train.samples):
        size = image_size(sample.image_path)
        if job.config.keeps_labels:
            labels = read_labels(last.labels / f"{sample.image_id}.png")
        elif job.config.refine.steps:
            labels = refined_labels(folder.refined, sample.image_id, size)[-1]
        else:
            scores, classes = load_map(map_folder(job), sample.image_id)
            check_shape(map_folder(job), sample, scores)
            labels = pseudo_label(scores, classes, bg_score=bg_score, ignore_band=band, size=size)
        if settings.salient_only:
            saliency = read_saliency(last.saliency / f"{sample.image_id}.png")[0].numpy()
            stuff = np.isin(labels, [index + 1 for index in job.stuff])
            labels[(saliency <= SALIENT) & ~stuff] = BACKGROUND
        write_label(folder.labels / f"{sample.image_id}.png", labels)
    suggested = {name: suggested_score(counts, name) for name in CRITERIA if name != "saliency"}
    record = {**suggested, "used": bg_score, "setting": settings.bg_score, "cams": settings.cams}
    write_text(folder.threshold, json.dumps(record) + "\n")
    log.info("background threshold %s; the criteria give %s", bg_score, suggested)


def _needs(config: Config) -> tuple[str, ...]:
    """Refined probabilities or CAMs, and AuxSegNet's rounds if their labels are used."""
    scores = ("refine",) if config.refine.steps else maps_needs(config)
    return (*scores, "train") if _reads_round(config) else scores


def _settings(config: Config) -> Mapping[str, Any]:
    """Its own section, and the settings of the last round if it reads its files."""
    names = ("rounds", "stuff", "last_round_labels")
    last = {f"auxseg.{name}": getattr(config.auxseg, name) for name in names}
    return {"label": config.label, **(last if _reads_round(config) else {})}


def _reads_round(config: Config) -> bool:
    return config.label.salient_only or config.keeps_labels


def _check(job: Job) -> None:
    label = job.config.label
    check_external_files(job, "label.cams", label.cams, ".npz")
    if label.salient_only and not job.config.has_rounds:
        name = job.config.model.name
        raise ValueError(f"label.salient_only needs model.name: auxsegnet, got {name}")
    band = label.ignore_band
    if band is not None and not (len(band) == 2 and 0 <= band[0] <= band[1] <= 1):
        raise ValueError(f"label.ignore_band must be two ascending scores in [0, 1], got {band}")
    if isinstance(label.bg_score, str):
        _check_criterion(job, label.bg_score)


def _check_criterion(job: Job, criterion: str) -> None:
    """Refuse a criterion for the background threshold that cannot be computed."""
    cam, external = job.config.cam, job.config.label.cams
    if criterion not in ("auto", *CRITERIA):
        known = ", ".join(CRITERIA)
        raise DscnetError(
            f"label.bg_score must be a number, auto or one of {known}, got '{criterion}'"
        )
    if criterion == "saliency" and not all(s.saliency_path for s in job.train.samples if s.tags):
        raise DscnetError(
            "label.bg_score: criterion 'saliency' needs a saliency map of every training photo"
            " with tags; add them to the data set or choose another criterion"
        )
    if criterion == "agreement" and not (external or job.config.refines_cam):
        raise DscnetError(
            "label.bg_score: criterion 'agreement' compares CAMs before and after the network's"
            " refinement, which this network lacks: choose model seam or another criterion"
        )
    single_scales = external or (cam.keep_scales and len(set(cam.scales)) > 1)
    if criterion == "scales" and not single_scales:
        raise DscnetError(
            "label.bg_score: criterion 'scales' compares CAMs of single scales: set"
            " cam.keep_scales: true and at least two different cam.scales, got"
            f" {str(cam.keep_scales).lower()} and {cam.scales}"
        )


STAGE = Stage(
    "label",
    label,
    makes=lambda job: (
        *photo_files(job.folder.labels, job.train, "png"),
        job.folder.threshold,
    ),
    needs=_needs,
    settings=_settings,
    saliency=scored_by_saliency,
    val=lambda config: False,
    check=_check,
    every_photo=lambda config: True,
)
