"""Random walks along learned affinities: AffinityNet's on features, IRNet's between boundaries.

The walk itself is that of ``refine/random_walk.py``; here the affinities are those of pairs of cells,
and it takes place in double precision: the rounding of rows that do not quite sum to 1 grows with
every step, to more than 1e-5 in IRNet's 256.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dscnet.refine.neighbours import grid_neighbours
from dscnet.refine.pairs import at_offset, line_affinity, pair_offsets
from dscnet.refine.random_walk import walk


@torch.no_grad()
def affinity_walk(
    scores: Tensor,
    affinity: Tensor,
    *,
    stride: int = 8,
    radius: int = 5,
    beta: float = 8.0,
    log_steps: int = 6,
) -> Tensor:
    """AffinityNet's walk, with its constants: scores of labels spread along pair affinities.

    Scores are padded with zeros to a multiple of the stride, averaged over the cells, multiplied
    ``2^log_steps`` times by the transition matrix and resized to the photo.

    Args:
        scores: Of background and classes, ``(L, H, W)``; they need not sum to 1.
        affinity: Of the pairs of the padded photo's cells, ``(K, M)``, see ``labels.pairs``.
        stride: Pixels a cell, >= 1.
        radius: As for ``pair_offsets``.
        beta: Exponent of the affinities, > 0.
        log_steps: Logarithm of the walk's length to the base 2, >= 0.

    Returns:
        ``(L, H, W)`` float32.

    Raises:
        ValueError: If ``affinity`` has not the pairs of such a map.
    """
    height, width = scores.shape[-2:]
    padded = F.pad(scores.double(), (0, -width % stride, 0, -height % stride))
    cells = F.avg_pool2d(padded[None], stride)[0]
    pairs = pairs_on_map(affinity.double(), (cells.shape[-2], cells.shape[-1]), radius=radius)
    spread = walk(cells, *pair_transition(pairs, radius=radius, beta=beta), 2**log_steps)
    return enlarge(spread, stride, (height, width)).float()


@torch.no_grad()
def boundary_walk(
    maps: Tensor, boundary: Tensor, *, radius: int = 5, beta: float = 10.0, log_steps: int = 8
) -> Tensor:
    """IRNet's walk, with its constants: maps spread between boundaries.

    Every cell is an anchor: as published, the map is surrounded by boundary, and pairs that lead
    out of it do not count. The walk starts from ``maps (1 - B)``: boundaries have no label.

    Args:
        maps: Of the classes, without background, ``(C, h, w)``.
        boundary: B, ``(h, w)`` in [0, 1].
        radius: As for ``pair_offsets``.
        beta: Exponent of the affinities, > 0.
        log_steps: Logarithm of the walk's length to the base 2, >= 0.

    Returns:
        ``(C, h, w)`` float32.

    Raises:
        ValueError: If the sizes differ.
    """
    if maps.shape[-2:] != boundary.shape:
        raise ValueError(
            f"boundary must have the size of maps {tuple(maps.shape[-2:])}, got"
            f" {tuple(boundary.shape)}"
        )
    boundary = boundary.double()
    reach = radius - 1
    surrounded = F.pad(boundary, (reach, reach, 0, reach), value=1.0)
    affinity = line_affinity(surrounded[None], radius=radius)[0]
    pairs = affinity.view(len(affinity), *boundary.shape)
    start = maps.double() * (1 - boundary)
    return walk(start, *pair_transition(pairs, radius=radius, beta=beta), 2**log_steps).float()


def pairs_on_map(affinity: Tensor, size: tuple[int, int], *, radius: int) -> Tensor:
    """Affinities ``(K, M)`` laid where their anchors are: ``(K, h, w)``, 0 at other cells.

    Raises:
        ValueError: If ``affinity`` has not the pairs of a map of this size.
    """
    pairs = affinity.new_zeros(len(pair_offsets(radius)), *size)
    anchors = at_offset(pairs, (0, 0), radius)
    expected = anchors.flatten(1).shape
    if affinity.shape != expected:
        raise ValueError(
            f"affinity must be {tuple(expected)}, the pairs within radius {radius} on {size[0]} x"
            f" {size[1]} cells, got {tuple(affinity.shape)}"
        )
    anchors.copy_(affinity.reshape(anchors.shape))
    return pairs


def pair_transition(pairs: Tensor, *, radius: int, beta: float) -> tuple[Tensor, Tensor]:
    """Where a walk along pairs goes: ``A = I + pairs``, each both ways; ``T_ij = A_ij^beta / sum``.

    The published walks multiply maps from the left by A with its columns divided by their sums. As
    A is symmetric, that is this matrix of rows divided by theirs, applied from the right.

    Args:
        pairs: Affinity of each cell with its partner at each offset, ``(K, h, w)``, N = h w.
        radius: As for ``pair_offsets``.
        beta: Exponent, > 0.

    Returns:
        The row-stochastic matrix as neighbours, ``(N, 1 + 2 K)`` int64, and their probabilities,
        ``(N, 1 + 2 K)``; 0 for those outside the map.
    """
    offsets = pair_offsets(radius)
    back = [(-y, -x) for y, x in offsets]
    size = (pairs.shape[-2], pairs.shape[-1])
    indices, inside = grid_neighbours(size, [(0, 0), *offsets, *back], pairs.device)
    ahead = (pairs**beta).flatten(1)
    # In place, as the tables are the largest thing that a walk holds.
    weights = ahead.new_ones(inside.shape)
    weights[:, 1 : 1 + len(offsets)] = ahead.T
    for place, values in enumerate(ahead, 1 + len(offsets)):
        weights[:, place] = values[indices[:, place]]
    weights *= inside
    return indices, weights.div_(weights.sum(1, keepdim=True))


def enlarge(cells: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Maps of cells ``(L, h, w)`` at the size of the photo; what lies beyond it is cut off."""
    grown = (cells.shape[-2] * stride, cells.shape[-1] * stride)
    full = F.interpolate(cells[None], grown, mode="bilinear", align_corners=False)[0]
    return full[:, : size[0], : size[1]]
