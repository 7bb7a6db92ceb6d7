"""Tiled inference, for small objects in large photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dscnet.labels.cam import Score

Window = tuple[slice, slice]
"""Rows and columns of a photo."""


def score_windows(
    score: Score, image: Tensor, tags: Tensor, windows: Sequence[Window]
) -> dict[str, Tensor]:
    """Score photos window by window and merge the CAMs.

    Overlapping windows are averaged with weights that decrease from the centre. A ``refined`` CAM
    next to a ``cam`` is normalised per window: it is multiplied by the window's maximum score
    relative to the photo's, so that windows without a class stay low.

    Args:
        score: As for :func:`dscnet.labels.cam.sum_views`.
        image: Normalised photos, ``(B, 3, H, W)``.
        tags: ``(B, C)``; passed to ``score``.
        windows: Windows that cover the photo.

    Returns:
        A CAM ``(B, C, H, W)`` for each name from ``score``; for a single window, the output of
        ``score`` itself.
    """
    if len(windows) == 1:
        return dict(score(image, tags))
    seen = [dict(score(image[..., rows, columns], tags)) for rows, columns in windows]
    if {"cam", "refined"} <= seen[0].keys():
        peaks = torch.stack([maps["cam"].amax((2, 3), keepdim=True) for maps in seen])
        factors = peaks / peaks.amax(0).clamp(min=torch.finfo(peaks.dtype).tiny)
        for maps, factor in zip(seen, factors, strict=True):
            maps["refined"] = maps["refined"] * factor.to(maps["refined"])
    return join_windows(seen, windows, (image.shape[-2], image.shape[-1]))


def join_windows(
    seen: Sequence[Mapping[str, Tensor]], windows: Sequence[Window], size: tuple[int, int]
) -> dict[str, Tensor]:
    """Average the maps of windows, weighted by the distance from their centres.

    Args:
        seen: Maps of each window, ``(B, C, h, w)`` at any resolution.
        windows: The windows.
        size: Height and width of the result.

    Returns:
        ``(B, C, *size)`` for each name.
    """
    joined: dict[str, Tensor] = {}
    for name, first in seen[0].items():
        total = first.new_zeros(*first.shape[:2], *size)
        weights = first.new_zeros(size)
        for maps, (rows, columns) in zip(seen, windows, strict=True):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            weight = torch.outer(_ramp(height, first), _ramp(width, first))
            own = functional.interpolate(
                maps[name], (height, width), mode="bilinear", align_corners=False
            )
            total[..., rows, columns] += weight * own
            weights[rows, columns] += weight
        joined[name] = total / weights
    return joined


def _ramp(length: int, like: Tensor) -> Tensor:
    """Positive weights that decrease from the middle to either end."""
    steps = torch.arange(1, length + 1, device=like.device, dtype=like.dtype)
    return torch.minimum(steps, steps.flip(0)) / length
