"""Batched k-means: all images of a batch at once, each with its own number of groups."""

from __future__ import annotations

import torch
from torch import Tensor

from dscnet.distributed.batch import batch_max, draw_rows
from dscnet.numerics import full_precision


@torch.no_grad()
@full_precision
def kmeans(
    points: Tensor,
    num_groups: Tensor,
    *,
    starts: Tensor | None = None,
    restarts: int = 3,
    max_iter: int = 20,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Partition the points of each image into groups by Lloyd's algorithm.

    No gradient. A group that becomes empty keeps its centre, so it can regain points. Groups beyond
    an image's own number stay empty, as do surplus groups if there are fewer distinct points.

    Args:
        points: ``(B, N, D)``; computed in float32, or in float64 if given as such.
        num_groups: Groups of each image, ``(B,)`` int64, >= 1. K is their maximum.
        starts: Initial centres, ``(B, K, D)``; None = drawn by k-means++.
        restarts: k-means++ initialisations per image, >= 1; the lowest inertia wins.
        max_iter: Maximum number of iterations, >= 1; stops early once assignments are stable.
        generator: Random generator for the initialisation; may be on another device.

    Returns:
        Group of each point, ``(B, N)`` int64 in ``[0, num_groups)``.

    Raises:
        ValueError: If shapes do not match, or a count is below 1.
    """
    _check(points, num_groups, starts, restarts, max_iter)
    size = int(num_groups.max())
    allowed = torch.arange(size, device=points.device) < num_groups[:, None]
    if starts is None:
        # As many draws on every rank that shares the batch.
        centres = _plus_plus(points, batch_max(size), restarts, generator)[:, :, :size]
    else:
        centres = starts.to(points)[:, None, :size]
    ids, inertia = _lloyd(points, centres, allowed, max_iter)
    rows = torch.arange(len(points), device=points.device)
    return ids[rows, inertia.argmin(1)]


def _lloyd(points: Tensor, starts: Tensor, allowed: Tensor, max_iter: int) -> tuple[Tensor, Tensor]:
    """Assignments ``(B, R, N)`` and inertia ``(B, R)`` from R sets of centres, ``(B, R, K, D)``.

    All sets are updated together: on a GPU many small kernels would be launch-bound.
    """
    _, restarts, size, _ = starts.shape
    slots = torch.arange(size, device=points.device)[:, None]
    squared_norms = points.pow(2).sum(-1)[:, None]
    forbidden = ~allowed.repeat(1, restarts)
    centres = starts.flatten(1, 2)
    ids: Tensor | None = None
    for _ in range(max_iter):
        offsets = centres.pow(2).sum(-1).masked_fill(forbidden, torch.inf)[..., None]
        # One row per group: fast for either memory layout of the points.
        distances = torch.baddbmm(squared_norms + offsets, centres, points.mT, alpha=-2)
        nearest, new_ids = distances.reshape(len(points), restarts, size, -1).min(2)
        if ids is not None and torch.equal(ids, new_ids):
            break
        ids = new_ids
        members = (ids[:, :, None] == slots).flatten(1, 2).to(points)
        counts = members.sum(2, keepdim=True)
        centres = torch.where(counts > 0, members @ points / counts.clamp_min(1), centres)
    assert ids is not None
    return ids, nearest.sum(-1)


def _plus_plus(
    points: Tensor, size: int, restarts: int, generator: torch.Generator | None
) -> Tensor:
    """Draw ``(B, R, size, D)`` centres with probability proportional to the squared distance.

    Images with fewer groups ignore the last centres: the first k of a draw are a draw of k.
    """
    batch, num_points, _ = points.shape
    device = points.device if generator is None else generator.device
    rows = torch.arange(batch, device=points.device)[:, None]
    weights = points.new_ones(batch, restarts, num_points)
    nearest = torch.full_like(weights, torch.inf)
    centres = []
    for _ in range(size):
        cumulative = weights.cumsum(-1)
        draw = draw_rows(
            lambda rows: torch.rand(rows, restarts, 1, generator=generator, device=device), batch
        ).to(points)
        index = torch.searchsorted(cumulative, draw * cumulative[..., -1:], right=True)
        centre = points[rows, index.squeeze(2).clamp_max(num_points - 1)]
        centres.append(centre)
        # By differences: a chosen point is at distance exactly 0, so it is not drawn again.
        distance = torch.cdist(centre, points, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = torch.minimum(nearest, distance.square())
        # If every point is already a centre, any further centre will do: its group stays empty.
        weights = torch.where(nearest.sum(-1, keepdim=True) > 0, nearest, torch.ones_like(nearest))
    return torch.stack(centres, dim=2)


def _check(
    points: Tensor, num_groups: Tensor, starts: Tensor | None, restarts: int, max_iter: int
) -> None:
    if points.ndim != 3 or points.shape[1] == 0:
        raise ValueError(f"points must be (B, N, D) with N >= 1, got {tuple(points.shape)}")
    if num_groups.shape != points.shape[:1]:
        raise ValueError(
            f"num_groups must be ({points.shape[0]},), one per image, got {tuple(num_groups.shape)}"
        )
    if restarts < 1 or max_iter < 1:
        raise ValueError(f"restarts and max_iter must be >= 1, got {restarts} and {max_iter}")
    if int(num_groups.min()) < 1:
        raise ValueError(f"num_groups must be >= 1 for every image, got {num_groups.tolist()}")
    if starts is not None:
        batch, _, dim = points.shape
        size = int(num_groups.max())
        if starts.ndim != 3 or (starts.shape[0], starts.shape[2]) != (batch, dim):
            raise ValueError(f"starts must be ({batch}, K, {dim}), got {tuple(starts.shape)}")
        if starts.shape[1] < size:
            raise ValueError(f"starts must give {size} centres per image, got {starts.shape[1]}")
