"""Photos seen a window at a time, so that small things are not lost in large photos."""

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
    """Score photos window by window and join the maps.

    Where windows overlap, their maps are averaged, the nearer to its middle the more a window
    counts. A ``refined`` map beside a ``cam`` is relative to the strongest score of its window: it
    is weighed by that score, relative to the photo's, so that a window without a class stays dark.

    Args:
        score: As for :func:`dscnet.labels.cam.sum_views`.
        image: Normalised photos, ``(B, 3, H, W)``.
        tags: ``(B, C)``; handed to ``score``.
        windows: They cover the photo.

    Returns:
        A map ``(B, C, H, W)`` for each name that ``score`` gives; of one window, what ``score``
        gives.
    """
    if len(windows) == 1:
        return dict(score(image, tags))
    seen = [dict(score(image[..., rows, columns], tags)) for rows, columns in windows]
    if {"cam", "refined"} <= seen[0].keys():
        peaks = torch.stack([maps["cam"].amax((2, 3), keepdim=True) for maps in seen])
        shares = peaks / peaks.amax(0).clamp(min=torch.finfo(peaks.dtype).tiny)
        for maps, share in zip(seen, shares, strict=True):
            maps["refined"] = maps["refined"] * share.to(maps["refined"])
    return join_windows(seen, windows, (image.shape[-2], image.shape[-1]))


def join_windows(
    seen: Sequence[Mapping[str, Tensor]], windows: Sequence[Window], size: tuple[int, int]
) -> dict[str, Tensor]:
    """Average the maps of windows, by how near a pixel is to the middle of each.

    Args:
        seen: Maps of each window, ``(B, C, h, w)`` at any resolution.
        windows: Where each lies.
        size: Height and width of what they cover.

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
    """Weights that fall from the middle to either end, positive throughout."""
    steps = torch.arange(1, length + 1, device=like.device, dtype=like.dtype)
    return torch.minimum(steps, steps.flip(0)) / length
