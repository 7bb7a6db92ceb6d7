"""SEAM's equivariance losses between a photo and a smaller view of it.

Wang et al., CVPR 2020, as in the published code. CAMs come at feature resolution and are resized
here, bilinearly with aligned corners. Every CAM is multiplied by the tags, so absent labels are 0
with zero gradient throughout: they are skipped in the computation but counted in the means.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dscnet.numerics import at_least_float32, resize, upsample

EPS = 1e-5
"""SEAM's cut-off in :func:`normalise`."""

HARD_SHARE = 0.2
"""Fraction of a photo's entries, absent labels included, that ECR averages over."""


def normalise(cam: Tensor, eps: float = EPS) -> Tensor:
    """Scale each CAM of each photo to [0, 1) by its own minimum and maximum.

    ``relu(r - min r - eps) / (max r - min r + eps)`` with ``r = relu(cam)``; gradients flow through
    the extremes too.

    Args:
        cam: ``(B, L, h, w)``.
        eps: Cut-off, also added to the range, > 0.

    Returns:
        ``(B, L, h, w)``; all 0 for a CAM that is constant or nowhere positive.
    """
    shifted, span = _shift(cam, eps)
    return shifted / span


def min_pool_loss(cam_refined: Tensor, tags: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Mean of the weakest quarter of the foreground: some pixels of a photo must be background.

    Per pixel, takes the largest refined score of the photo's classes, then averages the
    ``H * W // 4`` smallest.

    Args:
        cam_refined: Refined CAM, ``(B, L, h, w)`` in [0, 1].
        tags: ``(B, C)`` in {0, 1}.
        size: Height and width of the image, to upsample the CAMs to; None if they have that size.

    Returns:
        Scalar in [0, 1]; 0 for photos without tags or with fewer than 4 pixels.

    Raises:
        ValueError: If the CAMs do not have one label more than the tags.
    """
    labels, weights = _present(cam_refined, tags)
    maps = _take(cam_refined, labels[:, 1:])
    maps = maps if size is None else upsample(maps, size)
    strongest = (maps * weights[:, 1:]).max(1).values.flatten(1).relu()
    count = strongest.shape[1] // 4
    weakest = strongest.topk(count, dim=1, largest=False, sorted=False).values
    return weakest.sum() / max(1, weakest.numel())


def equivariance_losses(
    cam1: Tensor,
    refined1: Tensor,
    cam2: Tensor,
    refined2: Tensor,
    tags: Tensor,
    size1: tuple[int, int],
    size2: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Equivariant regularisation (ER) and equivariant cross regularisation (ECR).

    View 1 is normalised at ``size1`` and then downsampled to ``size2``; view 2 is normalised at
    ``size2``. ER is the mean absolute difference of the two plain CAMs over foreground classes and
    pixels, with gradient to both. ECR compares each view's refined CAM with the one-hot plain CAM
    of the other view, detached, over the hardest fifth of each photo's entries.

    Both divide by all labels, absent ones included, so their scale depends on the class count.

    Args:
        cam1: Raw CAM of view 1, ``(B, L, h, w)``; its background label is ignored.
        refined1: Refined CAM of view 1, ``(B, L, h, w)``.
        cam2: Raw CAM of view 2, ``(B, L, h', w')``.
        refined2: Refined CAM of view 2, ``(B, L, h', w')``.
        tags: ``(B, C)`` in {0, 1}. Without tags only background is compared.
        size1: Height and width of view 1 in pixels.
        size2: Height and width of view 2 in pixels.

    Returns:
        The scalars ER and ECR.

    Raises:
        ValueError: If the CAMs do not have one label more than the tags.
    """
    labels, weights = _present(cam1, tags)
    foreground, presence = labels[:, 1:], weights[:, 1:]
    c1 = _normalised_at(_take(cam1, foreground), size1, size2) * presence
    v1 = _normalised_at(_take(refined1, labels), size1, size2) * weights
    c2 = _normalised_at(_take(cam2, foreground), size2, size2) * presence
    v2 = _normalised_at(_take(refined2, labels), size2, size2) * weights
    er = (c1 - c2).abs().sum() / (tags.numel() * size2[0] * size2[1])
    count = int(cam1.shape[1] * size2[0] * size2[1] * HARD_SHARE)
    ecr = _hardest(_target(c2) - v1, count) + _hardest(_target(c1) - v2, count)
    return er, ecr


def _present(maps: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
    """Background and the present labels of each photo, padded to the longest.

    Returns:
        Labels ``(B, 1 + K)`` int64 and their weights ``(B, 1 + K, 1, 1)``: 1, or 0 for padding.
    """
    if maps.shape[1] != tags.shape[1] + 1:
        raise ValueError(
            f"maps must have one label more than tags, got {maps.shape[1]} and {tags.shape[1]}"
        )
    most = max(1, int((tags > 0).sum(1).max()))
    weights, classes = tags.float().topk(most, dim=1)
    labels = functional.pad(classes + 1, (1, 0), value=0)
    return labels, functional.pad(weights, (1, 0), value=1.0)[..., None, None]


def _take(maps: Tensor, labels: Tensor) -> Tensor:
    """CAMs of the given labels, at least float32: bfloat16 would lose the cut-off."""
    taken = torch.take_along_dim(maps, labels[..., None, None], dim=1)
    return at_least_float32(taken)


def _shift(cam: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of :func:`normalise`."""
    values = cam.flatten(2)
    low = values.min(2).values.relu()[..., None, None]
    high = values.max(2).values.relu()[..., None, None]
    # As low >= 0, rectifying the difference rectifies the CAM; in place, as full CAMs are large.
    return (cam - low).sub_(eps).relu_(), high - low + eps


def _normalised_at(maps: Tensor, size: tuple[int, int], reduced: tuple[int, int]) -> Tensor:
    """CAMs normalised at ``size``, then downsampled; dividing last divides fewer pixels."""
    shifted, span = _shift(upsample(maps, size), EPS)
    return resize(shifted, reduced) / span


def _target(foreground: Tensor) -> Tensor:
    """One-hot foreground with ties, after a background of 1 - maximum; detached."""
    foreground = foreground.detach()
    strongest = foreground.amax(1, keepdim=True)
    kept = foreground.masked_fill(foreground < strongest, 0.0)
    return torch.cat([1 - strongest, kept], dim=1)


def _hardest(difference: Tensor, count: int) -> Tensor:
    """Mean over photos of the mean of the ``count`` largest magnitudes; missing entries are 0."""
    magnitude = difference.abs().flatten(1)
    if count < magnitude.shape[1]:
        magnitude = magnitude.topk(count, dim=1, sorted=False).values
    return magnitude.sum() / max(1, count * len(magnitude))
