"""Writes masks converted from other files, one photo at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from dscnet.data.io import image_size, photo_traits
from dscnet.files.label_images import read_labels, write_label
from dscnet.metrics.confusion import Labels, invalid_labels
from dscnet.types import IGNORE_INDEX, DataError


def write_masks(
    folder: Path,
    photos: Mapping[str, Path],
    read: Callable[[str], tuple[Labels, str]],
    *,
    num_labels: int,
    verify: bool = False,
) -> int:
    """Write missing masks ``folder/ID.png``.

    Args:
        folder: Folder of the masks.
        photos: Photos by image id.
        read: Returns the labels ``(H, W)`` of an image id, and their origin, for messages.
        num_labels: L, background included.
        verify: Also check existing masks.

    Returns:
        Number of masks written.

    Raises:
        DataError: If a mask does not have the size of its photo or has invalid labels.
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
    """Reject a mask that does not have the size of its photo or has invalid labels.

    Args:
        labels: ``(H, W)``.
        where: Origin of the mask, for messages.
        photo: Its photo.
        num_labels: L, background included.

    Raises:
        DataError: If it is invalid.
    """
    size = image_size(photo)
    if labels.shape != size:
        found = " x ".join(str(side) for side in reversed(labels.shape))
        turned = labels.shape == size[::-1] and "rotated by EXIF" in photo_traits(photo)
        remedy = (
            "the mask matches the photo without its EXIF orientation: remove the orientation tag"
            if turned
            else "use both from the same source, at the same size"
        )
        raise DataError(
            f"{where}: expected {size[1]} x {size[0]} pixels like its photo {photo}, found "
            f"{found}; {remedy}"
        )
    if (invalid := invalid_labels(labels, num_labels)).size:
        raise DataError(
            f"{where}: expected labels 0 to {num_labels - 1} and {IGNORE_INDEX}, found "
            f"{invalid[0]}; download it again, or remove it if `dscnet data prepare` wrote it"
        )
