"""PGCL's pixel groups: Pearson correlation, Eq. (4), clustered by k-means, Eq. (5)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from dscnet.context.clustering import kmeans
from dscnet.distributed.batch import batch_max
from dscnet.numerics import full_precision, unit

GROUPINGS = ("pearson", "context_rows")
"""What k-means clusters: pixels by Pearson distance, or their rows of the correlation matrix."""

STARTS = ("cam", "kmeans++")
"""Initial centres of k-means: CAM-weighted mean of each present label, or random."""


@dataclass(frozen=True)
class PixelGroups:
    """A partition of the pixels of each image.

    Attributes:
        ids: Group of each pixel, ``(B, N)`` int64 in ``[0, num_groups)``; row-major order.
        num_groups: K, the maximum number of groups per image. Some may be empty.

    Example:
        >>> groups = PixelGroups(torch.tensor([[0, 2, 2]]), num_groups=3)
        >>> groups.counts
        tensor([[1., 0., 2.]])
        >>> groups.valid
        tensor([[ True, False,  True]])
    """

    ids: Tensor
    num_groups: int

    def one_hot(self) -> Tensor:
        """Membership, ``(B, N, K)`` float32."""
        return self._members

    @cached_property
    def counts(self) -> Tensor:
        """Number of pixels in each group, ``(B, K)`` float32."""
        return self.one_hot().sum(1)

    @cached_property
    def _members(self) -> Tensor:
        return F.one_hot(self.ids, self.num_groups).float()

    @cached_property
    def valid(self) -> Tensor:
        """Non-empty groups, ``(B, K)`` bool."""
        return self.counts > 0


@full_precision
def standardise(features: Tensor) -> Tensor:
    """Centre each pixel's feature over the channels and scale it to unit length.

    The dot product of two such pixels is their Pearson correlation rho(p, q), DSCNet Eq. (4), and
    their squared distance is 2 - 2 rho(p, q).

    Args:
        features: ``(B, D, h, w)``.

    Returns:
        ``(B, N, D)`` with N = h * w, at least float32. A pixel whose channels are all equal becomes
        zero: it correlates with nothing.
    """
    if features.ndim != 4:
        raise ValueError(f"features must be (B, D, h, w), got {tuple(features.shape)}")
    return _standardise_rows(features.flatten(2).mT)


@full_precision
def context_row_factor(z: Tensor) -> Tensor:
    """Points with the same pairwise distances as the rows of the N x N correlation matrix Z Z^T.

    |row_p - row_q|^2 = (z_p - z_q)^T (Z^T Z) (z_p - z_q), so with Z = Q R the points Z R^T have
    exactly these distances. QR, unlike Cholesky, copes with a rank-deficient Gram matrix (centred
    vectors always make it singular). If N <= D the rows themselves are smaller.

    Args:
        z: Standardised pixels, ``(B, N, D)``.

    Returns:
        ``(B, N, min(N, D))``; k-means of these points is k-means of the rows.
    """
    factor = z if z.shape[1] <= z.shape[2] else torch.linalg.qr(z, mode="r").R
    return z @ factor.mT


@full_precision
def cam_starts(points: Tensor, cam: Tensor, present: Tensor) -> Tensor:
    """Initial centres of k-means: the CAM-weighted mean point of each present label.

    Background is weighted by 1 - the largest foreground CAM, not by its own channel. A present
    label without CAM mass starts at a single pixel, a different one per slot, which avoids dividing
    by zero and coinciding with the background's mean.

    Args:
        points: ``(B, N, D)``.
        cam: ``(B, L, h, w)`` in [0, 1], channel 0 = background; N = h * w.
        present: Labels of each image, ``(B, L)`` bool.

    Returns:
        ``(B, K, D)``, K = the maximum number of labels per image. The present labels come first, in
        order; slots after them hold arbitrary finite values.
    """
    num_points = points.shape[1]
    weights = cam.flatten(2) * present[..., None]
    foreground = weights[:, 1:].amax(1, keepdim=True) if cam.shape[1] > 1 else 0.0
    background = (torch.ones_like(weights[:, :1]) - foreground).clamp_min(0)
    weights = torch.cat([background * present[:, :1, None], weights[:, 1:]], dim=1)

    size = int(present.sum(1).max())
    order = present.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :size]
    weights = weights.gather(1, order[..., None].expand(-1, -1, num_points))
    mass = weights.sum(-1, keepdim=True)
    slots = torch.arange(size, device=points.device)
    pixels = points[:, (2 * slots + 1) * num_points // (2 * size)]
    means = weights @ points / mass.clamp_min(torch.finfo(mass.dtype).tiny)
    return torch.where(mass > torch.finfo(mass.dtype).eps, means, pixels)


@torch.no_grad()
@full_precision
def group_pixels(
    features: Tensor,
    cam: Tensor,
    present: Tensor,
    *,
    grouping: str = "pearson",
    starts: str = "cam",
    num_groups: int | None = None,
    generator: torch.Generator | None = None,
) -> PixelGroups:
    """Split each image into groups of pixels with similar context, DSCNet Eq. (5).

    No gradient. [Reading] The paper leaves open what k-means compares (``grouping``), how it is
    initialised (``starts``) and whether background counts as a category (here it does).

    Args:
        features: ``(B, D, h, w)``.
        cam: ``(B, L, h, w)`` in [0, 1]; used by ``starts="cam"`` only.
        present: Labels of each image, ``(B, L)`` bool, background included, at least one per image.
        grouping: One of ``GROUPINGS``.
        starts: One of ``STARTS``; random initialisation keeps the best of three.
        num_groups: The same K for every image; None = number of present labels of the image.
        generator: Random generator for the initialisation.

    Returns:
        The groups, at most K per image; some may be empty.

    Raises:
        ValueError: If an option is unknown, an image has no present label, or a fixed
            ``num_groups`` is combined with ``starts="cam"``, which has one centre per label.
    """
    check_grouping(grouping, starts, num_groups)
    points = standardise(features)
    if grouping == "context_rows":
        points = context_row_factor(points)
    if num_groups is None:
        counts = present.sum(1)
        if int(counts.min()) < 1:
            raise ValueError(f"present must name a label in every image, got {counts.tolist()}")
    else:
        counts = torch.full(present.shape[:1], num_groups, device=points.device)
    centres = cam_starts(points, cam, present) if starts == "cam" else None
    ids = kmeans(points, counts, starts=centres, generator=generator)
    return PixelGroups(ids, num_groups or batch_max(int(counts.max())))


@full_precision
def group_mean(values: Tensor, groups: PixelGroups) -> Tensor:
    """Mean over the pixels of each group, ``(B, N, E)`` to ``(B, K, E)``; differentiable.

    The mean of an empty group is zero.
    """
    members = groups.one_hot().to(values.dtype)
    return members.mT @ values / members.sum(1).clamp_min(1)[..., None]


@full_precision
def pool_groups(cam_logits: Tensor, groups: PixelGroups, sharpness: float) -> Tensor:
    """Tag scores of photos from the mean CAM of their groups; differentiable.

    ``log(mean_k exp(sharpness * p_k)) / sharpness`` over the groups of a photo (Pinheiro and
    Collobert, CVPR 2015, with groups instead of pixels): between the mean and the maximum over the
    groups. A present class needs the support of one group only, however small, while an absent
    class is penalised in every group. Pooling over pixels instead makes a small object spill over
    its surroundings, and tolerates scores in the surroundings that other pixels outweigh.

    Args:
        cam_logits: Raw CAM, ``(B, L, h, w)``; label 0, background, is ignored.
        groups: The groups of the same pixels, at least one non-empty per photo.
        sharpness: > 0; the larger, the nearer to the maximum.

    Returns:
        ``(B, C)``.
    """
    means = group_mean(cam_logits[:, 1:].flatten(2).mT, groups)
    scores = (sharpness * means).masked_fill(~groups.valid[..., None], -torch.inf)
    return (scores.logsumexp(1) - groups.valid.sum(1, keepdim=True).to(scores).log()) / sharpness


@full_precision
def correlate_groups(z: Tensor, groups: PixelGroups) -> Tensor:
    """Pearson correlation A of each pixel with each group; differentiable.

    Args:
        z: Standardised pixels, ``(B, N, D)``.
        groups: The groups, each represented by the mean of its standardised pixels, its k-means
            centre.

    Returns:
        ``(B, N, K)`` in [-1, 1]; 0 for an empty group.
    """
    return z @ _standardise_rows(group_mean(z, groups)).mT


def check_grouping(grouping: str, starts: str, num_groups: int | None) -> None:
    """Raise ValueError unless the three options are valid and compatible."""
    if grouping not in GROUPINGS:
        raise ValueError(f"grouping must be one of {', '.join(GROUPINGS)}, got {grouping!r}")
    if starts not in STARTS:
        raise ValueError(f"starts must be one of {', '.join(STARTS)}, got {starts!r}")
    if num_groups is not None and num_groups < 1:
        raise ValueError(f"num_groups must be >= 1 or None, got {num_groups}")
    if num_groups is not None and starts == "cam":
        raise ValueError(
            f"num_groups={num_groups} needs starts='kmeans++', got 'cam', "
            "which has one centre per present label"
        )


def _standardise_rows(vectors: Tensor) -> Tensor:
    """Centre and scale over the last dimension; rows constant up to rounding become zero."""
    centred = vectors - vectors.mean(-1, keepdim=True)
    size: Tensor = torch.linalg.vector_norm(vectors.detach(), dim=-1, keepdim=True)
    return unit(centred, floor=16 * torch.finfo(vectors.dtype).eps * size)
