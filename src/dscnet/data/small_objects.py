"""Detects objects that are too small for the network at its input size."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from statistics import median

import torch

from dscnet.data.datasets import PhotoSet, Sample, some_samples
from dscnet.data.io import image_size, read_mask
from dscnet.data.scale import PhotoScale, Size
from dscnet.types import BACKGROUND, IGNORE_INDEX, DataError

FEW_CELLS = 3.0
"""Minimum size of an object in cells of the network's feature map, along a side."""

MUCH_SMALLER = 4.0
"""Reduction factor of photos above which small objects may be lost."""

MOST_TILES = 6
"""Maximum number of tiles to suggest: 36 times the computation."""


def small_object_notes(photos: PhotoSet, scale: PhotoScale, stride: int) -> list[str]:
    """Note classes whose objects are smaller than a few cells of the network.

    With masks, the size is the square root of the pixels of a class in a photo, as masks do not
    separate objects. Without masks, notes the minimum object size.

    Args:
        photos: Up to 200 of them are sampled evenly.
        scale: Input sizes of the network.
        stride: Output stride of the network.
    """
    some = some_samples(photos.samples)
    across: dict[int, list[float]] = defaultdict(list)
    for sample in some:
        for label, cells in _cells(sample, scale, stride):
            across[label].append(cells)
    if not across:
        return _size_note([image_size(sample.image_path) for sample in some], scale, stride)
    known = {label: median(found) for label, found in across.items()}
    return [
        f"{photos.classes[label - 1]}: about {cells:.1f} cells of the network across (median of"
        f" {len(across[label])} photos), too small to be recognised well; {_remedy(scale, cells)}"
        for label, cells in sorted(known.items())
        if cells < FEW_CELLS and label <= len(photos.classes)
    ]


def _cells(sample: Sample, scale: PhotoScale, stride: int) -> Iterator[tuple[int, float]]:
    """Labels in a photo's mask, and the size of each in cells."""
    if sample.mask_path is None:
        return
    try:
        mask = read_mask(sample.mask_path)
    except DataError:  # reported by the data check
        return
    height, width = scale.view_size((mask.shape[0], mask.shape[1]), 1.0)
    labels, counts = torch.unique(mask, return_counts=True)
    for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
        if label not in (BACKGROUND, IGNORE_INDEX):
            yield label, math.sqrt(count / mask.numel() * height * width) / stride


def _size_note(sizes: list[Size], scale: PhotoScale, stride: int) -> list[str]:
    factor, size = min((scale.factor(size, 1.0), size) for size in sizes)
    if factor * MUCH_SMALLER > 1:
        return []
    seen = scale.view_size(size, 1.0)
    least = math.ceil(FEW_CELLS * stride / factor)
    return [
        f"photos of {size[1]} x {size[0]} pixels are resized to {seen[1]} x {seen[0]}: objects"
        f" smaller than {least} pixels cover fewer than {FEW_CELLS:.0f} cells of the network; if"
        f" yours are, {_remedy(scale, FEW_CELLS / 2)}"
    ]


def _remedy(scale: PhotoScale, cells: float) -> str:
    if scale.side is None:
        return "use larger scales: --cam.scales and --segment.test_scales"
    tiles = min(MOST_TILES, math.ceil(scale.tiles * FEW_CELLS / cells))
    return (
        f"--scale.tiles {tiles} processes photos in tiles, which takes about"
        f" {(tiles / scale.tiles) ** 2:.0f} times as long"
    )
