"""Shared code of refinement steps that train a network.

The folder ``affinity/STEP`` of a run contains the labels it was trained on, its checkpoint, losses
and weights, and the training time.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscnet.build import build_eval_transform, build_model, build_scale
from dscnet.config import AffinityConfig, Config, IrnConfig
from dscnet.data import PhotoDataset, Sample
from dscnet.data.scale import PhotoScale
from dscnet.data.transforms import resize_photo
from dscnet.distributed.ranks import on_first, rank
from dscnet.files.atomic import whole_file
from dscnet.models.affinitynet import AffinityNet
from dscnet.models.checkpoint import restore, store
from dscnet.models.irn import BoundaryNet
from dscnet.pipeline.fitting import Training, optimise
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import maps_needs
from dscnet.pipeline.stage import (
    Trained,
    collect_inputs,
    flat_settings,
    learning_settings,
    without,
)
from dscnet.refine.pairs import pair_offsets
from dscnet.refine.steps import RefinementStep, Step
from dscnet.run_folder import RunFolder, fingerprint, read_record

PairNet = AffinityNet | BoundaryNet


@dataclass(frozen=True)
class TrainedStep:
    """A refinement step that trains a network; its section of the settings has the same name.

    Attributes:
        name: Name of the step.
        code: Module of the step.
        build: Builds the network; the second argument says whether to load pretrained weights.
        objective: Builds the training objective.
        write_labels: Writes the training labels into a folder; existing files are kept.
        dataset: Photos with these labels, given the network and the folder.
        step: The refinement by the trained network.
        walk: Names of the settings that only the refinement depends on.
    """

    name: str
    code: str
    build: Callable[[Config, bool], PairNet]
    objective: Callable[[Config], nn.Module]
    write_labels: Callable[[Job, Path], None]
    dataset: Callable[[Job, PairNet, Path], PhotoDataset]
    step: Callable[[Config, PairNet], Step]
    walk: tuple[str, ...]

    def settings_of(self, config: Config) -> AffinityConfig | IrnConfig:
        """Its section of the settings."""
        settings: AffinityConfig | IrnConfig = getattr(config, self.name)
        return settings

    def needs(self, config: Config) -> tuple[str, ...]:
        """Stage ``train`` if it starts from the backbone of the CAM network."""
        return ("train",) if self.settings_of(config).start == "cam" else ()

    def settings(self, config: Config) -> Mapping[str, Any]:
        """Settings that its training and its refinement depend on."""
        return {self.name: self.settings_of(config), **learning_settings(config)}

    def trained(self, job: Job) -> list[Trained]:
        """Its training, for the stage's record."""
        folder = RunFolder(job.folder.learned / self.name)
        settings = flat_settings(self.settings(job.config))
        settings = without(settings, *(f"{self.name}.{name}" for name in self.walk))
        inputs = collect_inputs(
            job,
            settings={**settings, "label.cams": job.config.label.cams},
            stages=(*maps_needs(job.config), *self.needs(job.config)),
            code=(self.code,),
            val=False,
        )
        weights, checkpoint = (folder.root / n for n in ("weights.safetensors", "last.ckpt"))
        return [Trained(f"'{self.name}'", folder, "network", inputs, weights, checkpoint)]

    def refinement_step(
        self, check: Callable[[Job], None], *, own_background: bool = False
    ) -> RefinementStep:
        """The step as the registry knows it."""
        return RefinementStep(
            self.name,
            self.open,
            needs=self.needs,
            settings=self.settings,
            check=check,
            trained=self.trained,
            from_scores=True,
            own_background=own_background,
        )

    def open(self, job: Job) -> Callable[[Sample], Step]:
        """Train the network unless it has been trained, and return its step."""
        L.seed_everything(job.config.seed, workers=True, verbose=False)
        net = self.build(job.config, self.settings_of(job.config).start == "weights")
        (plan,) = self.trained(job)
        mark = fingerprint(plan.inputs)
        if not (plan.folder.is_done(plan.record, mark) and plan.weights.exists()):
            if not plan.folder.start(plan.record, mark, inputs=plan.inputs):
                on_first(shutil.rmtree)(plan.folder.root)
                plan.folder.start(plan.record, mark, inputs=plan.inputs)
            started = time.monotonic()
            self._train(job, net, plan.folder.root)
            plan.folder.finish(plan.record, mark, time.monotonic() - started, inputs=plan.inputs)
        restore(net, plan.weights)
        step = at_scale_one(self.step(job.config, net), build_scale(job.config))
        return lambda sample: step

    def _train(self, job: Job, net: PairNet, folder: Path) -> None:
        """Train into its folder; an interrupted training continues from its last epoch."""
        settings = self.settings_of(job.config)
        self.write_labels(job, folder / "labels")
        dataset = self.dataset(job, net, folder / "labels")
        started = time.monotonic()
        if settings.start == "cam":
            trained = build_model(job.config, job.train.num_classes, pretrained=False)
            restore(trained, job.folder.weights)
            net.backbone.load_state_dict(trained.backbone.state_dict())
        objective, losses = self.objective(job.config), folder / "metrics.csv"
        training = Training(net, objective, dataset, settings, folder, losses)
        spent = folder / "training.json"
        before = read_record(spent)["training_seconds"] if spent.exists() else 0.0
        try:
            # A folder with other inputs has been deleted.
            optimise(job, training, resume=True)
        finally:
            _write_seconds(spent, before + time.monotonic() - started)
        on_first(store)(net, folder / "weights.safetensors")


def _write_seconds(path: Path, seconds: float) -> None:
    """Write the training time; without waiting for other ranks, which may have failed."""
    if rank() == 0:
        with whole_file(path) as file:
            file.write(f"{json.dumps({'training_seconds': round(seconds, 1)})}\n".encode())


def at_scale_one(step: Step, scale: PhotoScale) -> Step:
    """Apply a step at the input size of training, and resize its result."""

    def resized(scores: Tensor, photos: Tensor) -> Tensor:
        size = (photos.shape[-2], photos.shape[-1])
        seen = scale.view_size(size, 1.0)
        if seen == size:
            return step(scores, photos)
        there = F.interpolate(scores, seen, mode="bilinear", align_corners=False)
        spread = step(there, resize_photo(photos, seen))
        return F.interpolate(spread, size, mode="bilinear", align_corners=False)

    return resized


def photo_views(net: PairNet) -> Callable[[Tensor], Tensor]:
    """Function from uint8 photos to the input of the backbone."""
    transform = build_eval_transform(net.backbone.mean, net.backbone.std)

    def images(photos: Tensor) -> Tensor:
        return torch.stack([transform(photo.cpu(), None)[0] for photo in photos]).to(photos.device)

    return images


def check_walk_settings(
    step: str, settings: AffinityConfig | IrnConfig, name: str, pair: list[float]
) -> None:
    """Reject invalid settings of training or random walk."""
    if len(pair) != 2 or not 0 < pair[0] < pair[1]:
        raise ValueError(f"{step}.{name} must be two ascending numbers above 0, got {pair}")
    if settings.beta <= 0 or settings.log_steps < 0:
        raise ValueError(
            f"{step}.beta must be > 0 and {step}.log_steps >= 0, got {settings.beta} and"
            f" {settings.log_steps}"
        )


def check_crop(config: Config, name: str, radius: int, stride: int) -> None:
    """Refuse crops too small for a pair of cells."""
    pair_offsets(radius)
    least = 2 * (radius - 1) * stride
    if config.augment.crop_size <= least:
        raise ValueError(
            f"augment.crop_size must be above {least}, or {name} lower: {config.augment.crop_size}"
            f" pixels are too small for pairs within radius {radius} at stride {stride}"
        )
