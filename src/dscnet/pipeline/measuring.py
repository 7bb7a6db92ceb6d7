"""Evaluates each round of training against ground-truth masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscnet.data import PhotoSet, read_mask
from dscnet.distributed.ranks import gather_parts, own_part
from dscnet.files.label_images import read_labels
from dscnet.metrics import evaluation
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import background_score, load_map
from dscnet.pipeline.segment import label_folder, network_folder
from dscnet.run_folder import RunFolder
from dscnet.types import BACKGROUND, IGNORE_INDEX


def measure_rounds(job: Job) -> list[dict[str, Any]]:
    """Metrics of each round of AuxSegNet: ``round``, ``cam``, ``pseudo_label``, ``segmenter``.

    The last three are sections as for the whole run. Undecided pixels of the labels count as
    background; ``undecided`` is their fraction. Sections without results or masks are None.
    """
    rounds = range(job.config.auxseg.rounds + 1)
    return [_measure_auxseg_round(job, index, job.folder.round(index)) for index in rounds]


def _measure_auxseg_round(job: Job, index: int, folder: RunFolder) -> dict[str, Any]:
    config, classes = job.config, job.train.classes
    row: dict[str, Any] = dict.fromkeys(("cam", "pseudo_label", "undecided", "segmenter"))
    train_masks, val_masks = ground_truth_masks(job.train), ground_truth_masks(job.val)
    if train_masks and folder.cams.exists():
        items = (
            (*load_map(folder.cams, name), read_mask(path).numpy())
            for name, path in own_part(train_masks)
        )
        row["cam"] = evaluation.evaluate_cams(
            items,
            classes,
            split=config.train_split,
            bg_score=background_score(replace(job, folder=folder)),
        )
    if train_masks:
        shares: list[float] = []
        row["pseudo_label"] = evaluation.evaluate_pairs(
            _decided(label_pairs(folder.labels, train_masks), shares),
            classes,
            split=config.train_split,
        )
        row["undecided"] = float(np.mean(gather_parts(shares)))
    if val_masks and folder.masks.exists():
        row["segmenter"] = evaluation.evaluate_pairs(
            label_pairs(folder.masks, val_masks), classes, split=config.val_split
        )
    return {"round": index, **row}


def _decided(
    pairs: Iterator[tuple[NDArray[Any], NDArray[Any]]], shares: list[float]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Undecided pixels as background; their fraction of each photo is added to ``shares``."""
    for labels, true in pairs:
        shares.append(float((labels == IGNORE_INDEX).mean()))
        yield np.where(labels == IGNORE_INDEX, BACKGROUND, labels), true


def measure_segmenters(job: Job) -> list[dict[str, Any]]:
    """Metrics of each round of self-training, as for AuxSegNet's rounds.

    ``pseudo_label`` evaluates the labels that the round was trained on; sections without
    ground-truth masks are None.
    """
    return [_measure_network_round(job, index) for index in range(1, job.config.segment.rounds + 1)]


def _measure_network_round(job: Job, index: int) -> dict[str, Any]:
    config, classes = job.config, job.train.classes
    row: dict[str, Any] = dict.fromkeys(("cam", "pseudo_label", "undecided", "segmenter"))
    for name, photos, folder, split in (
        ("pseudo_label", job.train, label_folder(job, index), config.train_split),
        ("segmenter", job.val, network_folder(job, index).masks, config.val_split),
    ):
        if masks := ground_truth_masks(photos):
            pairs = label_pairs(folder, masks)
            row[name] = evaluation.evaluate_pairs(pairs, classes, split=split)
    return {"round": index, **row}


def ground_truth_masks(photos: PhotoSet | None) -> list[tuple[str, Path]]:
    """Ids and ground-truth masks of the photos that have one."""
    if photos is None:
        return []
    return [
        (sample.image_id, sample.mask_path)
        for sample in photos.samples
        if sample.mask_path is not None
    ]


def label_pairs(
    folder: Path, masks: list[tuple[str, Path]]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Labels from a folder, paired with the ground-truth masks, of this rank's photos."""
    for image_id, path in own_part(masks):
        yield read_labels(folder / f"{image_id}.png"), read_mask(path).numpy()
