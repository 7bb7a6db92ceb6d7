"""Sums over neighbouring pixels: the product with a sparse matrix that all refinement shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def weighted_rows(
    values: Tensor, indices: Tensor, weights: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Weighted sums of rows of a table, at the speed of memory.

    Args:
        values: Table, ``(N, L)``.
        indices: Rows of each sum, ``(M, k)``; with ``offsets`` a flat list ``(n,)``.
        weights: Weight of each, of the shape of ``indices``.
        offsets: Where each sum starts in the flat list, ``(M,)``; the last one ends with it.

    Returns:
        ``(M, L)``.
    """
    return F.embedding_bag(indices, values, offsets, mode="sum", per_sample_weights=weights)


def grid_neighbours(
    size: tuple[int, int], offsets: Sequence[tuple[int, int]], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Pixels at given offsets from each pixel of a map.

    Args:
        size: Height and width of the map, N pixels, counted row by row.
        offsets: Steps down and to the right, k of them.
        device: Where the result shall lie.

    Returns:
        Index of each neighbour, ``(N, k)`` int64, of the nearest pixel of the map where it lies
        outside; and whether it lies inside, ``(N, k)`` bool.
    """
    height, width = size
    y, x = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    step = torch.tensor(list(offsets), device=device)
    rows, columns = y.reshape(-1, 1) + step[:, 0], x.reshape(-1, 1) + step[:, 1]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1), inside
