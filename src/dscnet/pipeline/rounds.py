"""AuxSegNet's rounds of self-training.

Round 0 trains a plain CAM on tags, or uses external CAMs; with saliency they give the first labels.
Each further round trains AuxSegNet, from the second on starting from the previous round's weights,
and writes CAMs, saliency labels and labels for the next one into its own folder. Finished rounds
are not repeated; an interrupted one continues from its last epoch.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from dscnet.build import (
    build_eval_transform,
    build_model,
    build_objective,
    build_scale,
    device_of,
)
from dscnet.config import Config
from dscnet.config.settings import replace_settings
from dscnet.data import Sample, image_size, read_image, read_saliency
from dscnet.data.tag_files import first_few
from dscnet.data.transforms import resize_labels
from dscnet.distributed.ranks import on_first, share, sum_over_ranks
from dscnet.files.label_images import write_label, write_saliency
from dscnet.labels.cam import resize_photos
from dscnet.labels.pseudo_label import best_label, resize_map
from dscnet.models import AuxSegNet, PlainCam
from dscnet.models.checkpoint import restore
from dscnet.objective import AuxSegObjective
from dscnet.pipeline.cam_maps import write_cams
from dscnet.pipeline.cam_network import train_cam_network, training_settings
from dscnet.pipeline.counts_file import counts_file
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import (
    FALLBACK,
    check_external_files,
    estimated_score,
    load_work_map,
    score_counts,
    work_photo,
    work_size,
)
from dscnet.pipeline.self_training import trusted_evidence, write_self_training_labels
from dscnet.pipeline.stage import Inputs, Trained, collect_inputs, network_code
from dscnet.predictor import Predictor, refuse_failures
from dscnet.refine.saliency import (
    fill_undecided,
    fit_to_photo,
    fuse_saliency,
    refresh_saliency,
    saliency_from_cam,
)
from dscnet.run_folder import RunFolder, fingerprint, fresh_folder
from dscnet.types import IGNORE_INDEX, DataError

log = logging.getLogger("dscnet")

SEED_STEP = 1009
"""Difference of the seeds of two rounds, so that each shuffles the photos differently."""

MIN_SALIENT = 0.2
"""A class is reported if less than this fraction of its first CAMs is salient."""


def train_rounds(job: Job) -> None:
    """Run all rounds; the network of the last one is the CAM network of the run."""
    folder, last = job.folder, job.config.auxseg.rounds
    inputs = round_inputs(job)
    mark = fingerprint(inputs)
    for index in range(last + 1):
        one = _job_of_round(job, index)
        if one.folder.is_done("round", mark):
            log.info("round %d: up to date", index)
            continue
        log.info("round %d of %d ...", index, last)
        if not one.folder.start("round", mark, inputs=inputs):
            _delete_rounds_from(folder, index)
            one.folder.start("round", mark, inputs=inputs)
        started = time.monotonic()
        if index == 0:
            _first_labels(one)
        else:
            _one_round(one, job.folder, index)
        one.folder.finish("round", mark, time.monotonic() - started, inputs=inputs)
    for kept in ("weights", "tag_scores", "losses", "model_card"):
        _copy(getattr(folder.round(last), kept), getattr(folder, kept))


def round_inputs(job: Job) -> Inputs:
    """Inputs of a round, independent of the number of rounds."""
    config = replace_settings(job.config, {"auxseg.rounds": 1})
    return collect_inputs(
        job,
        settings=training_settings(config),
        code=(__name__, *network_code(config)),
        saliency=config.needs_saliency,
        val=config.train.keep == "best",
    )


def round_mark(job: Job) -> str:
    """Fingerprint of a finished round."""
    return fingerprint(round_inputs(job))


def trained_rounds(job: Job) -> list[Trained]:
    """The trainings of all rounds."""
    inputs = round_inputs(job)
    folders = [job.folder.round(index) for index in range(job.config.auxseg.rounds + 1)]
    return [
        Trained(
            f"round {index} of AuxSegNet",
            folder,
            "round",
            inputs,
            folder.weights,
            folder.checkpoints / "last.ckpt",
        )
        for index, folder in enumerate(folders)
    ]


def check_rounds(job: Job) -> None:
    """Reject invalid settings of the rounds.

    Raises:
        ValueError: With the setting and the remedy.
        DataError: If external CAMs are missing.
    """
    config, auxseg = job.config, job.config.auxseg
    if config.keeps_labels and config.refine.steps:
        raise ValueError(
            "auxseg.last_round_labels: the labels of a round cannot be refined: leave refine.steps"
            " empty"
        )
    if auxseg.rounds < 1:
        raise ValueError(f"auxseg.rounds must be at least 1, got {auxseg.rounds}")
    dilations = auxseg.dilations
    if dilations is not None and (len(dilations) != 3 or min(dilations) < 1):
        raise ValueError(f"auxseg.dilations must be three numbers >= 1, got {dilations}")
    for name in ("cam_score", "saliency_score"):
        score = getattr(auxseg, name)
        if score != "auto" and not 0 <= score <= 1:
            raise ValueError(f"auxseg.{name} must be in [0, 1], got {score}")
    check_external_files(job, "auxseg.cams", auxseg.cams, ".npz")
    # Not an error: recipes name classes of the data set they were written for.
    if unknown := [name for name in auxseg.stuff if name not in job.train.classes]:
        log.warning("auxseg.stuff: the data set has no class %s", first_few(unknown))


@on_first
def _delete_rounds_from(run: RunFolder, index: int) -> None:
    """Delete a round with other inputs and all later ones."""
    while (root := run.round(index).root).exists():
        shutil.rmtree(root)
        index += 1


def _job_of_round(job: Job, index: int) -> Job:
    """The job of one round: its folder and seed; round 0 is a plain CAM in every variant."""
    config = replace(job.config, seed=job.config.seed + SEED_STEP * index)
    if index == 0:
        config = replace(
            config,
            model=replace(config.model, name="cam"),
            method=replace(config.method, variant="baseline"),
        )
    return replace(job, config=config, folder=job.folder.round(index))


def _first_labels(job: Job) -> None:
    """Round 0: CAMs of a plain CAM network, initial saliency, and labels from both."""
    cams = _first_maps(job)
    cam_score = _cam_score(job, cams)
    fresh_folder(job.folder.saliency)
    fresh_folder(job.folder.labels)
    shown, kept = (np.zeros(job.train.num_labels, dtype=np.int64) for _ in range(2))
    for sample in share(job.train.samples):
        maps, classes = load_work_map(job, cams, sample)
        saliency = _first_saliency(job, sample, maps)
        _write_saliency(job, sample, saliency)
        labels = _labels_of_maps(job, sample, maps, classes, saliency, cam_score)
        _write_labels(job.folder.labels, sample, labels)
        best, winner = best_label(maps, classes)
        shown += np.bincount(winner[best > cam_score], minlength=len(shown))
        kept += np.bincount(labels[labels != IGNORE_INDEX], minlength=len(kept))
    sum_over_ranks(shown, kept)
    for name, whole, part in zip(job.train.classes, shown[1:], kept[1:], strict=True):
        if part < MIN_SALIENT * whole:
            log.warning(
                "%s: only %.0f %% of the pixels in its first CAMs are salient; the rest stays"
                " undecided. If this class does not stand out in photos, add it to auxseg.stuff",
                name,
                100 * part / whole,
            )


def _first_maps(job: Job) -> Path:
    """Folder of the first CAMs: external ones, or those of a plain CAM trained here."""
    if job.config.auxseg.cams is not None:
        return Path(job.config.auxseg.cams)
    model = _network(job)
    if not job.folder.tag_scores.exists():
        train_cam_network(
            job, model, build_objective(job.config.method, job.train.num_labels), True
        )
    restore(model, job.folder.weights)
    write_cams(job, model)
    return job.folder.cams


def _first_saliency(job: Job, sample: Sample, maps: NDArray[np.floating]) -> NDArray[np.floating]:
    if job.config.auxseg.saliency == "from_cam":
        return saliency_from_cam(maps)
    if sample.saliency_path is None:
        raise DataError(
            f"{sample.image_path}: has no saliency map; add one, or use auxseg.saliency from_cam"
        )
    return _read_map(job, sample, sample.saliency_path)


def _one_round(job: Job, run: RunFolder, index: int) -> None:
    """Train on the labels of the previous round and make those of the next."""
    before = run.round(index - 1)
    model = _network(job)
    assert isinstance(model, AuxSegNet)
    if not job.folder.tag_scores.exists():
        if index > 1:
            restore(model, before.weights)
        objective = AuxSegObjective(build_objective(job.config.method, job.train.num_labels))
        train_cam_network(
            job, model, objective, True, mask_dir=before.labels, saliency_dir=before.saliency
        )
    restore(model, job.folder.weights)
    write_cams(job, model)
    _refresh_labels(job, model, run, index)


def write_round_masks(job: Job) -> None:
    """Write the masks of the validation photos by the segmentation branch of each round.

    Those of the last round are the run's, unless another network is trained on the labels.
    """
    if job.val is None:
        return
    for index in range(1, job.config.auxseg.rounds + 1):
        folder = job.folder.round(index)
        fresh_folder(folder.masks)
        refuse_failures(_branch(job.config, folder).write(job.val, folder.masks))
    if job.config.own_branch:
        fresh_folder(job.folder.masks)
        on_first(shutil.copytree)(folder.masks, job.folder.masks, dirs_exist_ok=True)


def _network(job: Job) -> PlainCam:
    # With pretrained weights in every round: the normalisation of photos depends on them.
    L.seed_everything(job.config.seed, workers=True, verbose=False)
    return build_model(job.config, job.train.num_classes)


@torch.inference_mode()
def _refresh_labels(job: Job, model: AuxSegNet, run: RunFolder, index: int) -> None:
    """Write saliency labels and labels of all training photos for the next round."""
    by_branch = job.config.auxseg.self_training_source == "branch"
    device = device_of(job.config.train.accelerator)
    model.to(device).eval()
    transform = build_eval_transform(model.backbone.mean, model.backbone.std)
    scale = build_scale(job.config)
    of_maps = job.folder.unrefined if by_branch else job.folder.labels
    fresh_folder(job.folder.saliency)
    fresh_folder(of_maps)
    cam_score = _cam_score(job, job.folder.cams)
    for sample in share(job.train.samples):
        size, photo = image_size(sample.image_path), work_photo(job.config, sample.image_path)
        image = read_image(sample.image_path, scale.read_side([1.0]))
        view = resize_photos(transform(image, None)[0][None], scale.view_size(size, 1.0))
        _, predicted = model.dense_scores(view.to(device))
        saliency = refresh_saliency(
            resize_map(predicted[0, 0].float().cpu().numpy(), scale.work_size(size)),
            _read_map(job, sample, run.round(0).saliency / f"{sample.image_id}.png"),
            photo.permute(1, 2, 0).numpy(),
            refine=fit_to_photo if job.config.auxseg.crf else None,
        )
        _write_saliency(job, sample, saliency)
        maps, classes = load_work_map(job, job.folder.cams, sample)
        labels = _labels_of_maps(job, sample, maps, classes, saliency, cam_score)
        _write_labels(of_maps, sample, labels)
    if by_branch:
        # The CRF comes after the product with the labels.
        plain = replace(job.config, segment=replace(job.config.segment, crf=False))
        branches = [_branch(plain, run.round(each)) for each in range(1, index + 1)]
        write_self_training_labels(job, branches, trusted_evidence(job, of_maps), job.folder.labels)


def _branch(config: Config, folder: RunFolder) -> Predictor:
    """The segmentation branch of a round."""
    config = replace(config, segment=replace(config.segment, network="branch"))
    return Predictor.from_weights(config, folder.weights, folder.read_card())


def _cam_score(job: Job, cams: Path) -> float:
    """Threshold of objects in CAMs: the setting, or estimated from the CAMs."""
    score = job.config.auxseg.cam_score
    if score != "auto":
        return float(score)
    counts = score_counts(job.train, cams, cache=counts_file(job.folder))
    return estimated_score(counts, FALLBACK, cams)


def _labels_of_maps(
    job: Job,
    sample: Sample,
    maps: NDArray[np.floating],
    classes: NDArray[np.integer],
    saliency: NDArray[np.floating],
    cam_score: float,
) -> NDArray[np.uint8]:
    auxseg = job.config.auxseg
    labels = fuse_saliency(
        maps,
        classes,
        saliency,
        cam_score=cam_score,
        saliency_score=auxseg.saliency_score,
        stuff=job.stuff,
    )
    if auxseg.fill_undecided:
        device = device_of(job.config.train.accelerator)
        photo = work_photo(job.config, sample.image_path)
        labels = fill_undecided(labels, classes, photo.to(device))
    return labels


def _read_map(job: Job, sample: Sample, path: Path) -> NDArray[np.floating]:
    """A photo's saliency map at the size of its CAMs."""
    return resize_map(read_saliency(path)[0].numpy(), work_size(job.config, sample.image_path))


def _write_saliency(job: Job, sample: Sample, saliency: NDArray[np.floating]) -> None:
    """Write a photo's saliency map into the round's folder, at the photo's size."""
    own = resize_map(saliency, image_size(sample.image_path))
    write_saliency(job.folder.saliency / f"{sample.image_id}.png", own)


def _write_labels(folder: Path, sample: Sample, labels: NDArray[np.uint8]) -> None:
    """Write a photo's labels at the photo's size."""
    own = resize_labels(torch.from_numpy(labels), image_size(sample.image_path))
    write_label(folder / f"{sample.image_id}.png", own.numpy())


@on_first
def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
