"""Stage ``train``: trains the CAM network on photos and tags, in rounds for AuxSegNet."""

from __future__ import annotations

from collections.abc import Iterator

import lightning as L
import torch

from dscnet.build import (
    build_model,
    build_objective,
    build_scale,
    build_train_transform,
    check_hardware,
    weights_are_here,
)
from dscnet.config import Config
from dscnet.pipeline.cam_network import train_cam_network, training_settings
from dscnet.pipeline.fitting import check_compiler, check_optimiser, check_shares
from dscnet.pipeline.job import Job
from dscnet.pipeline.stage import Stage, Trained, network_code


def train(job: Job, resume: bool) -> None:
    """Train the CAM network."""
    if job.config.has_rounds:
        from dscnet.pipeline.rounds import train_rounds

        train_rounds(job)
        return
    L.seed_everything(job.config.seed, workers=True, verbose=False)
    model = build_model(job.config, job.train.num_classes)
    objective = build_objective(job.config.method, job.train.num_labels)
    train_cam_network(job, model, objective, resume)


def _code(config: Config) -> tuple[str, ...]:
    rounds = ("dscnet.pipeline.rounds",) if config.has_rounds else ()
    return (*network_code(config), *rounds)


def _check(job: Job) -> None:
    config = job.config
    check_optimiser("train", config.train)
    if config.model.classifier_gain < 0:
        raise ValueError(
            f"model.classifier_gain must be at least 0, got {config.model.classifier_gain}"
        )
    method = config.method
    from_cam = method.variant != "baseline" and method.kmeans_init == "cam"
    if from_cam and method.num_groups is not None:
        raise ValueError(
            "method.num_groups must be null with method.kmeans_init: cam, which has a group per"
            f" label, got {method.num_groups}"
        )
    if config.has_rounds:
        from dscnet.pipeline.rounds import check_rounds

        check_rounds(job)
    build_scale(config)
    build_train_transform(config, mean=(0.5,) * 3, std=(0.5,) * 3)
    build_objective(config.method, job.train.num_labels)
    with torch.device("meta"):
        build_model(config, job.train.num_classes, pretrained=False)


def _check_training(job: Job) -> None:
    """Refuse unavailable hardware, and weights that are missing or do not fit."""
    model = job.config.model
    check_hardware("train", job.config.train)
    check_shares("train", job.config.train, len(job.train.samples))
    check_compiler(job.config.train)
    if weights_are_here(model.backbone, model.weights):
        build_model(job.config, 1)


def _trained(job: Job) -> Iterator[Trained]:
    if job.config.has_rounds:
        from dscnet.pipeline.rounds import trained_rounds

        rounds = trained_rounds(job)
        yield from rounds
        if any(one.has_results() for one in rounds):
            return
        # With the networks of the rounds deleted, the run's own files are all that is left of them.
    folder = job.folder
    checkpoint = folder.checkpoints / "last.ckpt"
    yield Trained("the CAM network", folder, "train", STAGE.inputs(job), folder.weights, checkpoint)


STAGE = Stage(
    "train",
    train,
    makes=lambda job: (job.folder.weights, job.folder.tag_scores),
    settings=training_settings,
    code=_code,
    saliency=lambda config: config.needs_saliency,
    val=lambda config: config.train.keep == "best",
    check=_check,
    check_training=_check_training,
    trained=_trained,
)
