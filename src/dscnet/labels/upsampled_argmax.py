"""Argmax of upsampled scores without storing the upsampled scores."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dscnet.numerics import at_least_float32

BLOCK_BYTES = 2**20
"""Size of a block, bytes: fits into the cache."""

ARRAYS = 4
"""Arrays per block held in memory at once."""

ROUNDING = 1e-6
"""Upper bound of the relative rounding error of bilinear interpolation in float32."""


class _Places(NamedTuple):
    """Positions of output pixels between input pixels along an axis."""

    before: Tensor
    after: Tensor
    share: Tensor
    """Weight of the pixel after it, in [0, 1)."""

    def part(self, start: int, stop: int) -> _Places:
        return _Places(*(values[start:stop] for values in self))


@torch.no_grad()
def label_at(
    scores: Tensor, size: tuple[int, int], *, block_bytes: int = BLOCK_BYTES
) -> NDArray[np.uint8]:
    """Label with the largest score after resizing the scores.

    Scores are resized bilinearly without aligned corners, block by block and only for labels that
    can be the largest there. The result does not depend on the blocks and equals
    ``torch.nn.functional.interpolate`` followed by ``argmax``, up to float32 rounding.

    Args:
        scores: Finite, ``(L, h, w)``, L from 1 to 256.
        size: Height and width of the labels.
        block_bytes: Memory of a block besides scores and labels.

    Returns:
        ``(H, W)`` uint8: index of the largest score, the first on ties.

    Raises:
        ValueError: If there are no scores or more than 256, or ``size`` is not positive.
    """
    if scores.ndim != 3 or not 1 <= len(scores) <= 256 or min(*scores.shape, *size) < 1:
        raise ValueError(
            "scores must be (L, h, w) with L from 1 to 256 and size positive, got"
            f" {tuple(scores.shape)} and {size}"
        )
    if scores.shape[1:] == size:
        # Unlike argmax, max is vectorised over the labels of neighbouring pixels.
        return scores.max(0).indices.to(torch.uint8).cpu().numpy()
    scores = at_least_float32(scores)
    possible = _possible(scores)
    rows = _places(scores.shape[1], size[0], scores)
    columns = _places(scores.shape[2], size[1], scores)
    side = max(1, math.isqrt(block_bytes // (ARRAYS * scores.element_size())))
    labels = np.empty(size, dtype=np.uint8)
    for top in range(0, size[0], side):
        for left in range(0, size[1], side):
            block = _label_block(
                scores, possible, rows.part(top, top + side), columns.part(left, left + side)
            )
            labels[top : top + side, left : left + side] = block.cpu().numpy()
    return labels


def _possible(scores: Tensor) -> Tensor:
    """Which labels can be the largest between a pixel and its right and lower neighbours.

    Interpolated values are within the range of the four, so a label cannot win if its maximum is
    below the minimum of another.

    Returns:
        ``(L, h, w)`` bool.
    """
    floor = torch.full_like(scores[0], -torch.inf)
    # One label at a time: all at once would take several times the memory of the scores.
    for score in scores:
        torch.maximum(floor, -_most(-score), out=floor)
    floor -= ROUNDING * torch.stack(scores.aminmax()).abs().max()
    return torch.stack([_most(score) >= floor for score in scores])


def _most(score: Tensor) -> Tensor:
    """Maximum of each pixel and its right and lower neighbours, ``(h, w)``."""
    padded = functional.pad(score[None, None], (0, 1, 0, 1), mode="replicate")
    return functional.max_pool2d(padded, 2, 1)[0, 0]


def _places(length: int, resized: int, like: Tensor) -> _Places:
    """Positions of ``resized`` pixels along an axis of ``length`` in bilinear resizing."""
    centre = torch.arange(resized, dtype=torch.float64, device=like.device) + 0.5
    place = (centre * length / resized - 0.5).clamp(min=0)
    before = place.long().clamp(max=length - 1)
    share = (place - before).to(like.dtype)
    return _Places(before, (before + 1).clamp(max=length - 1), share)


def _label_block(scores: Tensor, possible: Tensor, rows: _Places, columns: _Places) -> Tensor:
    """Labels of the pixels at some rows and columns, ``(R, C)`` uint8."""
    top, bottom = int(rows.before[0]), int(rows.after[-1])
    left, right = int(columns.before[0]), int(columns.before[-1])
    last = int(rows.before[-1])
    found = possible[:, top : last + 1, left : right + 1].flatten(1).any(1).nonzero()[:, 0]
    first, *others = found.tolist()
    shape = (len(rows.share), len(columns.share))
    labels = torch.full(shape, first, dtype=torch.uint8, device=scores.device)
    if not others:
        return labels
    best = _resized(scores[first, top : bottom + 1], rows, columns, top)
    for label in others:
        score = _resized(scores[label, top : bottom + 1], rows, columns, top)
        labels.masked_fill_(score > best, label)
        torch.maximum(best, score, out=best)
    return labels


def _resized(score: Tensor, rows: _Places, columns: _Places, top: int) -> Tensor:
    """Resized scores of one label, given its rows from ``top`` on."""
    wide = torch.lerp(score[:, columns.before], score[:, columns.after], columns.share)
    return torch.lerp(wide[rows.before - top], wide[rows.after - top], rows.share[:, None])
