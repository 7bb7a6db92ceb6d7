"""Input size of the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class ScaleConfig:
    """Input size of the networks, in training and inference.

    Args:
        relative_to: What the scales of ``cam``, ``segment`` and ``affinity`` are relative to:
            ``training`` (the training size, so that photos of any resolution look alike to the
            network) or ``photo`` (the photo's own size, as in the published VOC and COCO
            protocols).
        side: Longer side of a photo at scale 1, pixels, with ``training``; null = the middle of
            ``augment.long_side``.
        work_side: Longer side at which CAMs are stored and refined, pixels; labels and masks have
            the photo's size. null = the size at scale 1. With ``photo`` an upper bound; null = no
            bound.
        tiles: For small objects in large photos: photos are this many times larger in training
            and inference, and processed in windows. Time grows with the square.
        tile_overlap: Overlap of neighbouring windows as a fraction of their size, in [0, 1).
    """

    relative_to: Literal["training", "photo"] = "training"
    side: int | None = None
    work_side: int | None = None
    tiles: int = 1
    tile_overlap: float = 0.25
