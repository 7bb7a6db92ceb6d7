"""Pixel-adaptive mask refinement (PAMR): propagation among pixels of similar colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dscnet.refine.neighbours import grid_neighbours, weighted_rows
from dscnet.refine.steps import RefinementStep, Step

WIDTH = 0.1
"""Width of the colour kernel, in local standard deviations (published)."""

BLOCK = 2**16
"""Pixels whose neighbours' colours are compared at once."""

EPS = 1e-8
"""Keeps the kernel finite in regions of constant colour, where weights are uniform."""


@torch.no_grad()
def pamr(
    probabilities: Tensor,
    photos: Tensor,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = (1, 2, 4, 8, 12, 24),
    stride: int = 4,
) -> Tensor:
    """Replace a pixel's probabilities by a colour-weighted mean over its neighbours.

    PAMR (Araslanov, Roth: "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020). The
    weights of the eight neighbours at each dilation are the softmax of ``-|I_i - I_j| / (0.1 s)``,
    its mean over the colour channels, with the standard deviation s of the channel over the same
    neighbourhood. As published, photo and probabilities are downsampled first, and the result is
    resized.

    Args:
        probabilities: ``(B, L, H, W)``.
        photos: RGB of any scale, ``(B, 3, H, W)``.
        iterations: Number of iterations.
        dilations: Distances of the neighbours in downsampled pixels, each > 0.
        stride: Downsampling factor; 1 = none.

    Returns:
        ``(B, L, H, W)`` float32; sums over the labels are preserved up to resizing.

    Raises:
        ValueError: If ``stride`` or a dilation is below 1, or the shapes differ.
    """
    if stride < 1 or not dilations or min(dilations) < 1:
        raise ValueError(
            f"stride and dilations must be 1 or more, got {stride} and {tuple(dilations)}"
        )
    height, width = probabilities.shape[-2:]
    if photos.shape != (len(probabilities), 3, height, width):
        raise ValueError(
            f"photos must be {(len(probabilities), 3, height, width)}, got {tuple(photos.shape)}"
        )
    size = (-(-height // stride), -(-width // stride))
    reduced = F.adaptive_avg_pool2d(probabilities.float(), size)
    colors = F.adaptive_avg_pool2d(photos.float(), size).flatten(2).mT
    offsets = [(y, x) for d in dilations for y in (-d, 0, d) for x in (-d, 0, d)]
    indices, _ = grid_neighbours(size, offsets, probabilities.device)
    around = torch.tensor([offset != (0, 0) for offset in offsets], device=indices.device)
    spread = torch.empty_like(reduced)
    neighbours = indices[:, around]
    for out, start, color in zip(spread, reduced, colors, strict=True):
        blocks = zip(torch.split(color, BLOCK), torch.split(indices, BLOCK), strict=True)
        weights = torch.cat([_color_weights(*block, color, around) for block in blocks])
        rows = start.flatten(1).T.contiguous()
        for _ in range(iterations):
            rows = weighted_rows(rows, neighbours, weights)
        out[:] = rows.T.view_as(out)
    return F.interpolate(spread, (height, width), mode="bilinear", align_corners=False)


def _color_weights(own: Tensor, indices: Tensor, color: Tensor, around: Tensor) -> Tensor:
    """Weight of each neighbour except the pixel itself, ``(n, k')``, rows sum to 1.

    Args:
        own: Colours of the n pixels, ``(n, 3)``.
        indices: Neighbours of each, including itself, ``(n, k)``.
        color: Colours of all pixels, ``(N, 3)``.
        around: Which of the k are not the pixel itself, ``(k,)`` bool.
    """
    neighbours = color[indices]
    deviation = neighbours.std(1, keepdim=True)
    distance = (own[:, None] - neighbours[:, around]).abs() / (EPS + WIDTH * deviation)
    return (-distance.mean(-1)).softmax(1)


def _open(job: Any) -> Callable[[Any], Step]:
    return lambda sample: pamr


STEP = RefinementStep("pamr", _open)
