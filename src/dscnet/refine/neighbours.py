"""Weighted sums over neighbours, the sparse matrix product used by all refinement steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 2**22
"""Terms summed at once: torch needs one or two integers for each."""


def weighted_rows(
    values: Tensor, indices: Tensor, weights: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Weighted sums of rows of a table, limited by memory bandwidth.

    Args:
        values: Table, ``(N, L)``.
        indices: Rows of each sum, ``(M, k)``; with ``offsets``, a flat list ``(n,)``.
        weights: Weights, with the shape of ``indices``.
        offsets: Start of each sum in the flat list, ``(M,)``.

    Returns:
        ``(M, L)``.
    """
    if offsets is not None or indices.numel() <= BLOCK:
        return _sums(values, indices, weights, offsets)
    sums = values.new_empty(len(indices), values.shape[1])
    rows = max(1, BLOCK // indices.shape[1])
    for start in range(0, len(indices), rows):
        block = slice(start, start + rows)
        sums[block] = _sums(values, indices[block], weights[block])
    return sums


def grid_neighbours(
    size: tuple[int, int], offsets: Sequence[tuple[int, int]], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Pixels at given offsets from each pixel of a map.

    Args:
        size: Height and width of the map, N pixels in row-major order.
        offsets: Steps down and to the right, k of them.
        device: Device of the result.

    Returns:
        Index of each neighbour, ``(N, k)`` int64, clamped to the map; and whether it is inside,
        ``(N, k)`` bool.
    """
    height, width = size
    y, x = (torch.arange(length, device=device) for length in size)
    shape = (height * width, len(offsets))
    indices = torch.empty(shape, dtype=torch.int64, device=device)
    inside = torch.empty(shape, dtype=torch.bool, device=device)
    # One offset at a time: all at once would need several such tables.
    for column, (down, right) in enumerate(offsets):
        rows, columns = (y + down)[:, None], x + right
        nearest = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        on_map = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        indices[:, column], inside[:, column] = nearest.flatten(), on_map.flatten()
    return indices, inside


def _sums(
    values: Tensor, indices: Tensor, weights: Tensor, offsets: Tensor | None = None
) -> Tensor:
    return F.embedding_bag(indices, values, offsets, mode="sum", per_sample_weights=weights)
