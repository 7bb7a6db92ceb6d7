"""Fast Gaussian filtering on the permutohedral lattice.

Adams, Baek, Davis: "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Computer
Graphics Forum 29 (2), 2010. Space is divided into simplices; each pixel distributes its values to
the d + 1 vertices of its simplex (splat), the vertices are blurred along d + 1 directions, and each
pixel interpolates from its vertices (slice). All three are weighted sums of rows of a table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dscnet.refine.neighbours import weighted_rows


class LatticeKernel:
    """Approximates ``D^-1/2 K D^-1/2`` with ``K_ij = exp(-|f_i - f_j|^2 / 2)`` and D its row sums.

    The pixel itself is included. D is computed from the approximated K, so that multiples of the
    root of D are preserved exactly.

    Args:
        features: Position of each pixel in units of the kernel's standard deviation, ``(N, d)``.

    Raises:
        ValueError: If the features span too many cells.
    """

    def __init__(self, features: Tensor) -> None:
        vertices, weights, steps = _enclosing_simplices(features.detach().float().T.contiguous())
        shape, num_pixels = vertices.shape, vertices.shape[1]
        # Tables are freed as soon as possible: they limit the size of photos.
        vertices, order = vertices.flatten().sort()
        self._slice_weights = weights.T.contiguous()
        self._splat_weights = weights.flatten()[order]
        del weights
        first = torch.ones_like(vertices, dtype=torch.bool)
        first[1:] = vertices[1:] != vertices[:-1]
        vertices = vertices[first]
        row = order.new_empty(order.shape, dtype=torch.int32)
        row[order] = first.cumsum(0, dtype=torch.int32) - 1
        self._vertex_rows = row.view(shape).T.contiguous()
        del row
        self._pixel_rows = order.remainder_(num_pixels).int()
        del order
        self._offsets = first.nonzero()[:, 0].int()
        self._neighbours = _neighbours(vertices, steps)
        scale = self(features.new_ones((num_pixels, 1), dtype=torch.float32)).rsqrt()
        self._slice_weights *= scale
        self._splat_weights *= scale[self._pixel_rows, 0]

    def __call__(self, values: Tensor) -> Tensor:
        """Apply the kernel to ``(N, L)`` float32 values, a column at a time."""
        table = weighted_rows(values, self._pixel_rows, self._splat_weights, self._offsets)
        for indices, weights in self._neighbours:
            table = weighted_rows(table, indices, weights)
        return weighted_rows(table, self._vertex_rows, self._slice_weights)


def _enclosing_simplices(features: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Find the enclosing simplex of each point and the barycentric weights.

    Args:
        features: Points, ``(d, N)`` float32.

    Returns:
        Unique vertex numbers of the d + 1 vertices, ``(d + 1, N)`` int64; barycentric weights,
        ``(d + 1, N)``, that sum to 1; and the offsets from a vertex's number to its neighbour along
        each of the d + 1 directions.
    """
    dim = len(features)
    side = dim + 1
    nearest, rank, weights = _nearest_vertices(features)
    strides = _strides(nearest, side)
    stride = torch.tensor(strides, device=features.device)
    # From one vertex of a simplex to the next, one coordinate decreases by side.
    fall = torch.empty_like(rank).scatter_(
        0, rank.neg_().add_(dim), stride[:, None].expand_as(rank)
    )
    vertices = nearest.mul_((side * stride)[:, None]).sum(0, keepdim=True).repeat(side, 1)
    vertices[1:] += fall[:-1].mul_(-side).add_(sum(strides)).cumsum_(0)
    return vertices, weights, [sum(strides) - side * own for own in strides]


def _nearest_vertices(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Remainder-0 vertex of each point's simplex, and the position within the simplex.

    Args:
        features: Points, ``(d, N)`` float32.

    Returns:
        Coordinates of the vertex divided by d + 1, the rank of each coordinate's distance to it in
        descending order, both ``(d + 1, N)`` int64, and the barycentric weights ``(d + 1, N)``.
    """
    dim = len(features)
    side = dim + 1
    elevated = _elevation(dim).to(features) @ features
    # The nearest vertex of remainder 0, and the order of the distances to it by coordinate.
    nearest = (elevated / side).round()
    rank = _descending_rank(elevated - nearest * side) + nearest.sum(0).long()
    wrapped = (rank < 0).long() - (rank > dim).long()
    rank += wrapped * side
    nearest = nearest.long() + wrapped
    distance = elevated / side - nearest
    ordered = torch.empty_like(distance).scatter_(0, dim - rank, distance)
    weights = ordered - ordered.roll(1, 0)
    weights[0] += 1
    return nearest, rank, weights


def _elevation(dim: int) -> Tensor:
    """Linear map from d-dimensional features to the plane of the lattice, ``(d + 1, d)``.

    Scaled so that splat, blur and slice together have standard deviation 1.
    """
    index = torch.arange(1, dim + 1, dtype=torch.float32)
    basis = torch.ones(dim + 1, dim).triu()
    basis[1:] -= torch.diag(index)
    return basis * (dim + 1) * math.sqrt(2 / 3) / (index * (index + 1)).sqrt()


def _descending_rank(values: Tensor) -> Tensor:
    """Rank of each value of a column in descending order; ties by row."""
    rank = torch.zeros_like(values, dtype=torch.int64)
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            less = values[i] < values[j]
            rank[i] += less
            rank[j] += ~less
    return rank


def _strides(nearest: Tensor, side: int) -> list[int]:
    """Factor of each coordinate in a vertex's number; the last coordinate is redundant.

    Numbers are unique: each coordinate has enough range for all vertices and their neighbours.
    """
    low, high = nearest.amin(1).tolist(), nearest.amax(1).tolist()
    strides, stride = [], 1
    for least, most in zip(low[:-1], high[:-1], strict=True):
        strides.append(stride)
        stride *= (most - least + 5) * side
    if stride * side >= 2**62:
        raise ValueError(
            "features span too many cells of the lattice: increase the standard deviations"
        )
    return [*strides, 0]


def _neighbours(vertices: Tensor, steps: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Rows and weights of the blur along each direction: itself 1, existing neighbours 1/2.

    Args:
        vertices: Numbers of the vertices, ``(M,)`` int64, ascending.
        steps: From a vertex to its neighbour along each direction.

    Returns:
        For each direction ``(M, 3)`` rows and ``(M, 3)`` weights.
    """
    count = len(vertices)
    own = torch.arange(count, device=vertices.device, dtype=torch.int32)
    result = []
    for step in steps:
        neighbour = vertices + step
        after = torch.searchsorted(vertices, neighbour).clamp_(max=count - 1)
        found = vertices[after] == neighbour
        # The "before" relation is the inverse of "after"; one more row takes what is not found.
        before = torch.arange(count + 1, device=vertices.device, dtype=torch.int32)
        before.scatter_(0, after.masked_fill(~found, count), own)
        rows = torch.stack([own, after.int().where(found, own), before[:count]], 1)
        weights = torch.where(rows == own[:, None], 0.0, 0.5)
        weights[:, 0] = 1.0
        result.append((rows, weights))
    return result
