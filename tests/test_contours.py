"""Tests of ``dscnet.labels.contours``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from dscnet.labels.contours import fill, trace

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=8))


@given(MASKS)
def test_masks_come_back(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(fill(trace(mask), mask.shape), mask)


@given(MASKS)
def test_coco_tools_paint_the_same_pixels(mask: np.ndarray) -> None:
    tools = pytest.importorskip("pycocotools.mask")
    polygons = trace(mask)
    assert bool(polygons) == bool(mask.any())
    painted = np.zeros_like(mask)
    for code in tools.frPyObjects(polygons, *mask.shape) if polygons else ():
        assert not (painted & tools.decode(code).astype(bool)).any()
        painted |= tools.decode(code).astype(bool)
    np.testing.assert_array_equal(painted, mask)


def test_corners_alone_are_kept_and_pixels_that_touch_by_a_corner_are_apart() -> None:
    mask = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    polygons = trace(mask)
    points = [set(zip(p[0::2], p[1::2], strict=True)) for p in polygons]
    assert points == [{(0, 0), (2, 0), (2, 2), (0, 2)}, {(2, 2), (3, 2), (3, 3), (2, 3)}]
    assert [len(p) for p in polygons] == [8, 8]


def test_a_hole_is_cut_from_the_border_on_its_left() -> None:
    (ring,) = trace(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool))
    points = list(zip(ring[0::2], ring[1::2], strict=True))
    assert points.count((0, 1)) == points.count((1, 1)) == 2
    assert set(points) >= {(0, 0), (3, 0), (3, 3), (0, 3), (2, 1), (2, 2), (1, 2)}
