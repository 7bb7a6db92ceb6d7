"""What several test modules share: small runs, copies of data sets, interruptions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from dscnet.config import Config
from dscnet.config.settings import replace_settings
from dscnet.pipeline.memory_use import peak_memory
from dscnet.training import CsvLog

PhotoOfClass = tuple[NDArray[np.uint8], str]

SECTION_KEYS = {
    "split",
    "num_images",
    "miou",
    "bg_score",
    "miou_best_bg",
    "best_bg_score",
    "iou",
    "pixel_accuracy",
}
"""What a section of ``metrics.json`` holds of a set of masks."""

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


def write_listed(root: Path, photos: Mapping[str, PhotoOfClass], splits: Mapping[str, str]) -> Path:
    """A data set with a table of tags and lists of splits.

    Args:
        root: Folder to write it into.
        photos: Pixels, ``(h, w, 3)`` uint8, and class of each photo by its name; "" = no class.
        splits: Names of the photos of each split, one letter each.
    """
    for folder in ("images", "splits"):
        (root / folder).mkdir()
    for name, (pixels, _) in photos.items():
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
    rows = "".join(f"{name},{tag}\n" for name, (_, tag) in photos.items())
    (root / "tags.csv").write_text("image_id,labels\n" + rows)
    for split, names in splits.items():
        (root / "splits" / f"{split}.txt").write_text("\n".join(names))
    return root


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


class Stopped(Exception):
    """Raised where a test interrupts a run."""


@contextmanager
def stopped_in_the_second_epoch(part: str = "") -> Iterator[None]:
    """The training started in the block is interrupted by :class:`Stopped`.

    Args:
        part: Only trainings whose log's path has this in it are interrupted.
    """
    original = CsvLog.on_train_batch_end

    def stop(self: CsvLog, trainer, *rest) -> None:
        if part in self.path.as_posix() and trainer.current_epoch == 1:
            raise Stopped
        original(self, trainer, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(CsvLog, "on_train_batch_end", stop)
        yield


def assert_odd_sides_are_padded(model: nn.Module, generator: torch.Generator) -> None:
    """A photo's scores are those of the photo with zeros below and right of it, cut to it."""
    model.eval()
    image = torch.randn(1, 3, 32, 48, generator=generator)
    image[:, :, 30:] = 0
    image[..., 33:] = 0
    with torch.no_grad():
        whole, cut = model(image).seg_logits, model(image[:, :, :30, :33]).seg_logits
    assert torch.equal(cut, whole[:, :, :30, :33])
