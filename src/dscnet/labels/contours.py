"""Lossless conversion between masks and polygons along pixel edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]
"""x and y of a pixel corner, or a step of one pixel between corners."""


def trace(mask: NDArray[np.bool_]) -> list[list[int]]:
    """Polygons that contain exactly the pixels of a mask, by the even-odd rule.

    Each encloses a 4-connected component. COCO's polygons have no holes, so each hole is connected
    to the border on its left by a zero-width cut.

    Args:
        mask: ``(H, W)``.

    Returns:
        ``x, y, x, y, ...`` of the corners in pixels; empty for an empty mask.
    """
    rings = _rings(mask)
    home = {edge: index for index, (_, edges) in enumerate(rings) for edge in edges}
    corners = [ring for ring, _ in rings]
    holes = [index for index, ring in enumerate(corners) if _area(ring) < 0]
    around = list(range(len(rings)))  # the polygon that a ring was merged into
    for index in sorted(holes, key=lambda hole: min(corners[hole])):
        x, y = min(corners[index])
        left = int(np.flatnonzero(~mask[y, :x]).max(initial=-1)) + 1
        around[index] = around[home[left, y]]
        _join(corners[around[index]], corners[index], left)
    outer = (ring for index, ring in enumerate(corners) if around[index] == index)
    return [[number for point in ring for number in point] for ring in outer]


def fill(polygons: Sequence[Sequence[int]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of shape ``size`` of polygons from `trace`."""
    toggles = np.zeros((size[0] + 1, size[1]), dtype=bool)
    for polygon in polygons:
        xs, ys = polygon[0::2], polygon[1::2]
        for x, y, following in zip(xs, ys, [*xs[1:], xs[0]], strict=True):
            toggles[y, min(x, following) : max(x, following)] ^= True
    inside: NDArray[np.bool_] = np.logical_xor.accumulate(toggles[:-1], axis=0)
    return inside


def _rings(mask: NDArray[np.bool_]) -> list[tuple[list[Point], list[Point]]]:
    """Corners of each border, and the pixels whose left side is on it.

    The inside is on the right, so holes have the opposite orientation.
    """
    steps = _steps(mask)
    rings = []
    while steps:
        start = point = next(iter(steps))
        first = step = next(iter(steps[start]))
        corners: list[Point] = []
        edges: list[Point] = []
        while True:
            steps[point].remove(step)
            if not steps[point]:
                del steps[point]
            point = point[0] + step[0], point[1] + step[1]
            if step == (0, -1):
                edges.append(point)
            # Where pixels touch at a corner only, turn right to stay with the component.
            ways, right = steps.get(point, set()), (-step[1], step[0])
            closed = point == start
            onward = first if closed else right if right in ways else next(iter(ways))
            if onward != step:
                corners.append(point)
            if closed:
                break
            step = onward
        rings.append((corners, edges))
    return rings


def _steps(mask: NDArray[np.bool_]) -> dict[Point, set[Point]]:
    """Outgoing steps from each point of a border."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    steps: dict[Point, set[Point]] = {}
    for outside, (x, y), step in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (0, 1)),
        (padded[2:, 1:-1], (1, 1), (-1, 0)),
        (padded[1:-1, :-2], (0, 1), (0, -1)),
    ):
        for row, column in np.argwhere(inside & ~outside).tolist():
            steps.setdefault((column + x, row + y), set()).add(step)
    return steps


def _area(ring: Sequence[Point]) -> int:
    """Pixels inside a border; negative for a hole."""
    following = [*ring[1:], ring[0]]
    return sum(x * (n - y) for (x, y), (_, n) in zip(ring, following, strict=True))


def _join(ring: list[Point], hole: Sequence[Point], left: int) -> None:
    """Merge a hole into a ring by a cut from its first corner to the ring's edge at ``left``."""
    start = hole.index(min(hole))
    x, y = hole[start]
    place = next(
        index
        for index, ((a, top), (b, bottom)) in enumerate(
            zip(ring, [*ring[1:], ring[0]], strict=True), 1
        )
        if a == b == left and min(top, bottom) <= y < max(top, bottom)
    )
    ring[place:place] = [(left, y), *hole[start:], *hole[:start], (x, y), (left, y)]
