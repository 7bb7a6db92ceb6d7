"""Stage ``segment``: trains the segmentation network on the pseudo labels and writes its masks.

With ``segment.rounds`` above 1 this is self-training: from the second round on, the network is
trained on labels by the previous networks and the CAMs. ``segmenter/`` has the last network,
``self_training/N`` the labels of round N, and its network if it is not the last.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from dscnet.distributed.ranks import on_first
from dscnet.models.checkpoint import store
from dscnet.models.segmenter import Segmenter
from dscnet.objective import SegmentationObjective
from dscnet.pipeline.fitting import Training, check_optimiser, check_shares, optimise, write_card
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import check_external_files
from dscnet.pipeline.stage import (
    Inputs,
    Stage,
    Trained,
    learning_settings,
    photo_files,
    without,
)
from dscnet.predictor import Predictor, check_scales, refuse_failures
from dscnet.run_folder import RunFolder, fingerprint, fresh_folder
from dscnet.types import DataError, DscnetError

log = logging.getLogger("dscnet")


def segment(job: Job, resume: bool) -> None:
    """Train the segmentation network and write the masks of the validation photos."""
    # Trainings have their own records: new inference settings only rewrite the masks.
    if job.config.has_rounds:
        from dscnet.pipeline.rounds import write_round_masks

        write_round_masks(job)
    if job.config.own_branch:
        return
    train_segmenters(job)
    write_masks(job)


def train_segmenters(job: Job) -> None:
    """Train the network of each round, on new labels from the second round on."""
    rounds = job.config.segment.rounds
    if _is_trained(job.folder, fingerprint(_round_inputs(job, rounds))):
        return
    for index in range(1, rounds + 1):
        folder, inputs = network_folder(job, index), _round_inputs(job, index)
        mark = fingerprint(inputs)
        if _is_trained(folder, mark):
            continue
        started = time.monotonic()
        resumable = folder.start("segmenter", mark, inputs=inputs)
        other = job.folder if index < rounds else job.folder.self_training(index)
        if _is_trained(other, mark):
            # Trained before, when the number of rounds was different.
            on_first(shutil.copytree)(other.segmenter, folder.segmenter, dirs_exist_ok=True)
        else:
            if rounds > 1:
                log.info("round %d of %d ...", index, rounds)
            if not resumable:
                # Another round's checkpoint must not be resumed if labelling is interrupted.
                fresh_folder(folder.segmenter)
            _make_labels(job, index, mark)
            _train(job, folder, label_folder(job, index), resumable)
        folder.finish("segmenter", mark, time.monotonic() - started, inputs=inputs)


def _is_trained(folder: RunFolder, mark: str) -> bool:
    return folder.is_done("segmenter", mark) and folder.segmenter_weights.exists()


def write_masks(job: Job) -> None:
    """Write the masks of the validation photos, if any, by the network of each round."""
    if job.val is None:
        return
    for index in range(1, job.config.segment.rounds + 1):
        folder = network_folder(job, index)
        fresh_folder(folder.masks)
        refuse_failures(_predictor(job.config, folder).write(job.val, folder.masks))


def _train(job: Job, folder: RunFolder, labels: Path, resume: bool) -> None:
    """Train a network on labels, or on ground-truth masks."""
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
    on_first(store)(model, folder.segmenter_weights)


def _make_labels(job: Job, index: int, mark: str) -> None:
    """Make the labels of a round from the second on by the networks before it."""
    made = job.folder.self_training(index)
    if index == 1 or made.is_done("labels", mark):
        return
    started = time.monotonic()
    # The CRF comes after the product with the labels.
    plain = replace(job.config, segment=replace(job.config.segment, crf=False))
    before = [_predictor(plain, network_folder(job, each)) for each in range(1, index)]
    from dscnet.pipeline.self_training import (
        label_evidence,
        trusted_evidence,
        write_self_training_labels,
    )

    made.start("labels", mark)
    external = job.config.segment.labels
    evidence = trusted_evidence(job, Path(external)) if external else label_evidence(job)
    write_self_training_labels(job, before, evidence, made.labels)
    made.finish("labels", mark, time.monotonic() - started)


def network_folder(job: Job, index: int) -> RunFolder:
    """Folder of a round's network and masks; for the last round that of the run."""
    last = index == job.config.segment.rounds
    return job.folder if last else job.folder.self_training(index)


def label_folder(job: Job, index: int) -> Path:
    """Folder of the labels that a round is trained on."""
    if index > 1:
        return job.folder.self_training(index).labels
    external = job.config.segment.labels
    return Path(external) if external else job.folder.labels


def _predictor(config: Config, folder: RunFolder) -> Predictor:
    return Predictor.from_weights(config, folder.segmenter_weights, folder.read_segmenter_card())


def _round_inputs(job: Job, index: int) -> Inputs:
    """Inputs of a round's network, independent of later rounds and of inference settings.

    From the second round on, the inference scales count, as the labels depend on them.
    """
    test, inference_only = SegmentConfig(), ["crf", "branch_scores"]
    if index == 1:
        inference_only += ["test_scales", "flip_test"]
    neutral = {name: getattr(test, name) for name in inference_only}
    segment = replace(job.config.segment, rounds=index, **neutral)
    inputs = STAGE.inputs(replace(job, config=replace(job.config, segment=segment)))
    # Only the masks are of them.
    del inputs["photos"]["val"]
    return inputs


def _trained(job: Job) -> Iterator[Trained]:
    if job.config.own_branch:
        return
    rounds = job.config.segment.rounds
    for index in range(1, rounds + 1):
        folder = network_folder(job, index)
        name = "the segmentation network" if rounds == 1 else f"round {index} of self-training"
        inputs, checkpoint = _round_inputs(job, index), folder.segmenter / "last.ckpt"
        yield Trained(name, folder, "segmenter", inputs, folder.segmenter_weights, checkpoint)


def _makes(job: Job) -> tuple[Path, ...]:
    masks = photo_files(job.folder.masks, job.val, "png")
    return masks if job.config.own_branch else (job.folder.segmenter_weights, *masks)


def _needs(config: Config) -> tuple[str, ...]:
    """The pseudo labels, unless others are used; the CAM network if its branch is used."""
    if config.own_branch:
        return ("train",)
    other_labels = config.segment.labels or config.segment.supervision == "full"
    return () if other_labels else ("label",)


def _settings(config: Config) -> dict[str, Any]:
    settings = without(learning_settings(config), "model.frozen_stages")
    return {**settings, "segment": config.segment}


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
    check_external_files(job, "segment.labels", segment.labels, ".png")
    full = segment.supervision == "full"
    if full and not any(s.mask_path for s in job.train.samples):
        raise DataError(
            "segment.supervision: full needs ground-truth masks; no training photo has one"
        )
    build_segmenter_transform(config, mean=(0.5,) * 3, std=(0.5,) * 3)
    _check_branch(config)
    if not config.own_branch:
        _on_meta(config)
    if segment.rounds < 1:
        raise ValueError(f"segment.rounds must be at least 1, got {segment.rounds}")
    if segment.rounds > 1 and full:
        raise ValueError(
            f"segment.rounds: {segment.rounds} is self-training, which segment.supervision: full"
            " (ground-truth masks) excludes: set only one of the two"
        )
    if segment.rounds > 1 and config.has_rounds:
        raise ValueError(
            f"segment.rounds must be 1 for model.name: {config.model.name}, which has"
            f" auxseg.rounds, got {segment.rounds}"
        )


def _check_branch(config: Config) -> None:
    """Refuse settings that do not match whether the network has a segmentation branch."""
    branch = config.segment.network == "branch"
    if branch and not config.has_rounds:
        raise ValueError(
            f"segment.network: branch needs model.name: auxsegnet, got {config.model.name}"
        )
    if branch and (config.segment.supervision == "full" or config.segment.labels is not None):
        raise ValueError(
            "segment.network: branch is not trained further: remove segment.labels and"
            " segment.supervision, or use segment.network: deeplabv3plus"
        )


def _on_meta(config: Config) -> nn.Module:
    """Build the segmentation network on the meta device, to check that it can be built."""
    try:
        with torch.device("meta"):
            return build_segmenter(config, 2, pretrained=False)
    except (DscnetError, ValueError) as error:
        raise type(error)(
            f"{error} (segment.backbone and segment.output_stride; by default those of model)"
        ) from error


def _check_training(job: Job) -> None:
    """Refuse unavailable hardware, too few photos, and weights that do not fit."""
    config, model, segment = job.config, job.config.model, job.config.segment
    if config.own_branch:
        return
    check_hardware("segment", segment)
    check_shares("segment", segment, len(job.train.samples))
    photos = min(segment.batch_size, len(job.train.samples))
    if photos < 2 and type(_on_meta(config)) is Segmenter:
        raise ValueError(
            f"segment: DeepLabV3+ needs at least 2 photos per step, got {photos}: use 2 or more"
            " training photos and a segment.batch_size of 2 or more"
        )
    if weights_are_here(segment.backbone or model.backbone, segment.weights or model.weights):
        build_segmenter(config, 2)


STAGE = Stage(
    "segment",
    segment,
    makes=_makes,
    needs=_needs,
    settings=_settings,
    code=_code,
    masks=lambda config: config.segment.supervision == "full",
    check=_check,
    check_training=_check_training,
    trained=_trained,
)
