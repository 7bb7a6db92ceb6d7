"""Formulas of SEAM, k-means and groups as they are read, for ``naive_twin.py``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-5
ITERATIONS = 20
Losses = dict[str, Tensor]


class View(NamedTuple):
    """One view: plain, final and refined CAM at feature size, its groups, and the photo's size."""

    plain: Tensor
    final: Tensor
    refined: Tensor
    size: tuple[int, int]
    ids: list[Tensor]
    embeddings: list[Tensor]
    logits: list[Tensor]


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, aligned corners."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def pearson_points(pixels: Tensor) -> Tensor:
    """Points ``(N, D)`` whose dot product is the Pearson correlation."""
    return F.normalize(pixels - pixels.mean(1, keepdim=True), dim=1)


def means(values: Tensor, ids: Tensor, count: int | None) -> Tensor:
    """Mean of the rows of each group, ``(K, D)``; 0 for an empty one."""
    rows = [values[ids == group] for group in range(count or 0)]
    return torch.stack([row.sum(0) / max(1, len(row)) for row in rows])


def kmeans(points: Tensor, draws: Tensor) -> Tensor:
    """The best of several runs of Lloyd's algorithm from k-means++ centres.

    Args:
        points: ``(N, D)``.
        draws: Uniform random numbers, ``(restarts, K)``.

    Returns:
        Group of each point, ``(N,)``.
    """
    runs = [lloyd(points, plus_plus(points, row)) for row in draws]
    return min(runs, key=lambda run: run[1])[0]


def plus_plus(points: Tensor, draws: Tensor) -> list[Tensor]:
    """Centres drawn with probability proportional to the squared distance to the nearest."""
    weights = torch.ones_like(points[:, 0])
    nearest = torch.full_like(weights, torch.inf)
    centres = []
    for draw in draws:
        cumulative = weights.cumsum(0)
        index = int(torch.searchsorted(cumulative, draw.to(points) * cumulative[-1], right=True))
        centres.append(points[min(index, len(points) - 1)])
        nearest = torch.minimum(nearest, (points - centres[-1]).pow(2).sum(1))
        weights = nearest if nearest.sum() > 0 else torch.ones_like(nearest)
    return centres


def lloyd(points: Tensor, centres: list[Tensor]) -> tuple[Tensor, float]:
    """Group of each point and the sum of squared distances."""
    ids = torch.full_like(points[:, 0], -1, dtype=torch.int64)
    for _ in range(ITERATIONS):
        distances = torch.stack([(points - centre).pow(2).sum(1) for centre in centres], 1)
        nearest, new = distances.min(1)
        if torch.equal(new, ids):
            break
        ids = new
        centres = [
            points[ids == group].mean(0) if (ids == group).any() else centre
            for group, centre in enumerate(centres)
        ]
    return ids, float(nearest.sum())


def normalised(cam: Tensor) -> Tensor:
    """SEAM's N(): between 0 and 1 by the minimum and maximum of each CAM."""
    cam = F.relu(cam)
    low = cam.flatten(2).min(2).values[..., None, None]
    high = cam.flatten(2).max(2).values[..., None, None]
    return F.relu(cam - low - EPS) / (high - low + EPS)


def seam_losses(first: View, second: View, tags: Tensor) -> Losses:
    """Minimum pooling, ER and ECR on CAMs of all classes at the size of the photos."""
    labels = tags[:, :, None, None]
    extended = F.pad(tags, (1, 0), value=1.0)[:, :, None, None]
    cams = [resize(view.final, view.size) for view in (first, second)]
    refined = [resize(view.refined, view.size) for view in (first, second)]
    weakest = []
    for maps in refined:
        strongest = (maps[:, 1:] * labels).max(1).values.flatten(1)
        lowest = strongest.topk(strongest.shape[1] // 4, largest=False).values
        weakest.append(F.relu(lowest).mean())
    c1, v1 = (resize(normalised(m[0]), second.size) * extended for m in (cams, refined))
    c2, v2 = (normalised(m[1]) * extended for m in (cams, refined))
    er = (c1[:, 1:] - c2[:, 1:]).abs().mean()
    pairs = ((one_hot(c2), v1), (one_hot(c1), v2))
    ecr = torch.stack([hardest(target - maps) for target, maps in pairs]).sum()
    return {"min": torch.stack(weakest).mean(), "er": er, "ecr": ecr}


def one_hot(cam: Tensor) -> Tensor:
    """The strongest foreground class of each pixel; background is 1 - its score."""
    foreground = cam[:, 1:].detach()
    strongest = foreground.max(1, keepdim=True).values
    kept = torch.where(foreground < strongest, 0.0, foreground)
    return torch.cat([1 - strongest, kept], 1)


def hardest(difference: Tensor) -> Tensor:
    """Mean of the largest fifth of each photo."""
    magnitude = difference.abs().flatten(1)
    return magnitude.topk(int(magnitude.shape[1] * 0.2)).values.mean()
