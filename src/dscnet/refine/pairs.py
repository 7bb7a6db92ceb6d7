"""Pairs of neighbouring cells of a map: enumeration, affinities and labels.

AffinityNet (Ahn, Kwak, CVPR 2018) and IRNet (Ahn, Cho, Kwak, CVPR 2019). A pair is a cell, its
anchor, and a partner to the right of it or below, closer than a radius. Anchors are the cells whose
partners are all on the map: all but the last ``radius - 1`` rows and the first and last
``radius - 1`` columns; a small map has none. Tables of pairs are ``(B, K, M)``: K offsets in the
order of :func:`pair_offsets`, M anchors row by row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dscnet.types import BACKGROUND, IGNORE_INDEX

Offset = tuple[int, int]
"""Rows down and columns to the right."""


class PairLabels(NamedTuple):
    """Training labels of pairs; each ``(B, K, M)`` bool, all false if a cell has no label.

    Attributes:
        background: Both are background.
        foreground: Both are of one foreground class.
        negative: Their labels differ.
    """

    background: Tensor
    foreground: Tensor
    negative: Tensor


def pair_offsets(radius: int) -> list[Offset]:
    """Offsets from an anchor to its partners, in row-major order.

    Args:
        radius: Partners are closer than this many cells, >= 2.

    Raises:
        ValueError: If ``radius`` is below 2, which gives no pairs.

    Example:
        >>> pair_offsets(2)
        [(0, 1), (1, -1), (1, 0), (1, 1)]
        >>> len(pair_offsets(5))
        34
    """
    if radius < 2:
        raise ValueError(f"radius must be at least 2, got {radius}")
    reach = range(1 - radius, radius)
    return [
        (y, x)
        for y in range(radius)
        for x in reach
        if (y, x) > (0, 0) and y * y + x * x < radius * radius
    ]


def at_offset(maps: Tensor, offset: Offset, radius: int) -> Tensor:
    """Values at an offset from each anchor of ``(..., h, w)`` maps.

    Returns:
        ``(..., max(h - r, 0), max(w - 2 r, 0))`` with r = radius - 1; a view.
    """
    height, width = maps.shape[-2:]
    reach = radius - 1
    rows, columns = max(height - reach, 0), max(width - 2 * reach, 0)
    top, left = offset[0], reach + offset[1]
    return maps[..., top : top + rows, left : left + columns]


def pair_affinity(features: Tensor, *, radius: int = 5) -> Tensor:
    """AffinityNet's affinity of each pair, ``a_ij = exp(-mean over channels of |F_i - F_j|)``.

    Args:
        features: F, ``(B, D, h, w)``.
        radius: As for :func:`pair_offsets`.

    Returns:
        ``(B, K, M)`` in [0, 1].
    """
    affinity = (
        # Recomputed for the gradient: K tables of D channels would take too much memory.
        checkpoint(_channel_affinity, features, offset, radius, use_reentrant=False)
        if torch.is_grad_enabled()
        else _channel_affinity(features, offset, radius)
        for offset in pair_offsets(radius)
    )
    return _table(affinity, len(pair_offsets(radius)))


def _table(parts: Iterable[Tensor], count: int) -> Tensor:
    """``(B, K, M)`` of K parts ``(B, *, *)``."""
    if torch.is_grad_enabled():
        return torch.stack(list(parts), 1).flatten(2)
    # Into a preallocated table: parts allocated one by one would fragment memory.
    table = torch.empty(0)
    for place, part in enumerate(parts):
        if not place:
            table = part.new_empty(len(part), count, *part.shape[1:])
        table[:, place] = part
    return table.flatten(2)


def _channel_affinity(features: Tensor, offset: Offset, radius: int) -> Tensor:
    partners = at_offset(features, offset, radius)
    anchors = at_offset(features, (0, 0), radius)
    return (-(partners - anchors).abs().mean(1)).exp()


def line_affinity(boundary: Tensor, *, radius: int = 10) -> Tensor:
    """IRNet's affinity of each pair, ``1 - max of B`` along the line between the two.

    Args:
        boundary: B, ``(B, h, w)`` in [0, 1].
        radius: As for :func:`pair_offsets`.

    Returns:
        ``(B, K, M)`` in [0, 1].
    """
    strongest = (
        torch.stack([at_offset(boundary, cell, radius) for cell in line_cells(offset)])
        # Its gradient needs only the maximum, that of amax all values.
        .max(0)
        .values
        for offset in pair_offsets(radius)
    )
    return 1 - _table(strongest, len(pair_offsets(radius)))


def line_cells(offset: Offset) -> list[Offset]:
    """Cells on the line from a cell to the one at ``offset``, both ends included.

    [Reading, as in the published code: cells of the bounding rectangle whose centres are closer
    than one cell to the line.]

    Example:
        >>> line_cells((2, 2))
        [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    """
    down, right = offset
    columns = range(min(right, 0), max(right, 0) + 1)
    length = down * down + right * right
    return [
        (y, x)
        for y in range(down + 1)
        for x in columns
        if (down * x - right * y) ** 2 < length  # distance to the line times its length, squared
    ]


def pair_labels(labels: Tensor, *, radius: int) -> PairLabels:
    """Pair labels from the labels of the cells.

    Args:
        labels: ``(B, h, w)`` integers: 0 = background, 255 = no label.
        radius: As for :func:`pair_offsets`.
    """
    anchors = at_offset(labels, (0, 0), radius)[:, None]
    offsets = pair_offsets(radius)
    partners = torch.stack([at_offset(labels, offset, radius) for offset in offsets], 1)
    valid = (anchors != IGNORE_INDEX) & (partners != IGNORE_INDEX)
    same = valid & (anchors == partners)
    parts = (same & (anchors == BACKGROUND), same & (anchors != BACKGROUND), valid & ~same)
    return PairLabels(*(part.flatten(2) for part in parts))
