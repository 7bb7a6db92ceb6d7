"""Label maps as COCO annotations, for labelling tools and other code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscnet.labels.contours import trace
from dscnet.types import BACKGROUND, IGNORE_INDEX, check_class_count


def coco_annotations(
    labels: Iterable[tuple[str, NDArray[np.integer]]], classes: Sequence[str]
) -> dict[str, Any]:
    """A COCO instances file with one annotation per class and photo.

    Label images do not separate objects of a class, so an annotation may contain several; it still
    has ``iscrowd: 0``, as other tools skip crowds. Polygons contain exactly the class's pixels.

    Args:
        labels: File name of each photo, and its labels ``(H, W)``: 0 background, c + 1 for class c,
            255 = ignore. Background and ignored pixels are not written.
        classes: Names without background; class c has category id c + 1.

    Returns:
        ``images``, ``annotations`` and ``categories``, JSON-serialisable.

    Raises:
        ValueError: If a label has no class.
        DataError: If there are too many classes for 8-bit labels.
    """
    check_class_count(len(classes), "classes")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file_name, labelled in labels:
        height, width = labelled.shape
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for label in np.unique(labelled).tolist():
            if label in (BACKGROUND, IGNORE_INDEX):
                continue
            if label > len(classes):
                known = f"there are {len(classes)} classes"
                raise ValueError(f"{file_name}: label {label}, but {known}")
            mask = labelled == label
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "segmentation": trace(mask),
                    "area": int(mask.sum()),
                    "bbox": _box(mask),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _box(mask: NDArray[np.bool_]) -> list[int]:
    """Bounding box: left, top, width and height."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
