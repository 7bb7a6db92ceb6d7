"""Validates outlines of instances files and rasterises them to masks with pycocotools."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscnet.data.formats import coco_values as values
from dscnet.data.formats.coco_json import CocoPhoto, Instance
from dscnet.types import BACKGROUND, IGNORE_INDEX, DataError, DscnetError

_FEWEST = 6
"""Coordinates of a triangle; pycocotools would interpret four as a box."""


def coco_tools() -> Any:
    """The pycocotools module for encoding and decoding masks.

    Raises:
        DscnetError: If pycocotools is missing.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DscnetError("COCO masks need pycocotools: pip install 'dscnet[coco]'") from error
    return mask


def check_outlines(photos: Iterable[CocoPhoto]) -> int:
    """Validate sizes and outlines without rasterising.

    Returns:
        Number of polygons with fewer than three points; `coco_mask` skips them, like other tools.

    Raises:
        DataError: If the size of a photo or an outline is missing or invalid, or all polygons of a
            photo are within its first pixel.
    """
    skipped = 0
    for photo in photos:
        size, polygons = _size(photo), []
        for instance in photo.instances:
            if isinstance(instance.segmentation, dict):
                _run_lengths(instance, size)
            else:
                painted = _polygons(instance, size)
                skipped += len(instance.segmentation or ()) - len(painted)
                polygons += painted
        _refuse_fractions(photo, polygons)
    return skipped


def coco_mask(photo: CocoPhoto) -> NDArray[np.uint8]:
    """Rasterise the instances of a photo.

    Larger ones first, so that small ones stay visible; for equal areas the later one in the file is
    on top. [Reading: the paper gives no rule.] Crowds are drawn first, as 255 (ignored). [Reading]
    Polygons with fewer than three points are skipped.

    Args:
        photo: The photo, with size and outlines.

    Returns:
        ``(H, W)`` uint8: 0 = background, ``c + 1`` = class ``c``, 255 = crowd.

    Raises:
        DataError: If the photo's size or an outline is missing or invalid.
    """
    tools, size = coco_tools(), _size(photo)
    encoded = ((instance, _encode(instance, size)) for instance in photo.instances)
    codes = [(instance, code) for instance, code in encoded if code is not None]
    codes.sort(key=lambda pair: (not pair[0].crowd, -int(tools.area(pair[1]))))
    labels = np.full(size, BACKGROUND, dtype=np.uint8)
    for instance, code in codes:
        label = IGNORE_INDEX if instance.crowd else instance.class_index + 1
        labels[tools.decode(code).astype(bool)] = label
    return labels


def _size(photo: CocoPhoto) -> tuple[int, int]:
    if photo.size is None:
        raise DataError(
            f"{photo.where}: expected height and width as positive integers, found others or none; "
            "correct them"
        )
    return photo.size


def _encode(instance: Instance, size: tuple[int, int]) -> Any | None:
    """Run-length encoding of an outline by pycocotools; None if everything is skipped."""
    tools = coco_tools()
    if isinstance(instance.segmentation, dict):
        lengths = {"size": list(size), "counts": _run_lengths(instance, size)}
        return tools.frPyObjects(lengths, *size)
    polygons = _polygons(instance, size)
    return tools.merge(tools.frPyObjects(polygons, *size)) if polygons else None


def _polygons(instance: Instance, size: tuple[int, int]) -> list[array[float]]:
    """Validated polygons with an area; pycocotools hangs on coordinates far outside."""
    outline = instance.segmentation
    if not outline:
        raise DataError(
            f"{instance.where}: has no outline (a box is not enough), which masks are made from;"
            " outline the object, or remove its photo and all its annotations from the file; with"
            " tags only, no masks are needed"
        )
    listed = outline if isinstance(outline, list) else []
    found = [len(polygon) for polygon in listed]
    if not found or any(count % 2 for count in found if count >= _FEWEST):
        raise DataError(
            f"{instance.where}: expected polygons of at least three points, found {found} "
            "numbers; correct it or remove the annotation"
        )
    polygons = [polygon for polygon in listed if len(polygon) >= _FEWEST]
    for polygon in polygons:
        _refuse_far(instance, polygon[0::2], size[1])
        _refuse_far(instance, polygon[1::2], size[0])
    return polygons


def _refuse_fractions(photo: CocoPhoto, polygons: Sequence[Sequence[float]]) -> None:
    """Reject polygons in relative coordinates, which would leave the mask empty."""
    if polygons and all(0 <= value <= 1 for polygon in polygons for value in polygon):
        raise DataError(
            f"{photo.where}: expected polygons in pixels, found no coordinate above 1, as in"
            " relative coordinates; multiply x by the width and y by the height"
        )


def _refuse_far(instance: Instance, values: Sequence[float], side: int) -> None:
    """Reject coordinates that are not finite or far outside of the photo."""
    finite = all(map(math.isfinite, values))
    if not finite or min(values) < -side or max(values) > 2 * side:
        invalid = next(x for x in values if not -side <= x <= 2 * side)
        raise DataError(
            f"{instance.where}: expected coordinates within one image size of the photo "
            f"({-side} to {2 * side}), found {invalid}; correct it or remove the annotation"
        )


def _run_lengths(instance: Instance, size: tuple[int, int]) -> list[int]:
    """Validated run lengths; pycocotools returns garbage if they do not add up."""
    outline = instance.segmentation
    assert isinstance(outline, dict), "polygons have no run lengths"
    expected = f"expected a run-length encoding of {size[0]} x {size[1]} (height, width)"
    if _sides(outline.get("size")) != list(size) or "counts" not in outline:
        raise DataError(
            f"{instance.where}: {expected}, found {outline.get('size')}; download the file again"
        )
    counts = values.run_lengths(outline["counts"])
    lengths = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(isinstance(n, int) and n >= 0 for n in lengths):
        raise DataError(
            f"{instance.where}: {expected}, found invalid counts: {str(counts)[:40]!r}; "
            "download the file again"
        )
    if sum(lengths) != size[0] * size[1]:
        raise DataError(
            f"{instance.where}: {expected}, found counts of {sum(lengths)} pixels instead of "
            f"{size[0] * size[1]}; download the file again"
        )
    return lengths


def _sides(size: Any) -> list[int | None]:
    return [values.whole(side) for side in size] if isinstance(size, list) else []


def _unpacked(packed: str) -> list[int] | None:
    """Run lengths in COCO's packed string; None if it is invalid.

    Five bits per character, lowest first; from the fourth length on, the difference from the length
    two before.
    """
    lengths: list[int] = []
    value = bits = 0
    for character in packed:
        code = ord(character) - ord("0")
        if not 0 <= code < 64:
            return None
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:  # the sign
            value -= 1 << bits
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = bits = 0
    return None if bits else lengths
