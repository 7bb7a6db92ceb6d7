"""How large the networks see photos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class ScaleConfig:
    """How large the networks see photos, in training and in inference alike.

    Args:
        relative_to: What the scales of ``cam``, ``segment`` and ``affinity`` are relative to:
            ``training`` (the size trained on, so that photos of any resolution look alike to the
            network) or ``photo`` (the photo's own size, as published for VOC and COCO).
        side: With ``training``, a photo's longer side at scale 1, pixels; null = the middle of
            ``augment.long_side``.
        work_side: Longer side at which maps are kept and refined, pixels; labels and masks have
            the photo's own size. null = that of scale 1. With ``photo`` it is an upper bound; null
            = none.
        tiles: For things that are small in large photos: photos are trained on and seen this many
            times larger, a window at a time. Takes about ``tiles`` squared as long.
        tile_overlap: Part of a window that the next one sees again, in [0, 1).
    """

    relative_to: Literal["training", "photo"] = "training"
    side: int | None = None
    work_side: int | None = None
    tiles: int = 1
    tile_overlap: float = 0.25
