"""Random walk of label scores over feature similarity; no training, no N x N matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dscnet.refine.neighbours import grid_neighbours, weighted_rows


@torch.no_grad()
def random_walk(
    probabilities: Tensor,
    features: Tensor,
    *,
    radius: int = 5,
    power: float = 8.0,
    steps: int = 64,
) -> Tensor:
    """Propagate label probabilities by a random walk over the cells of a feature map.

    AffinityNet's walk (Ahn, Kwak, CVPR 2018) with its constants: probabilities are average-pooled
    to the cells, multiplied ``steps`` times by the transition matrix, and resized to the photo.

    Deviation: the affinity is not learned but the cosine similarity of the features, see
    :func:`transition`.

    Args:
        probabilities: ``(B, L, H, W)``.
        features: ``(B, D, h, w)``.
        radius: Neighbours are cells closer than this, > 0.
        power: Exponent of the affinity, > 0.
        steps: Length of the walk, >= 0.

    Returns:
        ``(B, L, H, W)`` float32; sums over the labels are preserved.

    Raises:
        ValueError: If ``radius`` or ``power`` is not positive, or the batches differ.
    """
    if radius <= 0 or power <= 0 or len(features) != len(probabilities):
        raise ValueError(
            "radius and power must be > 0 and the batch sizes equal, got"
            f" {radius}, {power}, {len(features)} and {len(probabilities)}"
        )
    height, width = probabilities.shape[-2:]
    reduced = F.adaptive_avg_pool2d(probabilities.float(), (features.shape[-2], features.shape[-1]))
    spread = torch.empty_like(reduced)
    for out, start, feature in zip(spread, reduced, features.float(), strict=True):
        out[:] = walk(start, *transition(feature, radius=radius, power=power), steps)
    return F.interpolate(spread, (height, width), mode="bilinear", align_corners=False)


def walk(maps: Tensor, indices: Tensor, weights: Tensor, steps: int) -> Tensor:
    """Replace each cell's values by the weighted sum of its neighbours', ``steps`` times.

    Args:
        maps: ``(L, h, w)``, N = h w.
        indices: Neighbours of each cell, ``(N, k)``.
        weights: Weight of each, ``(N, k)``.
        steps: Length of the walk, >= 0.

    Returns:
        ``(L, h, w)``. The sparse matrix is not squared, as its powers are dense.
    """
    rows = maps.flatten(1).T.contiguous()
    for _ in range(steps):
        rows = weighted_rows(rows, indices, weights)
    return rows.T.reshape(maps.shape)


def transition(features: Tensor, *, radius: int, power: float) -> tuple[Tensor, Tensor]:
    """Transition matrix of the walk: ``T_ij = a_ij^power / sum over j of a_ij^power``.

    The affinity ``a_ij`` is the rectified cosine similarity of the features of two cells closer
    than ``radius``, after subtracting the photo's mean feature [Reading: it does not discriminate
    between cells]. A cell's affinity with itself is 1.

    Args:
        features: ``(D, h, w)``, N = h w.
        radius: Cells.
        power: Exponent.

    Returns:
        The row-stochastic matrix as neighbours, ``(N, k)`` int64, and their probabilities,
        ``(N, k)``; 0 for those outside the map.
    """
    reach = range(1 - radius, radius)
    offsets = [(y, x) for y in reach for x in reach if y * y + x * x < radius * radius]
    size = (features.shape[-2], features.shape[-1])
    indices, inside = grid_neighbours(size, offsets, features.device)
    cells = features.flatten(1).T
    cells = F.normalize(cells - cells.mean(0), dim=1)
    # One offset at a time: all at once would take N k D numbers. Into a preallocated table: results
    # allocated one by one would fragment memory.
    cosines = cells.new_empty(indices.shape)
    for place, column in enumerate(indices.T):
        cosines[:, place] = (cells * cells[column]).sum(1)
    affinity = cosines.relu() ** power * inside
    affinity[:, offsets.index((0, 0))] = 1.0
    return indices, affinity / affinity.sum(1, keepdim=True)
