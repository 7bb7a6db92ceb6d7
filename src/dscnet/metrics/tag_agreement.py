"""How well masks agree with tags: what can be said of a segmentation network without true masks."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from dscnet.types import BACKGROUND, IGNORE_INDEX

SHOWN = 0.01
"""Share of a photo's pixels from which on a mask is said to show a class."""


def tag_agreement(
    items: Iterable[tuple[NDArray[np.integer], Collection[int]]], *, shown: float = SHOWN
) -> dict[str, float | None]:
    """Compare the classes that masks show with the tags of their photos.

    Counted over all photos and classes together. It tells of wrong and of missed classes, nothing
    of outlines: masks of the right class and the wrong shape agree.

    Args:
        items: Mask of each photo, ``(H, W)``, 0 = background, c + 1 = class c, 255 = not counted,
            and its tags, 0-based.
        shown: A mask shows a class that has at least this share of its counted pixels, in (0, 1].

    Returns:
        ``mask_precision`` (share of the shown classes that are tagged), ``mask_recall`` (share of
        the tags that are shown) and their harmonic mean ``mask_f1``, in [0, 1]; None where there
        is nothing to divide by.

    Raises:
        ValueError: If ``shown`` is out of range.
    """
    if not 0 < shown <= 1:
        raise ValueError(f"shown must be in (0, 1], got {shown}")
    right = seen = tagged = 0
    for mask, tags in items:
        labels, pixels = np.unique(mask[mask != IGNORE_INDEX], return_counts=True)
        large = labels[pixels >= shown * pixels.sum()]
        classes = {int(label) - 1 for label in large if label != BACKGROUND}
        right += len(classes & set(tags))
        seen += len(classes)
        tagged += len(tags)
    return {
        "mask_precision": _share(right, seen),
        "mask_recall": _share(right, tagged),
        "mask_f1": _share(2 * right, seen + tagged),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
