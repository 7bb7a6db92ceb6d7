"""Pictures for people: masks in colour, masks over photos, score maps over photos."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from dscnet.palette import voc_palette
from dscnet.types import BACKGROUND

Picture = NDArray[np.uint8]

# Dark to bright, so that the order survives grey print and colour blindness.
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])
_HEAT_WEIGHT = 0.65


def colour_mask(labels: NDArray[np.uint8]) -> Picture:
    """Paint labels in the colours of the VOC palette.

    Args:
        labels: ``(H, W)`` uint8.

    Returns:
        ``(H, W, 3)`` uint8 RGB; background black, 255 cream.
    """
    return _colours()[labels]


def overlay(photo: Picture, labels: NDArray[np.uint8], alpha: float = 0.5) -> Picture:
    """Lay coloured labels over a photo; background pixels show the photo alone.

    Args:
        photo: ``(H, W, 3)`` uint8 RGB.
        labels: ``(H, W)`` uint8.
        alpha: Weight of the colour, in [0, 1].

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: If the sizes differ or ``alpha`` is out of range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    _same_size(photo, "labels", labels.shape)
    blend = _blend(photo, colour_mask(labels), alpha)
    return np.where((labels == BACKGROUND)[..., None], photo, blend)


def heat(photo: Picture, scores: NDArray[np.floating]) -> Picture:
    """Lay a score map over a photo, dark where nothing responds and bright where the score is 1.

    Args:
        photo: ``(H, W, 3)`` uint8 RGB.
        scores: ``(H, W)``; clipped to [0, 1].

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: If the sizes differ.
    """
    _same_size(photo, "scores", scores.shape)
    stops = np.linspace(0, 1, len(_HEAT))
    colours = [np.interp(scores, stops, channel) for channel in _HEAT.T]
    return _blend(photo, np.stack(colours, axis=-1), _HEAT_WEIGHT)


def _blend(photo: Picture, colours: NDArray[np.generic], weight: float) -> Picture:
    mixed = (1 - weight) * photo + weight * colours.astype(np.float64)
    return mixed.round().astype(np.uint8)


def _same_size(photo: Picture, name: str, shape: tuple[int, ...]) -> None:
    if photo.shape != (*shape, 3):
        raise ValueError(f"{name} must be of the photo's size {photo.shape[:2]}, got {shape}")


@cache
def _colours() -> Picture:
    return np.array(voc_palette(), dtype=np.uint8).reshape(256, 3)
