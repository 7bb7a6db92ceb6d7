"""Visualisation: coloured masks, overlays of masks and score maps on photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dscnet.files.label_images import voc_palette
from dscnet.types import BACKGROUND

Picture = NDArray[np.uint8]

# Dark to bright, so that it works in greyscale and for colour-blind readers.
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])
_HEAT_WEIGHT = 0.65
_GAP, _HEADING = 6, 18  # pixels, for sheets
_STRIPE = 2**18  # pixels blended at once, in double precision


def colour_mask(labels: NDArray[np.uint8]) -> Picture:
    """Colour labels by the VOC palette.

    Args:
        labels: ``(H, W)`` uint8.

    Returns:
        ``(H, W, 3)`` uint8 RGB; background is black, 255 off-white.
    """
    return _colours()[labels]


def overlay(photo: Picture, labels: NDArray[np.uint8], alpha: float = 0.5) -> Picture:
    """Overlay coloured labels on a photo; background pixels are unchanged.

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
    return _in_stripes(partial(_overlay, alpha=alpha), photo, labels)


def heat(photo: Picture, scores: NDArray[np.floating]) -> Picture:
    """Overlay a score map on a photo, from dark (0) to bright (1).

    Args:
        photo: ``(H, W, 3)`` uint8 RGB.
        scores: ``(H, W)``; clipped to [0, 1].

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: If the sizes differ.
    """
    _same_size(photo, "scores", scores.shape)
    return _in_stripes(_heat, photo, scores)


def sheet(rows: Sequence[Sequence[Picture]], headings: Sequence[str]) -> Picture:
    """Arrange pictures in a table on white, each at its own size.

    Args:
        rows: One picture per heading in each row, ``(H, W, 3)`` uint8 RGB.
        headings: Column headings.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: If there are no rows, or a row has another number of pictures.
    """
    if not rows or any(len(row) != len(headings) for row in rows):
        raise ValueError(
            f"rows must have {len(headings)} pictures each, got {[len(r) for r in rows]}"
        )
    width = max(picture.shape[1] for row in rows for picture in row) + _GAP
    heights = [max(picture.shape[0] for picture in row) + _GAP for row in rows]
    canvas = Image.new("RGB", (_GAP + width * len(headings), _HEADING + sum(heights)), "white")
    pen = ImageDraw.Draw(canvas)
    for column, heading in enumerate(headings):
        pen.text((_GAP + column * width, 2), heading, fill="black")
    top = _HEADING
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            canvas.paste(Image.fromarray(picture), (_GAP + column * width, top))
        top += height
    return np.asarray(canvas)


def _in_stripes(
    paint: Callable[[Picture, NDArray[Any]], Picture], photo: Picture, values: NDArray[Any]
) -> Picture:
    """Process some rows at a time: large photos in double precision take too much memory."""
    painted = np.empty(photo.shape, dtype=np.uint8)
    step = max(1, _STRIPE // photo.shape[1])
    for top in range(0, len(photo), step):
        rows = slice(top, top + step)
        painted[rows] = paint(photo[rows], values[rows])
    return painted


def _overlay(photo: Picture, labels: NDArray[np.uint8], alpha: float) -> Picture:
    blend = _blend(photo, colour_mask(labels), alpha)
    return np.where((labels == BACKGROUND)[..., None], photo, blend)


def _heat(photo: Picture, scores: NDArray[np.floating]) -> Picture:
    stops = np.linspace(0, 1, len(_HEAT))
    colours = [np.interp(scores, stops, channel) for channel in _HEAT.T]
    return _blend(photo, np.stack(colours, axis=-1), _HEAT_WEIGHT)


def _blend(photo: Picture, colours: NDArray[np.generic], weight: float) -> Picture:
    mixed = (1 - weight) * photo + weight * colours.astype(np.float64)
    return mixed.round().astype(np.uint8)


def _same_size(photo: Picture, name: str, shape: tuple[int, ...]) -> None:
    if photo.shape != (*shape, 3):
        raise ValueError(f"{name} must have the size of the photo, {photo.shape[:2]}, got {shape}")


@cache
def _colours() -> Picture:
    return np.array(voc_palette(), dtype=np.uint8).reshape(256, 3)
