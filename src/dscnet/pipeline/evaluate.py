"""Stage ``evaluate``: evaluates all stages, against ground-truth masks if there are any."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dscnet.build import build_model
from dscnet.data import read_mask
from dscnet.distributed.ranks import on_first, own_part
from dscnet.files.label_images import read_labels
from dscnet.metrics import evaluation
from dscnet.metrics.tag_agreement import tag_agreement
from dscnet.models.checkpoint import restore
from dscnet.pipeline.job import Job, data_mark
from dscnet.pipeline.maps import background_score, load_map, scored_by_saliency
from dscnet.pipeline.measuring import (
    ground_truth_masks,
    label_pairs,
    measure_rounds,
    measure_segmenters,
)
from dscnet.pipeline.refine import own_background, refined_labels
from dscnet.pipeline.stage import Stage
from dscnet.pipeline.tag_validation import tag_map
from dscnet.pipeline.timing import stage_times
from dscnet.run_folder import RunFolder, read_record


def evaluate(job: Job, resume: bool) -> None:
    """Write ``metrics.json``."""
    sections = measure(job)
    if job.config.has_rounds and job.folder.fingerprint_of("train"):
        sections["rounds"] = measure_rounds(job)
    elif job.config.segment.rounds > 1 and job.folder.fingerprint_of("segment"):
        sections["rounds"] = measure_segmenters(job)
    sections["timing"] = stage_times(job.folder)
    on_first(evaluation.write_metrics)(job.folder.metrics, sections)


def measure(job: Job) -> dict[str, Any]:
    """Evaluate all stages that have run.

    Returns:
        Sections of ``metrics.json``; None without ground-truth masks.
    """
    config, folder = job.config, job.folder
    classes = job.train.classes
    train_masks = ground_truth_masks(job.train)
    val_masks = ground_truth_masks(job.val)
    sections: dict[str, Any] = {
        "cam": None,
        "pseudo_label": None,
        "segmenter": None,
        "tags": {"map": None},
        "supervision": config.supervision,
    }
    measured = train_masks and (folder.fingerprint_of("cam") or folder.fingerprint_of("label"))
    bg_score = background_score(job) if measured else None
    if train_masks and bg_score is not None and folder.fingerprint_of("cam"):
        items = (
            (*load_map(folder.cams, image_id), read_mask(path).numpy())
            for image_id, path in own_part(train_masks)
        )
        sections["cam"] = evaluation.evaluate_cams(
            items, classes, split=config.train_split, bg_score=bg_score
        )
    if train_masks and folder.fingerprint_of("label"):
        pairs = label_pairs(folder.labels, train_masks)
        sections["pseudo_label"] = evaluation.evaluate_pairs(
            pairs,
            classes,
            split=config.train_split,
            bg_score=None if own_background(config) else bg_score,
        )
    if train_masks and config.refine.steps and folder.fingerprint_of("refine"):
        sections["refine"] = refinement_section(job, train_masks)
    if val_masks and folder.fingerprint_of("segment"):
        pairs = label_pairs(folder.masks, val_masks)
        sections["segmenter"] = evaluation.evaluate_pairs(pairs, classes, split=config.val_split)
    if job.val is not None and folder.fingerprint_of("segment"):
        masks = (
            (folder.masks / f"{sample.image_id}.png", sample.tags)
            for sample in own_part(job.val.samples)
        )
        sections["tags"] |= tag_agreement(
            # Photos that could not be read have no mask.
            (read_labels(path), tags)
            for path, tags in masks
            if tags is not None and path.exists()
        )
    if folder.fingerprint_of("train"):
        sections["tags"]["map"] = tag_score(job)
    return sections


def tag_score(job: Job) -> float | None:
    """The tag mAP of the CAM network, computed again if the validation photos have changed."""
    record, now = read_record(job.folder.tag_scores), data_mark(job, "val")
    if record.get("photos", now) == now:
        value: float | None = record["map"]
        return value
    model = build_model(job.config, job.train.num_classes, pretrained=False)
    restore(model, job.folder.weights)
    return tag_map(job, model)


def refinement_section(job: Job, masks: list[tuple[str, Path]]) -> dict[str, Any]:
    """Evaluate the labels before refinement and after each step: mIoU and seconds."""
    folder, classes = job.folder, job.train.classes
    seconds = read_record(folder.refinement)
    before, *after = evaluation.evaluate_each(
        _refined_items(folder, masks), classes, count=1 + len(seconds), split=None
    )
    steps = []
    for (name, spent), section in zip(seconds.items(), after, strict=True):
        step = {"step": name, "seconds": round(spent, 2), "miou": section["miou"]}
        training = folder.learned / name / "training.json"
        if training.exists():
            step |= read_record(training)
        steps.append(step)
    return {"miou_before": before["miou"], "steps": steps}


def _refined_items(
    folder: RunFolder, masks: list[tuple[str, Path]]
) -> Iterator[tuple[list[NDArray[Any]], NDArray[Any]]]:
    """Labels before refinement and after each step, and the mask, of each of this rank's photos."""
    for image_id, path in own_part(masks):
        true = read_mask(path).numpy()
        before = read_labels(folder.unrefined / f"{image_id}.png")
        after = refined_labels(folder.refined, image_id, (true.shape[0], true.shape[1]))
        yield [before, *after], true


STAGE = Stage(
    "evaluate",
    evaluate,
    makes=lambda job: (job.folder.metrics,),
    settings=lambda config: {
        "refine": config.refine,
        "label": config.label,
        "segment": config.segment,
    },
    reads=("train", "cam", "refine", "label", "segment"),
    masks=lambda config: True,
    saliency=scored_by_saliency,
)
