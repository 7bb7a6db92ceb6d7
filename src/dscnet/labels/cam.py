"""CAM inference: multiple scales, flipping, normalisation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dscnet.numerics import at_least_float32, resize

EPS = 1e-5
"""Scores this close to the minimum of their map become 0 (SEAM's constant)."""

Score = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Maps photos ``(B, 3, H, W)`` and tags ``(B, C)`` to named scores ``(B, C, h, w)`` >= 0."""


@torch.no_grad()
def multi_scale_cam(
    score: Score,
    images: Tensor | None,
    tags: Tensor,
    *,
    scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    flip: bool = True,
    views: Sequence[Tensor] | None = None,
    size: tuple[int, int] | None = None,
    unstretched: Collection[str] = (),
    published_resize: bool = False,
    published_negatives: bool = False,
    each_scale: Callable[[dict[str, Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """Sum the CAMs of resized and flipped photos and normalise them to [0, 1].

    SEAM's inference (Wang et al., CVPR 2020). A photo side of n pixels becomes
    ``round(n * scale)``, bicubic with antialiasing; :func:`sum_views` and :func:`normalise_scores`
    do the rest.

    Deviation: published code resizes 8-bit photos before normalising them; pass ``views`` from
    :func:`scaled_photos` to do the same.

    Args:
        score: As for :func:`sum_views`.
        images: Normalised photos of one size, ``(B, 3, H, W)``; None with ``views`` and ``size``.
        tags: ``(B, C)`` in {0, 1}; the CAMs of absent classes are 0.
        scales: Sizes relative to the photo, each > 0; at least one.
        flip: As for :func:`sum_views`.
        views: Resized photos, instead of ``images`` and ``scales``.
        size: Height and width of the CAMs; None = that of ``images``.
        unstretched: Names of CAMs that are already in [0, 1]: averaged over the views instead of
            normalised.
        published_resize: As for :func:`sum_views`.
        published_negatives: As for :func:`normalise_scores`.
        each_scale: Callback for the normalised CAMs of each single view, without extra forward
            passes.

    Returns:
        One CAM ``(B, C, H, W)`` in [0, 1], at least float32, for each name from ``score``.

    Raises:
        ValueError: If ``scales`` is empty or not all positive, or ``images`` is
            missing.
    """
    if images is not None:
        whole = (images.shape[-2], images.shape[-1])
        size = size or whole
        if views is None:
            views = [resize_photos(images, scaled) for scaled in _scaled_sizes(whole, scales)]
    if views is None or size is None:
        raise ValueError("images, or views and size, must be given")
    # Most photos have few classes; skip resizing the CAMs of absent ones.
    order = _present_first(tags)
    absent = -1.0 if published_negatives else 0.0

    def present_score(view: Tensor, tags: Tensor) -> dict[str, Tensor]:
        return {name: _pick(maps, order) for name, maps in score(view, tags).items()}

    def finish(sums: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        present, maps = tags.gather(1, order), {}
        for name, total in sums.items():
            if name in unstretched:
                mean = total / (number * (2 if flip else 1))
                own = mean.clamp(0, 1) * present.to(mean)[:, :, None, None]
            else:
                own = normalise_scores(total, present, published_negatives=published_negatives)
            place = order[:, :, None, None].expand_as(own)
            maps[name] = own.new_full((*tags.shape, *size), absent).scatter(1, place, own)
        return maps

    sums: dict[str, Tensor] = {}
    for view in views:
        seen = sum_views(
            present_score, [view], tags, size, flip=flip, published_resize=published_resize
        )
        sums = {name: sums[name] + total if sums else total for name, total in seen.items()}
        if each_scale is not None:
            each_scale(finish(seen, 1))
    return finish(sums, len(views))


@torch.no_grad()
def sum_views(
    score: Score,
    views: Iterable[Tensor],
    tags: Tensor,
    size: tuple[int, int],
    *,
    flip: bool = True,
    published_resize: bool = False,
) -> dict[str, Tensor]:
    """Sum the CAMs of the same photos at several sizes.

    Each CAM is resized to ``size`` bilinearly without aligned corners, flipped back, and added to
    the sum of its name.

    Args:
        score: The network, from photos and tags to named foreground scores at any resolution;
            called once per view, and once more for flipped photos.
        views: Normalised photos at several sizes, ``(B, 3, *, *)`` each.
        tags: ``(B, C)`` in {0, 1}; passed to ``score``.
        size: Height and width of the sums.
        flip: Whether to add horizontally flipped views.
        published_resize: First upsample the CAMs to their view with aligned corners, like SEAM's
            network.

    Returns:
        One sum ``(B, C, *size)``, at least float32, for each name from ``score``.
    """
    sums: dict[str, Tensor] = {}
    for view in views:
        for mirrored in (False, True) if flip else (False,):
            for name, scores in score(view.flip(3) if mirrored else view, tags).items():
                # The sums need single precision at least; double stays.
                maps = at_least_float32(scores)
                if published_resize:
                    maps = resize(maps, (view.shape[-2], view.shape[-1]), align_corners=True)
                resized = resize(maps, size, align_corners=False)
                resized = resized.flip(3) if mirrored else resized
                sums[name] = sums[name].add_(resized) if name in sums else resized
    return sums


def scaled_photos(photo: NDArray[np.uint8], scales: Sequence[float]) -> list[NDArray[np.uint8]]:
    """Resize an 8-bit photo as published code does: bicubic, by Pillow.

    Args:
        photo: ``(H, W, 3)`` uint8.
        scales: As for :func:`multi_scale_cam`.

    Returns:
        A photo ``(round(H * scale), round(W * scale), 3)`` uint8 per scale.

    Raises:
        ValueError: As for :func:`multi_scale_cam`.
    """
    sizes = _scaled_sizes((photo.shape[0], photo.shape[1]), scales)
    return [scaled_photo(photo, size) for size in sizes]


def scaled_photo(photo: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize to a given height and width likewise."""
    resized = Image.fromarray(photo).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.array(resized)


def normalise_scores(scores: Tensor, tags: Tensor, *, published_negatives: bool = False) -> Tensor:
    """Normalise the scores of each photo and class to [0, 1].

    SEAM: negative scores become 0; then, with the minimum and maximum of the map, scores
    below ``min + 1e-5`` become 0 and the others ``(score - min - 1e-5) / (max - min + 1e-5)``. A
    constant map becomes 0.

    Deviation: in published code scores below ``min + 1e-5`` become 0 before instead of after the
    scaling and thus negative, and absent classes become -1. Both are 0 here unless
    ``published_negatives`` is set; labels do not depend on it with a background threshold >= 0.

    Args:
        scores: ``(B, C, H, W)``.
        tags: ``(B, C)`` in {0, 1}.
        published_negatives: As in published code, including negative values.

    Returns:
        ``(B, C, H, W)`` in [0, 1]; 0 for absent classes.
    """
    positive = scores.relu()
    if published_negatives:
        positive = positive * tags.to(positive)[:, :, None, None]
    low = positive.amin((2, 3), keepdim=True)
    high = positive.amax((2, 3), keepdim=True)
    if published_negatives:
        kept = positive.masked_fill(positive < low + EPS, 0.0)
        return (kept - low - EPS) / (high - low + EPS)
    stretched = (positive - low - EPS).relu() / (high - low + EPS)
    return stretched * tags.to(stretched)[:, :, None, None]


def _present_first(tags: Tensor) -> Tensor:
    """Classes of each photo, present ones first, ``(B, K)``; K = maximum per photo, >= 1."""
    most = max(1, int(tags.count_nonzero(1).max())) if len(tags) else 1
    return tags.argsort(dim=1, descending=True, stable=True)[:, :most]


def _pick(maps: Tensor, order: Tensor) -> Tensor:
    """Maps ``(B, C, h, w)`` of the classes in ``order`` ``(B, K)``, ``(B, K, h, w)``."""
    height, width = maps.shape[-2:]
    return maps.gather(1, order[:, :, None, None].expand(-1, -1, height, width))


def _scaled_sizes(size: tuple[int, int], scales: Sequence[float]) -> list[tuple[int, int]]:
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be one or more positive numbers, got {tuple(scales)}")
    return [(max(1, round(size[0] * s)), max(1, round(size[1] * s))) for s in scales]


def resize_photos(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize normalised photos ``(B, 3, H, W)`` for inference.

    Bicubic and antialiased, like the image libraries of published code.
    """
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
