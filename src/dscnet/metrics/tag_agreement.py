"""Agreement of masks with image-level tags: evaluation without ground-truth masks."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from dscnet.distributed.ranks import sum_over_ranks
from dscnet.types import BACKGROUND, IGNORE_INDEX

SHOWN = 0.01
"""A mask shows a class that covers at least this fraction of the photo."""


def tag_agreement(
    items: Iterable[tuple[NDArray[np.integer], Collection[int]]], *, shown: float = SHOWN
) -> dict[str, float | None]:
    """Compare the classes in masks with the tags of their photos.

    Micro-averaged over photos and classes. It measures wrong and missed classes, not outlines.

    Args:
        items: Mask of each photo, ``(H, W)``, 0 = background, c + 1 = class c, 255 = ignored,
            and its tags, 0-based; of several ranks, each gives those of its own photos.
        shown: A mask shows a class that has at least this fraction of its pixels, in (0, 1].

    Returns:
        ``mask_precision`` (fraction of the shown classes that are tagged), ``mask_recall``
        (fraction of the tags that are shown) and their harmonic mean ``mask_f1``, in [0, 1]; None
        if the denominator is 0.

    Raises:
        ValueError: If ``shown`` is out of range.
    """
    if not 0 < shown <= 1:
        raise ValueError(f"shown must be in (0, 1], got {shown}")
    right = seen = tagged = 0
    for mask, tags in items:
        pixels = np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)
        pixels[IGNORE_INDEX] = 0
        large = np.flatnonzero((pixels > 0) & (pixels >= shown * pixels.sum())).tolist()
        classes = {label - 1 for label in large if label != BACKGROUND}
        right += len(classes & set(tags))
        seen += len(classes)
        tagged += len(tags)
    counts = np.array([right, seen, tagged])
    sum_over_ranks(counts)
    right, seen, tagged = counts.tolist()
    return {
        "mask_precision": _share(right, seen),
        "mask_recall": _share(right, tagged),
        "mask_f1": _share(2 * right, seen + tagged),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
