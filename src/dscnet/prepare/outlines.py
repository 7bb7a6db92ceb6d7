"""Outlines of instances files: checked, and painted into masks by COCO's own tools."""

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
"""Numbers of a triangle; COCO's tools would take four for a box."""


def coco_tools() -> Any:
    """The module that encodes and decodes outlines.

    Raises:
        DscnetError: If pycocotools is absent.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DscnetError("COCO's masks need pycocotools: pip install 'dscnet[coco]'") from error
    return mask


def check_outlines(photos: Iterable[CocoPhoto]) -> int:
    """Check all that can be known of sizes and outlines without painting them.

    Returns:
        How many polygons have fewer than three points. `coco_mask` skips them, as other tools do.

    Raises:
        DataError: If the size of a photo or an outline is missing or wrong, or all polygons
            of a photo lie in its first pixel.
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
    """Paint the instances of a photo.

    Larger ones first, so that small ones stay visible; of equal ones the later in the file lies on
    top. [Reading: the paper names no rule.] Crowds come before all and give 255, which nothing
    counts. [Reading] Polygons of fewer than three points are skipped.

    Args:
        photo: With size and outlines.

    Returns:
        ``(H, W)`` uint8: 0 = background, ``c + 1`` = class ``c``, 255 = crowd.

    Raises:
        DataError: If the photo's size or an outline is missing or wrong.
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
            f"{photo.where}: expected height and width in whole numbers above 0, found others or "
            "none; correct them"
        )
    return photo.size


def _encode(instance: Instance, size: tuple[int, int]) -> Any | None:
    """The run-length encoding of an outline, as COCO's tools make it; None if all is skipped."""
    tools = coco_tools()
    if isinstance(instance.segmentation, dict):
        lengths = {"size": list(size), "counts": _run_lengths(instance, size)}
        return tools.frPyObjects(lengths, *size)
    polygons = _polygons(instance, size)
    return tools.merge(tools.frPyObjects(polygons, *size)) if polygons else None


def _polygons(instance: Instance, size: tuple[int, int]) -> list[array[float]]:
    """The polygons that have an area, checked: COCO's tools hang on what lies far outside."""
    outline = instance.segmentation
    if not outline:
        raise DataError(
            f"{instance.where}: has no outline (a box is none), and masks are painted from"
            " outlines; outline the object, or remove its photo and all annotations of it from the"
            " file; for tags alone no masks are needed"
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
    """Refuse polygons in parts of width and height, of which nothing would be painted."""
    if polygons and all(0 <= value <= 1 for polygon in polygons for value in polygon):
        raise DataError(
            f"{photo.where}: expected polygons in pixels, found no coordinate above 1, as if they"
            " were parts of width and height; multiply x by the width and y by the height"
        )


def _refuse_far(instance: Instance, values: Sequence[float], side: int) -> None:
    """Refuse coordinates along a side that are no numbers or lie far outside of the photo."""
    finite = all(map(math.isfinite, values))
    if not finite or min(values) < -side or max(values) > 2 * side:
        strange = next(x for x in values if not -side <= x <= 2 * side)
        raise DataError(
            f"{instance.where}: expected coordinates within one image size of the photo "
            f"({-side} to {2 * side}), found {strange}; correct it or remove the annotation"
        )


def _run_lengths(instance: Instance, size: tuple[int, int]) -> list[int]:
    """The run lengths of an encoding: COCO's tools give any memory where they do not add up."""
    outline = instance.segmentation
    assert isinstance(outline, dict), "polygons have no run lengths"
    expected = f"expected a run-length encoding of {size[0]} x {size[1]} (height, width)"
    if _sides(outline.get("size")) != list(size) or "counts" not in outline:
        raise DataError(
            f"{instance.where}: {expected}, found {outline.get('size')}; fetch the file anew"
        )
    counts = values.run_lengths(outline["counts"])
    lengths = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(isinstance(n, int) and n >= 0 for n in lengths):
        raise DataError(
            f"{instance.where}: {expected}, found counts that are none: {str(counts)[:40]!r}; "
            "fetch the file anew"
        )
    if sum(lengths) != size[0] * size[1]:
        raise DataError(
            f"{instance.where}: {expected}, found counts of {sum(lengths)} pixels instead of "
            f"{size[0] * size[1]}; fetch the file anew"
        )
    return lengths


def _sides(size: Any) -> list[int | None]:
    return [values.whole(side) for side in size] if isinstance(size, list) else []


def _unpacked(packed: str) -> list[int] | None:
    """The run lengths of COCO's packed string; None if it is none.

    Five bits a character, the lowest first; from the fourth length on the difference to the length
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
