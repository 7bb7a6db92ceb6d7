"""Timing of a training step and of its contrastive loss, for the paper's Table V."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dscnet.build import build_model, build_objective, device_of
from dscnet.config import Config
from dscnet.objective import AuxSegObjective, CamObjective
from dscnet.types import Batch, ModelOutput

Step = Callable[[], None]

PRECISIONS = {"32": None, "bf16-mixed": torch.bfloat16}
"""Lightning's precisions and the corresponding autocast dtypes."""


def take_turns(steps: Mapping[str, Step], count: int) -> dict[str, list[float]]:
    """Seconds of each step, ``count`` values each, after a warm-up.

    Interleaved, so that changes in machine speed affect all equally.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(count + 1):
        for name, step in steps.items():
            _wait()
            started = time.perf_counter()
            step()
            _wait()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def random_batch(config: Config, num_classes: int) -> Batch:
    """Noise photos with 1 to 4 tags, and masks and saliency for AuxSegNet.

    Args:
        config: Provides batch size, crop size and accelerator.
        num_classes: Foreground classes.
    """
    size, crop = config.train.batch_size, config.augment.crop_size
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(size, 3, crop, crop, generator=generator)
    tags = torch.zeros(size, num_classes)
    for row in range(size):
        tags[row, torch.randperm(num_classes, generator=generator)[: 1 + row % 4]] = 1
    mask = torch.randint(0, num_classes + 1, (size, crop, crop), generator=generator)
    batch = Batch(
        image.contiguous(memory_format=torch.channels_last),
        tags,
        [str(row) for row in range(size)],
        mask if config.has_rounds else None,
        (mask > 0)[:, None].float() if config.has_rounds else None,
    )
    return batch.to(device_of(config.train.accelerator))


def training_step(config: Config, batch: Batch, num_classes: int) -> Step:
    """A training step without the optimiser, at ``train.precision``, with contrastive losses.

    Raises:
        ValueError: If the precision is not one of ``PRECISIONS``.
    """
    if config.train.precision not in PRECISIONS:
        raise ValueError(
            f"train.precision must be one of {', '.join(PRECISIONS)} to be timed,"
            f" got {config.train.precision}"
        )
    dtype = PRECISIONS[config.train.precision]
    model, cam_objective = _networks(config, batch, num_classes)
    objective: nn.Module = cam_objective
    if config.has_rounds:
        objective = AuxSegObjective(cam_objective).train()

    def step() -> None:
        model.zero_grad()
        with torch.autocast(batch.image.device.type, dtype, enabled=dtype is not None):
            total = objective(model(batch.image, batch.tags), batch, 1.0).total
        total.backward()

    return step


def contrast_step(config: Config, batch: Batch, num_classes: int) -> Step:
    """The contrastive loss only, forward and backward, on given features, in float32.

    Includes embeddings and Eq. (3) with ``method.contrast: pixels``; embeddings, clustering and
    Eq. (7) with ``groups``.

    Raises:
        ValueError: If the variant has no contrastive loss.
    """
    model, objective = _networks(config, batch, num_classes)
    context, contrast = model.context, objective.contrast
    if context is None or contrast is None:
        raise ValueError(
            f"method.variant must have a contrastive loss, got {config.method.variant}"
        )
    with torch.no_grad(), _Inputs(context) as inputs:
        output: ModelOutput = model(batch.image, batch.tags)
    views = [view for view in (output, output.second) if view is not None]
    cams = [view.final_logits for view in views]
    known = [view.context for view in views if view.context is not None]
    pixels = config.method.contrast == "pixels"

    def step() -> None:
        context.zero_grad()
        if pixels:
            contexts = [
                replace(old, embeddings=context.embed(features))
                for old, ((features, *_), _) in zip(known, inputs.calls, strict=True)
            ]
        else:
            contexts = [context(*positional, **named) for positional, named in inputs.calls]
        contrast(contexts, cams, batch.tags, 1.0).total.backward()

    return step


class _Inputs:
    """Context manager that records the inputs of a module's calls."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __enter__(self) -> _Inputs:
        def note(module: nn.Module, positional: Any, named: Any) -> None:
            self.calls.append((positional, named))

        self.hook = self.module.register_forward_pre_hook(note, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.hook.remove()


def _networks(config: Config, batch: Batch, num_classes: int) -> tuple[Any, CamObjective]:
    torch.manual_seed(0)
    device = batch.image.device
    model = build_model(config, num_classes).to(device).train()
    objective = build_objective(config.method, num_classes + 1).to(device).train()
    return model, objective


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
