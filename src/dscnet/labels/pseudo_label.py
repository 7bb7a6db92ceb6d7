"""Pseudo labels: one label a pixel from maps and a background score, kept as palette PNGs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dscnet.labels.files import whole_file
from dscnet.palette import voc_palette
from dscnet.pictures import read_labels
from dscnet.types import BACKGROUND, IGNORE_INDEX


def best_label(
    cam: NDArray[np.floating], classes: Sequence[int] | NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
    """Find the strongest class of each pixel.

    Args:
        cam: Maps of the present classes, ``(C', H, W)`` in [0, 1].
        classes: Index of each of them, 0-based, foreground only, below 254.

    Returns:
        The strongest score ``(H, W)``, and the label of its class ``(H, W)`` uint8, the first
        listed where several tie. Without classes: score 0 and background.

    Raises:
        ValueError: If the number of maps and classes differ, or a class has no 8-bit label.
    """
    indices = np.asarray(classes, dtype=np.int64)
    if cam.ndim != 3 or indices.shape != cam.shape[:1]:
        raise ValueError(f"cam must be ({indices.size}, H, W), a map a class, got {cam.shape}")
    if indices.size == 0:
        empty: NDArray[np.floating] = np.zeros(cam.shape[1:], dtype=cam.dtype)
        return empty, np.full(cam.shape[1:], BACKGROUND, dtype=np.uint8)
    if indices.min() < 0 or indices.max() + 1 >= IGNORE_INDEX:
        raise ValueError(f"classes must be in [0, {IGNORE_INDEX - 2}], got {indices.tolist()}")
    return cam.max(axis=0), (indices + 1).astype(np.uint8)[cam.argmax(axis=0)]


def pseudo_label(
    cam: NDArray[np.floating],
    classes: Sequence[int] | NDArray[np.integer],
    *,
    bg_score: float = 0.25,
    ignore_band: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Give each pixel the strongest of its classes and the background.

    The background is a constant map of ``bg_score`` and wins ties. With an ignore band, a pixel is
    background up to the lower score, its strongest class above the higher one, and 255 in between;
    ``(bg_score, bg_score)`` is the same as no band.

    Args:
        cam: Maps of the present classes, ``(C', H, W)`` in [0, 1].
        classes: Index of each of them, 0-based, foreground only.
        bg_score: Score of the background, in [0, 1]. Not read with a band.
        ignore_band: Lower and higher score, ``0 <= low <= high <= 1``.

    Returns:
        ``(H, W)`` uint8: 0 background, c + 1 for class c, 255 ignore. Without classes all is
        background.

    Raises:
        ValueError: If the scores are out of order or range, or maps and classes do not fit.
    """
    low, high = (bg_score, bg_score) if ignore_band is None else ignore_band
    if not 0 <= low <= high <= 1:
        name = "bg_score" if ignore_band is None else "ignore_band"
        raise ValueError(f"{name} must lie in [0, 1], low to high, got {low} and {high}")
    best, winner = best_label(cam, classes)
    undecided = np.where(best > low, np.uint8(IGNORE_INDEX), np.uint8(BACKGROUND))
    return np.where(best > high, winner, undecided)


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
    image.putpalette(voc_palette())
    with whole_file(path) as file:
        image.save(file, format="PNG")


def read_label(path: Path) -> NDArray[np.uint8]:
    """Read label images, as :func:`dscnet.pictures.read_labels` does, whoever wrote them.

    Args:
        path: The file; its colours do not matter.

    Returns:
        ``(H, W)`` uint8.

    Raises:
        DataError: If the file is missing, damaged, or holds colours instead of labels.
    """
    return read_labels(path)
