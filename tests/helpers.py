"""What several test modules share: small runs, copies of data sets, interruptions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dscnet.config import Config
from dscnet.config.settings import replace_settings
from dscnet.pipeline.memory_use import peak_memory

SMALL_NETWORK = {
    "model.backbone": "test_resnet",
    "model.weights": "none",
    "model.output_stride": 8,
    # A few steps from a smaller start leave CAMs of nothing.
    "model.classifier_gain": 1.0,
}
"""A backbone of a tenth of the default one's cost; it is not pretrained."""

SMALL_RUN = SMALL_NETWORK | {
    "augment.crop_size": 64,
    "augment.long_side": [64, 96],
    "scale.side": 64,
    "method.warmup": 0.0,
    "train.epochs": 2,
    "train.batch_size": 4,
    "train.accelerator": "cpu",
    "cam.scales": [1.0],
    "cam.flip": False,
    "segment.epochs": 2,
    "segment.batch_size": 4,
    "segment.decoder_channels": 16,
    "segment.test_scales": [1.0],
    "segment.flip_test": False,
    "segment.accelerator": "cpu",
}


def small_config(data: Path, changes: Mapping[str, object] | None = None) -> Config:
    """The smallest run that still goes through everything.

    Args:
        data: Folder of the data set.
        changes: Dotted settings that differ, e.g. ``{"method.variant": "M1"}``.
    """
    return replace_settings(Config(data=str(data)), SMALL_RUN | dict(changes or {}))


def without(data: Path, target: Path, *parts: str) -> Path:
    """A copy of a data set that lacks some of its files or folders, e.g. ``saliency``."""
    return Path(shutil.copytree(data, target, ignore=shutil.ignore_patterns(*parts)))


def class_maps(mask: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[int]]:
    """The CAMs of a network that is always right.

    Args:
        mask: Labels, ``(h, w)``; 0 = background, 255 = undecided.

    Returns:
        Maps of zeros and ones, ``(n, h, w)``, and their classes, 0-based.
    """
    present = [int(label) for label in np.unique(mask) if label not in (0, 255)]
    maps = np.array([mask == label for label in present], dtype=np.float32)
    return maps.reshape(-1, *mask.shape), [label - 1 for label in present]


def peak_bytes(work: Callable[[], object]) -> float:
    """Memory that some work on the CPU takes at its peak; 0 where the system does not tell."""
    return peak_memory(work, torch.device("cpu"))[0]
