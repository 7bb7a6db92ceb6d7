"""Photo sizes for inference: a common size for any resolution, or the photos' own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]
"""Height and width, pixels."""


@dataclass(frozen=True)
class PhotoScale:
    """The photo size at scale 1, and the working size of CAMs and their refinement.

    A network is trained on photos resized to some longer side. Inference uses the same size, so
    that CAMs do not depend on the photo's resolution; results are upsampled to the photo's own size
    at the very end. Published code uses photos at their own size instead.

    Args:
        side: Longer side at scale 1, pixels, before tiling; None = the photo's own.
        work_side: Longer side of CAMs and their refinement, pixels. None = that of scale 1. Without
            ``side``, only larger photos are reduced to it.
        tiles: Windows along the longer side. The photo is enlarged by this factor and processed one
            window at a time, for small objects.
        tile_overlap: Overlap of neighbouring windows, as a fraction of a window, in [0, 1).

    Raises:
        ValueError: If a side or ``tiles`` is below 1, ``tile_overlap`` is outside [0, 1), or tiling
            is combined with photos at their own size.
    """

    side: int | None = None
    work_side: int | None = None
    tiles: int = 1
    tile_overlap: float = 0.25

    def __post_init__(self) -> None:
        """Validate the fields."""
        for name in ("side", "work_side", "tiles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.tile_overlap < 1:
            raise ValueError(f"tile_overlap must be in [0, 1), got {self.tile_overlap}")
        if self.tiles > 1 and self.side is None:
            raise ValueError(f"tiles must be 1 for photos at their own size, got {self.tiles}")

    def work_size(self, size: Size) -> Size:
        """Working size of a photo's CAMs.

        Args:
            size: The photo's own size.
        """
        if self.side is not None:
            return with_long_side(size, self.work_side or self.side * self.tiles)
        return with_long_side(size, min(max(size), self.work_side or max(size)))

    def view_size(self, size: Size, scale: float) -> Size:
        """Input size of a photo at a scale.

        Args:
            size: The photo's own size.
            scale: Relative to scale 1, > 0.
        """
        return scaled(size, self.factor(size, scale))

    def factor(self, size: Size, scale: float) -> float:
        """Resize factor of a photo at a scale; arguments as for `view_size`."""
        if self.side is not None:
            return scale * self.side * self.tiles / max(size)
        return scale * min(1.0, (self.work_side or max(size)) / max(size))

    def read_side(self, scales: Sequence[float]) -> int | None:
        """Longer side that a photo can be reduced to without loss; None = no limit.

        Args:
            scales: The scales in use.
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
    """Whether two sizes have the same aspect ratio, up to rounding.

    Example:
        >>> same_shape((213, 320), (2662, 4000)), same_shape((213, 320), (320, 213))
        (True, False)
    """
    large, small = max(size, other), min(size, other)
    factor = max(small) / max(large)
    return all(abs(big * factor - little) <= 1 for big, little in zip(large, small, strict=True))


def windows(size: Size, tiles: int, overlap: float) -> list[tuple[slice, slice]]:
    """Square windows that cover a photo evenly, clipped at its shorter side.

    Args:
        size: Input size of the photo.
        tiles: Number of windows that would cover the longer side without overlap.
        overlap: Minimum overlap, as a fraction of a window, in [0, 1).

    Returns:
        Rows and columns of each window; a single one for ``tiles`` 1.
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
