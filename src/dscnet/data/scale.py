"""How large a network sees photos: one size for photos of any resolution, or their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]
"""Height and width, pixels."""


@dataclass(frozen=True)
class PhotoScale:
    """What scale 1 means, and the size at which maps of photos are made and refined.

    A network is trained on photos resized to some longer side. What it sees later is tied to that
    side, so that a photo gives the same maps whatever its resolution; the results are enlarged to
    the photo's own size at the very end. Published code sees photos at their own size instead.

    Args:
        side: Longer side at scale 1, pixels, before tiling; None = the photo's own.
        work_side: Longer side of the maps and of all that refines them, pixels. None = that of
            scale 1. Without ``side``, only larger photos are reduced to it.
        tiles: Windows along the longer side. The photo is seen this many times larger, a window at
            a time, so that small things are not lost.
        tile_overlap: Part of a window that the next one sees again, in [0, 1).

    Raises:
        ValueError: If a side or ``tiles`` is below 1, ``tile_overlap`` is outside [0, 1), or photos
            at their own size are to be tiled.
    """

    side: int | None = None
    work_side: int | None = None
    tiles: int = 1
    tile_overlap: float = 0.25

    def __post_init__(self) -> None:
        """Refuse values that no photo can have."""
        for name in ("side", "work_side", "tiles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.tile_overlap < 1:
            raise ValueError(f"tile_overlap must be in [0, 1), got {self.tile_overlap}")
        if self.tiles > 1 and self.side is None:
            raise ValueError(
                f"tiles must be 1 where photos are seen at their own size, got {self.tiles}"
            )

    def work_size(self, size: Size) -> Size:
        """Size of a photo's maps.

        Args:
            size: The photo's own.
        """
        if self.side is not None:
            return with_long_side(size, self.work_side or self.side * self.tiles)
        return with_long_side(size, min(max(size), self.work_side or max(size)))

    def view_size(self, size: Size, scale: float) -> Size:
        """Size at which a photo is seen at a scale.

        Args:
            size: The photo's own.
            scale: Relative to what scale 1 is, > 0.
        """
        return scaled(size, self.factor(size, scale))

    def factor(self, size: Size, scale: float) -> float:
        """How much larger than it is a photo is seen at a scale; arguments as of `view_size`."""
        if self.side is not None:
            return scale * self.side * self.tiles / max(size)
        return scale * min(1.0, (self.work_side or max(size)) / max(size))

    def read_side(self, scales: Sequence[float]) -> int | None:
        """The longer side beyond which a photo holds more than is used of it; None = all is used.

        Args:
            scales: Those that the photo is seen at.
        """
        if self.side is None:
            return self.work_side
        seen = self.side * self.tiles * max(1.0, *scales)
        return max(math.ceil(seen), self.work_side or 0)


def with_long_side(size: Size, long_side: int) -> Size:
    """Scale a size so that its longer side is ``long_side``; neither side falls below 1."""
    return scaled(size, long_side / max(size))


def scaled(size: Size, factor: float) -> Size:
    """Both sides times a factor, rounded and at least 1."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def same_shape(size: Size, other: Size) -> bool:
    """Whether one size is the other scaled, up to the rounding of a pixel.

    Example:
        >>> same_shape((213, 320), (2662, 4000)), same_shape((213, 320), (320, 213))
        (True, False)
    """
    large, small = max(size, other), min(size, other)
    factor = max(small) / max(large)
    return all(abs(big * factor - little) <= 1 for big, little in zip(large, small, strict=True))


def windows(size: Size, tiles: int, overlap: float) -> list[tuple[slice, slice]]:
    """Square windows that cover a photo evenly, cut off at its shorter side.

    Args:
        size: The photo's, as it is seen.
        tiles: How many windows beside each other would cover the longer side without overlap.
        overlap: Least part of a window that the next one sees again, in [0, 1).

    Returns:
        Rows and columns of each window; one is enough for ``tiles`` 1.
    """
    side = math.ceil(max(size) / tiles)
    return [
        (rows, columns)
        for rows in _spans(size[0], side, overlap)
        for columns in _spans(size[1], side, overlap)
    ]


def _spans(length: int, side: int, overlap: float) -> list[slice]:
    side = min(side, length)
    step = max(1.0, side * (1 - overlap))
    count = 1 + math.ceil((length - side) / step)
    starts = [round(i * (length - side) / max(1, count - 1)) for i in range(count)]
    return [slice(start, start + side) for start in starts]
