"""From pseudo labels to a segmentation network and its masks, in one or more rounds.

With ``segment.rounds`` above one it trains itself: from the second round on, a network learns from
labels that the networks before have a say in. ``segmenter/`` holds the last network, the folder
``self_training/N`` the labels of round N and the networks before the last.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from dscnet.build import build_segmenter, build_segmenter_transform
from dscnet.config import Config
from dscnet.data import PhotoDataset
from dscnet.metrics import evaluation
from dscnet.objective import SegmentationObjective
from dscnet.pipeline.cam_network import optimise, write_card
from dscnet.pipeline.evaluate import label_pairs, truth
from dscnet.pipeline.job import Job
from dscnet.pipeline.self_training import label_evidence, relabel, trusted_evidence
from dscnet.predictor import Predictor, refuse_failures, store
from dscnet.run_folder import RunFolder, fresh_folder

log = logging.getLogger("dscnet")


def train_segmenters(job: Job, mark_of: Callable[[int], str]) -> None:
    """Train the network of each round, and make the labels that the second and later learn from.

    Args:
        job: The run.
        mark_of: Fingerprint of all that a round depends on. How many follow it is not part of it,
            so that more of them go on from those that are there.
    """
    rounds = job.config.segment.rounds
    if job.folder.is_done("segmenter", mark_of(rounds)):
        return
    for index in range(1, rounds + 1):
        folder, mark = _network_folder(job, index), mark_of(index)
        if folder.is_done("segmenter", mark):
            continue
        started = time.monotonic()
        resumable = folder.start("segmenter", mark)
        elsewhere = job.folder if index < rounds else job.folder.self_training(index)
        if elsewhere.is_done("segmenter", mark):
            # It was the last of fewer rounds, or is now the last and had others after it.
            shutil.copytree(elsewhere.segmenter, folder.segmenter, dirs_exist_ok=True)
        else:
            if rounds > 1:
                log.info("round %d of %d ...", index, rounds)
            if not resumable:
                # A checkpoint of another round must not be gone on from while labels are made.
                fresh_folder(folder.segmenter)
            _make_labels(job, index, mark)
            _train(job, folder, _label_folder(job, index), resumable)
        folder.finish("segmenter", mark, time.monotonic() - started)


def write_masks(job: Job) -> None:
    """Write the masks of the validation photos by each round, where there are such photos."""
    if job.val is None:
        return
    for index in range(1, job.config.segment.rounds + 1):
        folder = _network_folder(job, index)
        fresh_folder(folder.masks)
        refuse_failures(_predictor(job.config, folder).write(job.val, folder.masks))


def measure_segmenters(job: Job) -> list[dict[str, Any]]:
    """What each round reached: rows of ``rounds`` in ``metrics.json``, as AuxSegNet's.

    ``pseudo_label`` is what it learned from; parts that lack true masks are None.
    """
    return [_measure_round(job, index) for index in range(1, job.config.segment.rounds + 1)]


def _train(job: Job, folder: RunFolder, labels: Path, resume: bool) -> None:
    """Train a network on labels, or on true masks."""
    config = job.config
    L.seed_everything(config.seed, workers=True, verbose=False)
    model = build_segmenter(config, job.train.num_labels)
    transform = build_segmenter_transform(config, model.mean, model.std)
    full = config.segment.supervision == "full"
    dataset = PhotoDataset(
        job.train,
        transform,
        mask_dir=None if full else labels,
        use_masks=full,
        long_side=transform.read_side,
    )
    write_card(folder.segmenter_card, job, model.mean, model.std)
    optimise(
        job,
        model,
        SegmentationObjective(),
        dataset,
        config.segment,
        folder.segmenter,
        folder.segmenter / "metrics.csv",
        resume,
        [],
    )
    store(model, folder.segmenter_weights)


def _make_labels(job: Job, index: int, mark: str) -> None:
    """Labels of a round that the networks before it make; they are there before the first."""
    made = job.folder.self_training(index)
    if index == 1 or made.is_done("labels", mark):
        return
    started = time.monotonic()
    # The CRF comes after the product with the labels.
    plain = replace(job.config, segment=replace(job.config.segment, crf=False))
    before = [_predictor(plain, _network_folder(job, each)) for each in range(1, index)]
    made.start("labels", mark)
    elsewhere = job.config.segment.labels
    evidence = trusted_evidence(job, Path(elsewhere)) if elsewhere else label_evidence(job)
    relabel(job, before, evidence, made.labels)
    made.finish("labels", mark, time.monotonic() - started)


def _network_folder(job: Job, index: int) -> RunFolder:
    """Where a round's network and masks lie: those of the last are the run's."""
    last = index == job.config.segment.rounds
    return job.folder if last else job.folder.self_training(index)


def _label_folder(job: Job, index: int) -> Path:
    """Where the labels lie that a round learns from."""
    if index > 1:
        return job.folder.self_training(index).labels
    elsewhere = job.config.segment.labels
    return Path(elsewhere) if elsewhere else job.folder.labels


def _predictor(config: Config, folder: RunFolder) -> Predictor:
    return Predictor.from_weights(config, folder.segmenter_weights, folder.read_segmenter_card())


def _measure_round(job: Job, index: int) -> dict[str, Any]:
    config, classes = job.config, job.train.classes
    row: dict[str, Any] = dict.fromkeys(("cam", "pseudo_label", "undecided", "segmenter"))
    for name, photos, folder, split in (
        ("pseudo_label", job.train, _label_folder(job, index), config.train_split),
        ("segmenter", job.val, _network_folder(job, index).masks, config.val_split),
    ):
        if masks := truth(photos):
            pairs = label_pairs(folder, masks)
            row[name] = evaluation.evaluate_pairs(pairs, classes, split=split)
    return {"round": index, **row}
