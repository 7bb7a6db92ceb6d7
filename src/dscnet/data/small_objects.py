"""Whether things are large enough for a network to see them, at the size that it sees photos at."""

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
"""Cells of the network along a thing, below which it is hardly told from what is around it."""

MUCH_SMALLER = 4.0
"""Photos that are reduced more than this may hold things that nobody sees any more."""

MOST_TILES = 6
"""More than this takes more than 36 times as long."""


def small_object_notes(photos: PhotoSet, scale: PhotoScale, stride: int) -> list[str]:
    """Say which things become smaller than a few cells of the network.

    By the masks where there are any: the pixels of a class in a photo, as a square, as no mask
    tells one thing from the next. Without masks, how large a thing must be.

    Args:
        photos: Up to 200 of them are looked at, evenly spread.
        scale: How large the network sees them.
        stride: Pixels a cell, at that size.
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
        f" {len(across[label])} photos), too few to be seen well; {_remedy(scale, cells)}"
        for label, cells in sorted(known.items())
        if cells < FEW_CELLS and label <= len(photos.classes)
    ]


def _cells(sample: Sample, scale: PhotoScale, stride: int) -> Iterator[tuple[int, float]]:
    """Labels that a photo's mask shows, and how many cells each is across."""
    if sample.mask_path is None:
        return
    try:
        mask = read_mask(sample.mask_path)
    except DataError:  # the check of the data says so
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
        f"photos of {size[1]} x {size[0]} pixels are seen at {seen[1]} x {seen[0]}: a thing of"
        f" fewer than {least} pixels across is smaller than {FEW_CELLS:.0f} cells of the network;"
        f" if yours are, {_remedy(scale, FEW_CELLS / 2)}"
    ]


def _remedy(scale: PhotoScale, cells: float) -> str:
    if scale.side is None:
        return "see photos larger: --cam.scales and --segment.test_scales"
    tiles = min(MOST_TILES, math.ceil(scale.tiles * FEW_CELLS / cells))
    return (
        f"--scale.tiles {tiles} looks at photos in parts, which takes about"
        f" {(tiles / scale.tiles) ** 2:.0f} times as long"
    )
