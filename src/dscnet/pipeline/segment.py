"""From pseudo labels to a segmentation network and its masks, in one or more rounds.

With ``segment.rounds`` above one it trains itself: from the second round on, a network learns from
labels that the networks before have a say in. ``segmenter/`` holds the last network, the folder
``self_training/N`` the labels of round N and the networks before the last.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from torch import nn

from dscnet.build import (
    build_segmenter,
    build_segmenter_transform,
    check_hardware,
    weights_are_here,
)
from dscnet.config import Config, SegmentConfig
from dscnet.data import PhotoDataset
from dscnet.models.checkpoint import store
from dscnet.models.segmenter import Segmenter
from dscnet.objective import SegmentationObjective
from dscnet.pipeline.fitting import Training, check_optimiser, optimise, write_card
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import check_made_elsewhere
from dscnet.pipeline.stage import (
    Inputs,
    Stage,
    Trained,
    learning_settings,
)
from dscnet.predictor import Predictor, check_scales, refuse_failures
from dscnet.run_folder import RunFolder, fingerprint, fresh_folder
from dscnet.types import DataError, DscnetError

log = logging.getLogger("dscnet")


def segment(job: Job, resume: bool) -> None:
    """Train the segmentation network, and write masks of the validation photos."""
    # The trainings have records of their own, so that other ways of testing write masks alone.
    if job.config.has_rounds:
        from dscnet.pipeline.rounds import write_round_masks

        write_round_masks(job)
    if job.config.own_branch:
        return
    train_segmenters(job)
    write_masks(job)


def train_segmenters(job: Job) -> None:
    """Train the network of each round, and make the labels that the second and later learn from."""
    rounds = job.config.segment.rounds
    if job.folder.is_done("segmenter", fingerprint(_round_inputs(job, rounds))):
        return
    for index in range(1, rounds + 1):
        folder, inputs = network_folder(job, index), _round_inputs(job, index)
        mark = fingerprint(inputs)
        if folder.is_done("segmenter", mark):
            continue
        started = time.monotonic()
        resumable = folder.start("segmenter", mark, inputs=inputs)
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
            _train(job, folder, label_folder(job, index), resumable)
        folder.finish("segmenter", mark, time.monotonic() - started, inputs=inputs)


def write_masks(job: Job) -> None:
    """Write the masks of the validation photos by each round, where there are such photos."""
    if job.val is None:
        return
    for index in range(1, job.config.segment.rounds + 1):
        folder = network_folder(job, index)
        fresh_folder(folder.masks)
        refuse_failures(_predictor(job.config, folder).write(job.val, folder.masks))


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
    losses = folder.segmenter / "metrics.csv"
    training = Training(
        model, SegmentationObjective(), dataset, config.segment, folder.segmenter, losses
    )
    optimise(job, training, resume=resume)
    store(model, folder.segmenter_weights)


def _make_labels(job: Job, index: int, mark: str) -> None:
    """Labels of a round that the networks before it make; they are there before the first."""
    made = job.folder.self_training(index)
    if index == 1 or made.is_done("labels", mark):
        return
    started = time.monotonic()
    # The CRF comes after the product with the labels.
    plain = replace(job.config, segment=replace(job.config.segment, crf=False))
    before = [_predictor(plain, network_folder(job, each)) for each in range(1, index)]
    from dscnet.pipeline.self_training import label_evidence, relabel, trusted_evidence

    made.start("labels", mark)
    elsewhere = job.config.segment.labels
    evidence = trusted_evidence(job, Path(elsewhere)) if elsewhere else label_evidence(job)
    relabel(job, before, evidence, made.labels)
    made.finish("labels", mark, time.monotonic() - started)


def network_folder(job: Job, index: int) -> RunFolder:
    """Where a round's network and masks lie: those of the last are the run's."""
    last = index == job.config.segment.rounds
    return job.folder if last else job.folder.self_training(index)


def label_folder(job: Job, index: int) -> Path:
    """Where the labels lie that a round learns from."""
    if index > 1:
        return job.folder.self_training(index).labels
    elsewhere = job.config.segment.labels
    return Path(elsewhere) if elsewhere else job.folder.labels


def _predictor(config: Config, folder: RunFolder) -> Predictor:
    return Predictor.from_weights(config, folder.segmenter_weights, folder.read_segmenter_card())


def _round_inputs(job: Job, index: int) -> Inputs:
    """What a round's network is made from: neither later rounds nor how it is tested.

    But for the sizes that it is tested at, which make the labels of the next round.
    """
    test, inference_only = SegmentConfig(), ["crf", "branch_scores"]
    if index == 1:
        inference_only += ["test_scales", "flip_test"]
    neutral = {name: getattr(test, name) for name in inference_only}
    segment = replace(job.config.segment, rounds=index, **neutral)
    return STAGE.inputs(replace(job, config=replace(job.config, segment=segment)))


def _trained(job: Job) -> Iterator[Trained]:
    if job.config.own_branch:
        return
    rounds = job.config.segment.rounds
    for index in range(1, rounds + 1):
        folder = network_folder(job, index)
        name = "the segmentation network" if rounds == 1 else f"round {index} of self-training"
        inputs, checkpoint = _round_inputs(job, index), folder.segmenter / "last.ckpt"
        yield Trained(name, folder, "segmenter", inputs, folder.segmenter_weights, checkpoint)


def _needs(config: Config) -> tuple[str, ...]:
    """The labels, unless they come from elsewhere; AuxSegNet's own branch for itself."""
    if config.own_branch:
        return ("train",)
    made_elsewhere = config.segment.labels or config.segment.supervision == "full"
    return () if made_elsewhere else ("label",)


def _code(config: Config) -> tuple[str, ...]:
    further = {
        "dscnet.pipeline.self_training": config.segment.rounds > 1,
        "dscnet.pipeline.rounds": config.has_rounds,
    }
    return tuple(module for module, used in further.items() if used)


def _check(job: Job) -> None:
    config, segment = job.config, job.config.segment
    check_optimiser("segment", segment)
    check_scales(segment.test_scales, "segment.test_scales")
    check_made_elsewhere(job, "segment.labels", segment.labels, ".png")
    full = segment.supervision == "full"
    if full and not any(s.mask_path for s in job.train.samples):
        raise DataError("segment.supervision: full learns from true masks, and no photo has one")
    build_segmenter_transform(config, mean=(0.5,) * 3, std=(0.5,) * 3)
    _check_branch(config)
    if not config.own_branch:
        _on_meta(config)
    if segment.rounds < 1:
        raise ValueError(f"segment.rounds must be at least 1, got {segment.rounds}")
    if segment.rounds > 1 and full:
        raise ValueError(
            f"segment.rounds: {segment.rounds} makes labels anew, and segment.supervision: full"
            " learns from true masks: set one of the two"
        )
    if segment.rounds > 1 and config.has_rounds:
        raise ValueError(
            f"segment.rounds: {segment.rounds} is not for model.name: {config.model.name}, whose"
            " rounds are auxseg.rounds: leave it at 1"
        )


def _check_branch(config: Config) -> None:
    """Refuse what only a baseline with a segmentation branch can do, and what that cannot."""
    branch = config.segment.network == "branch"
    if branch and not config.has_rounds:
        raise ValueError(
            f"segment.network: branch needs model.name: auxsegnet, got {config.model.name}"
        )
    if branch and (config.segment.supervision == "full" or config.segment.labels is not None):
        raise ValueError(
            "segment.network: branch learns nothing more: leave segment.labels and"
            " segment.supervision alone, or take segment.network: deeplabv3plus"
        )


def _on_meta(config: Config) -> nn.Module:
    """The segmentation network without memory, to see that it can be built."""
    try:
        with torch.device("meta"):
            return build_segmenter(config, 2, pretrained=False)
    except (DscnetError, ValueError) as error:
        raise type(error)(
            f"{error} (segment.backbone and segment.output_stride; where they are not set, those of"
            " model count)"
        ) from error


def _check_training(job: Job) -> None:
    """Refuse hardware that is not there, too few photos, and weights that do not fit."""
    config, model, segment = job.config, job.config.model, job.config.segment
    if config.own_branch:
        return
    check_hardware("segment", segment)
    photos = min(segment.batch_size, len(job.train.samples))
    if photos < 2 and type(_on_meta(config)) is Segmenter:
        raise ValueError(
            f"segment: DeepLabV3+ needs at least 2 photos a step, got {photos}: set"
            " segment.batch_size to 2 or more, on as many training photos"
        )
    if weights_are_here(segment.backbone or model.backbone, segment.weights or model.weights):
        build_segmenter(config, 2)


STAGE = Stage(
    "segment",
    segment,
    makes=lambda job: () if job.config.own_branch else (job.folder.segmenter_weights,),
    needs=_needs,
    settings=lambda config: {**learning_settings(config), "segment": config.segment},
    code=_code,
    masks=lambda config: config.segment.supervision == "full",
    check=_check,
    check_training=_check_training,
    trained=_trained,
)
