"""Label images: PNGs whose pixel values are labels, read and written in one place."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dscnet.files.atomic import whole_file
from dscnet.files.image_files import PLANES, read_plane
from dscnet.types import IGNORE_INDEX, DataError


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Read a label PNG as stored; all label images are read by this function.

    Args:
        path: A palette or grey PNG of any bit depth; palette colours are ignored.

    Returns:
        ``(H, W)`` uint8.

    Raises:
        DataError: If the file is missing, damaged, or contains anything but labels.
    """
    values, _ = read_plane(path, "labels")
    if (largest := int(values.max())) > IGNORE_INDEX:
        raise DataError(
            f"{path}: contains the value {largest}, but labels go up to {IGNORE_INDEX} = ignore;"
            f" {PLANES['labels'][1]}"
        )
    return values.astype(np.uint8, copy=False)


def write_label(path: Path, labels: NDArray[np.uint8]) -> None:
    """Write labels as an 8-bit PNG with the VOC palette.

    Args:
        path: File to write; replaced if it exists.
        labels: ``(H, W)`` uint8, neither side 0.

    Raises:
        ValueError: If ``labels`` is not such an array.
    """
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"labels must be (H, W) uint8, got {labels.dtype} {labels.shape}")
    image = Image.fromarray(labels)
    image.putpalette(_palette_bytes())
    with whole_file(path) as file:
        image.save(file, format="PNG")


def write_saliency(path: Path, saliency: NDArray[np.floating]) -> None:
    """Write a map ``(H, W)`` in [0, 1] as an 8-bit grey PNG; 1 is 255."""
    image = Image.fromarray((saliency * 255).round().astype(np.uint8))
    with whole_file(path) as file:
        image.save(file, format="PNG")


def voc_palette() -> list[int]:
    """Colours of labels 0 to 255 as in PASCAL VOC.

    The three lowest bits of a label are the highest bits of its red, green and blue, the next three
    bits come one place lower, and so on: near labels get far colours. 255 (ignore) is off-white.

    Returns:
        768 values in 0..255, ``r, g, b`` of label 0 first, as ``PIL.Image.putpalette`` takes them.

    Example:
        >>> voc_palette()[3:6]
        [128, 0, 0]
    """
    return [_spread_bits(label, channel) for label in range(256) for channel in range(3)]


@cache
def _palette_bytes() -> bytes:
    return bytes(voc_palette())


def _spread_bits(label: int, channel: int) -> int:
    return sum((label >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
