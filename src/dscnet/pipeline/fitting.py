"""Training of a network with Lightning."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import nn

from dscnet.build import device_of, optimiser_settings
from dscnet.config import OptimiserConfig, TrainConfig
from dscnet.data import PhotoDataset, make_loader
from dscnet.distributed.ranks import on_first, rank, world_size
from dscnet.models.compiled import CompiledForward, compiler_problem
from dscnet.pipeline.allocator import fast_allocation
from dscnet.pipeline.job import Job
from dscnet.pipeline.profiling import StepProfile
from dscnet.pipeline.timing import PhotoCount
from dscnet.run_folder import write_text
from dscnet.training import TrainingModule, fit
from dscnet.types import DscnetError

log = logging.getLogger("dscnet")


@dataclass(frozen=True)
class Training:
    """A network, its data and objective, and where the results go.

    Attributes:
        model: The network.
        objective: Called as ``objective(output, batch, progress)``; returns ``LossTerms``.
        dataset: Photos and their labels.
        settings: Settings of the optimiser.
        folder: Folder of the checkpoint, ``last.ckpt``.
        losses: CSV file of the losses, a row per step.
        callbacks: Lightning callbacks.
    """

    model: nn.Module
    objective: nn.Module
    dataset: PhotoDataset
    settings: OptimiserConfig
    folder: Path
    losses: Path
    callbacks: Sequence[Any] = ()


def optimise(job: Job, training: Training, *, resume: bool) -> None:
    """Train; with ``resume`` from the checkpoint in the folder, if there is one."""
    watching = watchers(job, training.folder)
    compiling = compilers(training.model, training.settings)
    training = replace(training, callbacks=[*training.callbacks, *watching, *compiling])
    config, settings, dataset = job.config, training.settings, training.dataset
    if not resume:
        on_first((training.folder / "last.ckpt").unlink)(missing_ok=True)
    loader = make_loader(
        dataset,
        batch_size=min(settings.batch_size, len(dataset)),
        seed=config.seed,
        shuffle=True,
        num_workers=config.augment.num_workers,
        drop_last=True,
        rank=rank(),
        ranks=world_size(),
    )
    total_steps = settings.steps(len(loader))
    module = TrainingModule(
        training.model,
        training.objective,
        total_steps=total_steps,
        seed=config.seed,
        **optimiser_settings(settings),
    )
    with fast_allocation():
        fit(
            module,
            loader,
            epochs=math.ceil(total_steps / len(loader)),
            folder=training.folder,
            log_path=training.losses,
            clip=settings.clip,
            precision=settings.precision,
            accelerator=settings.accelerator,
            # Free on CPUs, expensive on GPUs.
            deterministic=settings.deterministic or device_of(settings.accelerator).type == "cpu",
            resume=resume,
            callbacks=list(training.callbacks),
            progress=job.progress,
        )


def watchers(job: Job, folder: Path) -> list[Callback]:
    """Callbacks that only measure: the number of photos and, if asked for, a profile."""
    profiles = [] if job.profile is None else [StepProfile(job.profile, folder)]
    return [PhotoCount(job), *profiles]


class CompiledSteps(Callback):
    """Runs a module compiled in training steps, and as it is otherwise."""

    def __init__(self, module: nn.Module) -> None:
        self.forward = CompiledForward(module)

    def on_train_batch_start(self, *_: Any) -> None:
        """Use the compiled forward pass."""
        self.forward.on()

    def on_train_batch_end(self, *_: Any) -> None:
        """Use the usual one, for scores between epochs too."""
        self.forward.off()

    def on_exception(self, *_: Any) -> None:
        """The same after an interruption."""
        self.forward.off()


def compilers(model: nn.Module, settings: OptimiserConfig) -> list[Callback]:
    """The callback that compiles the backbone, if ``train.compile`` says so."""
    if not isinstance(settings, TrainConfig) or not check_compiler(settings):
        return []
    backbone = model.backbone
    assert isinstance(backbone, nn.Module)
    return [CompiledSteps(backbone)]


def check_compiler(settings: TrainConfig) -> bool:
    """Whether the training is compiled; warns if ``auto`` finds no compiler.

    Raises:
        ValueError: If there is none and ``train.compile`` is true.
    """
    if not settings.compile:
        return False
    problem = compiler_problem(device_of(settings.accelerator))
    if problem is None:
        return True
    if settings.compile == "auto":
        log.warning("train.compile: nothing is compiled: %s", problem)
        return False
    raise ValueError(
        f"train.compile: PyTorch cannot compile here: {problem} (it needs a C++ compiler for CPUs,"
        " triton for CUDA); use auto or false"
    )


def write_card(path: Path, job: Job, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Write what prediction needs besides weights and settings: classes and normalisation."""
    photos = job.train
    card = {
        "data": photos.name,
        "classes": list(photos.classes),
        "mean": list(mean),
        "std": list(std),
    }
    write_text(path, json.dumps(card, indent=2) + "\n")


def check_processes(settings: TrainConfig) -> None:
    """Refuse settings of devices and machines that are not those of the running processes.

    Raises:
        DscnetError: With both numbers and the remedy.
    """
    expected = settings.devices * settings.num_nodes
    if expected not in (1, world_size()):
        raise DscnetError(
            f"train.devices: {settings.devices} on {settings.num_nodes} machines are {expected}"
            f" processes, but {world_size()} share this run: start them with `dscnet run` or with"
            " torchrun, or leave out the settings"
        )


def check_shares(name: str, settings: OptimiserConfig, photos: int) -> None:
    """Refuse a batch that the processes cannot share equally.

    Args:
        name: Section of the settings, for the message.
        settings: The section.
        photos: Number of training photos.

    Raises:
        ValueError: With the batch size and the number of processes.
    """
    batch_size, ranks = min(settings.batch_size, photos), world_size()
    if batch_size % ranks:
        raise ValueError(
            f"{name}.batch_size: {batch_size} photos are not divisible among {ranks} processes:"
            f" use a multiple of {ranks}, with at least as many training photos"
        )


def check_optimiser(name: str, settings: OptimiserConfig) -> None:
    """Reject numbers with which training would fail at the start.

    Args:
        name: Section of the settings, for the message.
        settings: The section.

    Raises:
        ValueError: With the setting and its bounds.
    """
    counts = {"epochs": settings.epochs, "iterations": settings.iterations}
    counts["batch_size"] = settings.batch_size
    if isinstance(settings, TrainConfig):
        counts |= {"devices": settings.devices, "num_nodes": settings.num_nodes}
    for key, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name}.{key} must be at least 1, got {count}")
    if not 0 <= settings.lr_warmup < 1:
        raise ValueError(f"{name}.lr_warmup must be in [0, 1), got {settings.lr_warmup}")
