"""What is refused before anything is trained: settings and photos that cannot work."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from dscnet.build import (
    build_affinity_net,
    build_affinity_transform,
    build_model,
    build_objective,
    build_scale,
    build_segmenter,
    build_segmenter_transform,
    build_train_transform,
    check_hardware,
)
from dscnet.config import AffinityConfig, Config, IrnConfig
from dscnet.data import available_splits, check_dataset
from dscnet.data.overlap import compare_splits
from dscnet.data.small_objects import small_object_notes
from dscnet.data.split_lists import missing_split_notes
from dscnet.data.tag_files import first_few
from dscnet.labels.thresholds import CRITERIA
from dscnet.models.irn import STRIDE
from dscnet.models.resnet38 import NAME as RESNET38
from dscnet.models.segmenter import Segmenter
from dscnet.models.weights import names_file, tagged_name
from dscnet.pipeline.job import Job
from dscnet.pipeline.label import open_masks
from dscnet.predictor import check_scales
from dscnet.refine.mask_files import ExternalMasks
from dscnet.refine.pairs import pair_offsets
from dscnet.refine.steps import label_probabilities, refinement_steps
from dscnet.types import DataError, DscnetError

log = logging.getLogger("dscnet")


def check_networks(config: Config) -> None:
    """Refuse settings of networks and rounds that do not go together.

    Raises:
        ValueError: The message names the settings and what to do.
    """
    if not config.has_rounds:
        needed = [
            name
            for name, on in (
                ("segment.network: branch", config.segment.network == "branch"),
                ("label.salient_only", config.label.salient_only),
            )
            if on
        ]
        if needed:
            raise ValueError(f"{needed[0]} needs model.name: auxsegnet, got {config.model.name}")
        return
    trained = config.segment.supervision == "full" or config.segment.labels is not None
    if config.segment.network == "branch" and trained:
        raise ValueError(
            "segment.network: branch learns nothing more: leave segment.labels and"
            " segment.supervision alone, or take segment.network: deeplabv3plus"
        )
    if config.keeps_labels and config.refine.steps:
        raise ValueError(
            "auxseg.last_round_labels: labels of a round are not refined: leave refine.steps empty"
        )
    if config.auxseg.rounds < 1:
        raise ValueError(f"auxseg.rounds must be at least 1, got {config.auxseg.rounds}")
    dilations = config.auxseg.dilations
    if dilations is not None and (len(dilations) != 3 or min(dilations) < 1):
        raise ValueError(f"auxseg.dilations must be three numbers of at least 1, got {dilations}")
    for name in ("cam_score", "saliency_score"):
        score = getattr(config.auxseg, name)
        if score != "auto" and not 0 <= score <= 1:
            raise ValueError(f"auxseg.{name} must be in [0, 1], got {score}")


def check_settings(job: Job) -> None:
    """Refuse settings of stages that cannot work, before anything is trained."""
    refine, label = job.config.refine, job.config.label
    _check_numbers(job.config)
    _check_training(job)
    _check_made_elsewhere(job)
    _check_segmenter(job.config)
    _check_stuff(job)
    refinement_steps(refine.steps)
    label_probabilities(
        np.zeros((0, 1, 1)),
        bg_score=0.5 if isinstance(label.bg_score, str) else label.bg_score,
        bg_power=refine.bg_power,
        certainty=refine.certainty,
    )
    if isinstance(label.bg_score, str) and label.bg_score not in ("auto", *CRITERIA):
        known = ", ".join(CRITERIA)
        raise DscnetError(
            f"label.bg_score: no criterion '{label.bg_score}'; give a number, auto, {known}"
        )
    if label.bg_score == "saliency" and not all(
        s.saliency_path for s in job.train.samples if s.tags
    ):
        raise DscnetError(
            "label.bg_score: criterion 'saliency' needs a saliency map of every training photo"
            " with tags; add them to the data set or choose another criterion"
        )
    if label.bg_score == "agreement" and not (label.cams or job.config.refines_cam):
        raise DscnetError(
            "label.bg_score: criterion 'agreement' compares the maps before and after the network"
            " refines them, and this one does not: choose model seam or another criterion"
        )
    if label.bg_score == "scales" and not label.cams:
        cam = job.config.cam
        if not cam.keep_scales or len(set(cam.scales)) < 2:
            raise DscnetError(
                "label.bg_score: criterion 'scales' compares the maps of single scales: set"
                " cam.keep_scales: true and at least two different cam.scales, got"
                f" {str(cam.keep_scales).lower()} and {cam.scales}"
            )
    check_mask_settings(job)
    if refine.steps and label.ignore_band is not None:
        raise DscnetError(
            "label.ignore_band parts the scores of maps, and refine.steps replaces them by"
            " probabilities: set one of the two"
        )
    check_affinities(job.config)


def _check_numbers(config: Config) -> None:
    """Refuse numbers that a stage would stumble over long after training began."""
    check_scales(config.cam.scales, "cam.scales")
    counts = {
        "cam.batch_size": config.cam.batch_size,
        **{
            f"{section}.{name}": getattr(getattr(config, section), name)
            for section in ("train", "segment")
            for name in ("epochs", "iterations")
        },
    }
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if config.model.classifier_gain < 0:
        raise ValueError(
            f"model.classifier_gain must be at least 0, got {config.model.classifier_gain}"
        )
    band = config.label.ignore_band
    if band is not None and not (len(band) == 2 and 0 <= band[0] <= band[1] <= 1):
        raise ValueError(f"label.ignore_band must be two ascending scores in [0, 1], got {band}")


def _check_training(job: Job) -> None:
    """Refuse settings of the trainings that would stop them at their first step."""
    config = job.config
    for name, settings in (("train", config.train), ("segment", config.segment)):
        if settings.batch_size < 1:
            raise ValueError(f"{name}.batch_size must be at least 1, got {settings.batch_size}")
        if not 0 <= settings.lr_warmup < 1:
            raise ValueError(f"{name}.lr_warmup must be in [0, 1), got {settings.lr_warmup}")
    build_scale(config)
    build_train_transform(config, mean=(0.5,) * 3, std=(0.5,) * 3)
    build_objective(config.method, job.train.num_labels)
    with torch.device("meta"):
        build_model(config, job.train.num_classes, pretrained=False)


def _check_made_elsewhere(job: Job) -> None:
    """Refuse maps, labels and masks that are not there, of any photo."""
    config = job.config
    for name, folder, ending in (
        ("label.cams", config.label.cams, ".npz"),
        ("auxseg.cams", config.auxseg.cams if config.has_rounds else None, ".npz"),
        ("segment.labels", config.segment.labels, ".png"),
    ):
        if folder is None:
            continue
        if not Path(folder).is_dir():
            raise DataError(f"{name}: {folder} is no folder")
        files = (Path(folder) / f"{sample.image_id}{ending}" for sample in job.train.samples)
        if missing := [file.name for file in files if not file.exists()]:
            raise DataError(
                f"{name}: {folder} has no file for {len(missing)} of {len(job.train.samples)}"
                f" training photos ({first_few(missing)}); make them, or leave the setting alone"
            )
    if config.segment.supervision == "full" and not any(s.mask_path for s in job.train.samples):
        raise DataError("segment.supervision: full learns from true masks, and no photo has one")


def _check_stuff(job: Job) -> None:
    # No error: a recipe names the classes of the data that it was written for.
    known = job.train.classes
    if unknown := [name for name in job.config.auxseg.stuff if name not in known]:
        log.warning("auxseg.stuff: the data set has no class %s", first_few(unknown))


def check_affinities(config: Config) -> None:
    """Refuse settings that cannot work of the networks that refinement trains.

    Raises:
        ValueError: If a setting is out of range, or a crop holds no pair of cells.
        DscnetError: If the backbone does not offer AffinityNet's stride.
    """
    affinity, irn = config.affinity, config.irn
    if "affinity" in config.refine.steps:
        _check_learned("affinity", affinity, "powers", affinity.powers)
        _check_crop(config, "affinity.radius", affinity.radius, affinity.output_stride)
        build_affinity_transform(config, mean=(0.5,) * 3, std=(0.5,) * 3)
        build_affinity_net(config, pretrained=False)
    if "irn" in config.refine.steps:
        _check_learned("irn", irn, "bg_scores", irn.bg_scores)
        _check_crop(config, "irn.radius", irn.radius, STRIDE)
        pair_offsets(irn.walk_radius)
        if irn.bg_scores[1] > 1 or not 0 < irn.threshold <= 1:
            raise ValueError(
                "irn.bg_scores and irn.threshold must be in (0, 1], got"
                f" {irn.bg_scores} and {irn.threshold}"
            )


def _check_learned(
    step: str, settings: AffinityConfig | IrnConfig, name: str, pair: list[float]
) -> None:
    if len(pair) != 2 or not 0 < pair[0] < pair[1]:
        raise ValueError(f"{step}.{name} must be two ascending numbers above 0, got {pair}")
    if settings.beta <= 0 or settings.log_steps < 0:
        raise ValueError(
            f"{step}.beta must be > 0 and {step}.log_steps >= 0, got {settings.beta} and"
            f" {settings.log_steps}"
        )


def _check_crop(config: Config, name: str, radius: int, stride: int) -> None:
    pair_offsets(radius)
    least = 2 * (radius - 1) * stride
    if config.augment.crop_size <= least:
        raise ValueError(
            f"augment.crop_size must be above {least}, or {name} lower: no pair of cells within"
            f" {radius} at stride {stride} fits into {config.augment.crop_size} pixels"
        )


def _check_segmenter(config: Config) -> None:
    """Refuse settings of the segmentation network that nothing sees before it is trained."""
    check_scales(config.segment.test_scales, "segment.test_scales")
    build_segmenter_transform(config, mean=(0.5,) * 3, std=(0.5,) * 3)
    if not config.own_branch:
        _segmenter_on_meta(config)
    _check_rounds(config)


def _segmenter_on_meta(config: Config) -> torch.nn.Module:
    """The segmentation network without memory, to see that it can be built."""
    try:
        with torch.device("meta"):
            return build_segmenter(config, 2, pretrained=False)
    except (DscnetError, ValueError) as error:
        raise type(error)(
            f"{error} (segment.backbone and segment.output_stride; where they are not set, those of"
            " model count)"
        ) from error


def _check_rounds(config: Config) -> None:
    """Refuse rounds of the segmentation network that there cannot be."""
    rounds = config.segment.rounds
    if rounds < 1:
        raise ValueError(f"segment.rounds must be at least 1, got {rounds}")
    if rounds > 1 and config.segment.supervision == "full":
        raise ValueError(
            f"segment.rounds: {rounds} makes labels anew, and segment.supervision: full learns"
            " from true masks: set one of the two"
        )
    if rounds > 1 and config.has_rounds:
        raise ValueError(
            f"segment.rounds: {rounds} is not for model.name: auxsegnet, whose rounds are"
            " auxseg.rounds: leave it at 1"
        )


def check_mask_settings(job: Job) -> None:
    """Refuse a step ``masks`` without masks; photos that lack them are told and stay as they are.

    Raises:
        ValueError: If the settings do not allow the step.
        DataError: If no tagged training photo has masks.
    """
    refine = job.config.refine
    if "masks" not in refine.steps:
        if refine.masks is not None:
            log.warning("refine.masks is not read: add 'masks' to refine.steps")
        return
    if refine.masks is None:
        raise ValueError("refine.steps: step 'masks' needs refine.masks, a folder or a JSON file")
    if not 0 < refine.mask_overlap <= 1:
        raise ValueError(
            f"refine.mask_overlap must be above 0 and at most 1, got {refine.mask_overlap}"
        )
    masks = ExternalMasks(refine.masks)
    tagged = [sample.image_id for sample in job.train.samples if sample.tags]
    missing = [image_id for image_id in tagged if image_id not in masks]
    if missing and len(missing) == len(tagged):
        raise DataError(
            f"{refine.masks}: holds masks of none of the {len(tagged)} tagged training photos;"
            f" expected, for '{missing[0]}' and the others, PNGs in a folder ID/, an index map"
            " ID.png, or COCO run lengths: ID.json or one JSON file that names the photos"
        )
    if missing:
        log.warning(
            "%s: %d of %d tagged training photos have no masks and keep their labels: %s",
            refine.masks,
            len(missing),
            len(tagged),
            first_few(missing),
        )


def check_place(job: Job, *, force: bool) -> None:
    """Refuse a run folder that is the data set, or that holds photos and would be deleted.

    Raises:
        DscnetError: The message names both.
    """
    root = job.folder.root.resolve()
    if root == Path(job.config.data).resolve():
        raise DscnetError(f"{root} is the data set: name another folder for the run")
    inside = [s.image_path for s in job.train.samples if root in s.image_path.resolve().parents]
    if force and inside:
        raise DscnetError(f"{root}: --force would delete photos of the data set, {inside[0]}")


def check_trainings(job: Job, stages: Collection[str]) -> None:
    """Refuse what would stop a training before its first step; who only reads a run needs none.

    Args:
        job: Settings and photos.
        stages: Those of ``train`` and ``segment`` that are to train a network.

    Raises:
        ValueError: If the processor or its precision is not there, or photos are too few.
        DscnetError: If pretrained weights do not exist, or a file is of another network.
    """
    config = job.config
    model, segment = config.model, config.segment
    if "train" in stages:
        check_hardware("train", config.train)
        if _held_here(model.backbone, model.weights):
            build_model(config, 1)
    if "segment" not in stages or config.own_branch:
        return
    check_hardware("segment", segment)
    photos = min(segment.batch_size, len(job.train.samples))
    if photos < 2 and type(_segmenter_on_meta(config)) is Segmenter:
        raise ValueError(
            f"segment: DeepLabV3+ needs at least 2 photos a step, got {photos}: set"
            " segment.batch_size to 2 or more, on as many training photos"
        )
    trunk = segment.backbone or model.backbone, segment.weights or model.weights
    if _held_here(*trunk):
        build_segmenter(config, 2)


def _held_here(backbone: str, weights: str) -> bool:
    """Whether weights are a file; a name that means none is refused."""
    if names_file(weights) or backbone == RESNET38:
        return weights != "none"
    tagged_name(backbone, weights)
    return False


def size_notes(job: Job) -> list[str]:
    """Which things are too small for the network, at the size that it sees photos at."""
    return small_object_notes(job.train, build_scale(job.config), job.config.model.output_stride)


def check_photos(job: Job) -> None:
    """Refuse photos that training or labelling would stumble over, all of them at once."""
    config = job.config
    stride = config.model.output_stride
    report = check_dataset(job.train, min_size=stride, need_saliency=config.needs_saliency)
    if job.val is None:
        report.info += missing_split_notes(
            job.train.name, config.val_split, available_splits(config.data)
        )
    else:
        report.add(check_dataset(job.val, min_size=stride))
        compare_splits(job.train, job.val, report)
    for line in (*report.info, *report.warnings):
        log.info("data: %s", line)
    if not report.ok:
        raise DataError("the data set cannot be used as it is:\n  " + "\n  ".join(report.errors))
    for line in size_notes(job):
        log.info("data: %s", line)
    open_masks(job)
