"""Pseudo labels from CAMs and a background threshold, stored as palette PNGs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dscnet.types import BACKGROUND, IGNORE_INDEX, MAX_CLASSES


def best_label(
    cam: NDArray[np.floating],
    classes: Sequence[int] | NDArray[np.integer],
    size: tuple[int, int] | None = None,
) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
    """Find the strongest class of each pixel.

    Args:
        cam: CAMs of the present classes, ``(C', H, W)`` in [0, 1].
        classes: Class indices, 0-based, foreground only, below 254.
        size: Resize CAMs to this height and width first, bilinearly without aligned corners, one at
            a time; None = no resizing.

    Returns:
        The strongest score ``(H, W)``, and the label of its class ``(H, W)`` uint8, the first
        one on ties. Without classes: score 0 and background.

    Raises:
        ValueError: If the numbers of CAMs and classes differ, or a class has no 8-bit label.
    """
    indices = np.asarray(classes, dtype=np.int64)
    if cam.ndim != 3 or indices.shape != cam.shape[:1]:
        raise ValueError(f"cam must be ({indices.size}, H, W), one map per class, got {cam.shape}")
    size = size or (cam.shape[1], cam.shape[2])
    if indices.size == 0:
        empty: NDArray[np.floating] = np.zeros(size, dtype=cam.dtype)
        return empty, np.full(size, BACKGROUND, dtype=np.uint8)
    if indices.min() < 0 or indices.max() >= MAX_CLASSES:
        raise ValueError(f"classes must be in [0, {MAX_CLASSES - 1}], got {indices.tolist()}")
    # One class at a time, which is much faster than a maximum along the first axis.
    best: NDArray[np.floating] = np.array(resize_map(cam[0], size))
    winner = np.full(size, indices[0] + 1, dtype=np.uint8)
    for values, label in zip(cam[1:], indices[1:] + 1, strict=True):
        score = resize_map(values, size)
        winner[score > best] = label
        np.maximum(best, score, out=best)
    return best, winner


def resize_map(values: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.floating]:
    """Resize maps ``(..., h, w)``, bilinearly without aligned corners, antialiased if smaller.

    Also handles empty arrays, for photos without tags.
    """
    if values.shape[-2:] == size:
        return values
    if values.size == 0:
        return np.zeros((*values.shape[:-2], *size), dtype=values.dtype)
    maps = torch.from_numpy(values).reshape(1, -1, *values.shape[-2:])
    resized = functional.interpolate(
        maps, size, mode="bilinear", align_corners=False, antialias=size[0] < maps.shape[-2]
    )
    return resized.reshape(*values.shape[:-2], *size).numpy()


def pseudo_label(
    cam: NDArray[np.floating],
    classes: Sequence[int] | NDArray[np.integer],
    *,
    bg_score: float = 0.25,
    ignore_band: tuple[float, float] | None = None,
    size: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Assign each pixel its strongest class, or background below the threshold.

    Background wins ties. With an ignore band, a pixel is background up to the lower score, its
    strongest class above the higher one, and 255 in between; ``(bg_score, bg_score)`` is the same
    as no band.

    Args:
        cam: CAMs of the present classes, ``(C', H, W)`` in [0, 1].
        classes: Class indices, 0-based, foreground only.
        bg_score: Background threshold, in [0, 1]. Ignored with a band.
        ignore_band: Lower and higher score, ``0 <= low <= high <= 1``.
        size: Height and width of the labels, as for :func:`best_label`.

    Returns:
        ``(H, W)`` uint8: 0 background, c + 1 for class c, 255 ignore. All background without
        classes.

    Raises:
        ValueError: If the scores are out of order or range, or CAMs and classes do not match.
    """
    low, high = (bg_score, bg_score) if ignore_band is None else ignore_band
    if not 0 <= low <= high <= 1:
        name = "bg_score" if ignore_band is None else "ignore_band"
        raise ValueError(f"{name} must lie in [0, 1], low to high, got {low} and {high}")
    best, winner = best_label(cam, classes, size)
    undecided = np.where(best > low, np.uint8(IGNORE_INDEX), np.uint8(BACKGROUND))
    return np.where(best > high, winner, undecided)
