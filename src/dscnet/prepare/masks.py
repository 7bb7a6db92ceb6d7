"""Masks that are made from other files: written once, one photo in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from dscnet.data.io import image_size, photo_traits
from dscnet.files.label_images import read_labels, write_label
from dscnet.metrics.confusion import Labels, strange_labels
from dscnet.types import IGNORE_INDEX, DataError


def write_masks(
    folder: Path,
    photos: Mapping[str, Path],
    read: Callable[[str], tuple[Labels, str]],
    *,
    num_labels: int,
    verify: bool = False,
) -> int:
    """Write ``folder/ID.png`` of every photo that has none there yet.

    Args:
        folder: Where the masks shall lie.
        photos: Photo by image id.
        read: Gives the labels ``(H, W)`` of an image id, and the file they are from, for messages.
        num_labels: L, background included.
        verify: Also look at the masks that are there already.

    Returns:
        How many were written.

    Raises:
        DataError: If a mask is not of its photo's size or holds other labels.
    """
    written = 0
    for image_id, photo in photos.items():
        target = folder / f"{image_id}.png"
        if target.exists():
            if verify:
                check_mask(read_labels(target), str(target), photo, num_labels)
            continue
        labels, where = read(image_id)
        check_mask(labels, where, photo, num_labels)
        write_label(target, labels.astype(np.uint8))
        written += 1
    return written


def check_mask(labels: Labels, where: str, photo: Path, num_labels: int) -> None:
    """Refuse a mask that is not of its photo's size or holds other labels.

    Args:
        labels: ``(H, W)``.
        where: The file it is from, for messages.
        photo: The photo that it belongs to.
        num_labels: L, background included.

    Raises:
        DataError: If it does not fit.
    """
    size = image_size(photo)
    if labels.shape != size:
        found = " x ".join(str(side) for side in reversed(labels.shape))
        turned = labels.shape == size[::-1] and "rotated by EXIF" in photo_traits(photo)
        remedy = (
            "its masks are of the photo before its EXIF orientation turns it: remove that from it"
            if turned
            else "take both from one place, at one size"
        )
        raise DataError(
            f"{where}: expected {size[1]} x {size[0]} pixels as its photo {photo} has, found "
            f"{found}; {remedy}"
        )
    if (strange := strange_labels(labels, num_labels)).size:
        raise DataError(
            f"{where}: expected labels 0 to {num_labels - 1} and {IGNORE_INDEX}, found "
            f"{strange[0]}; fetch it anew, or remove it if `dscnet data prepare` wrote it"
        )
