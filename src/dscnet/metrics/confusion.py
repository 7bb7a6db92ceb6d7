"""Confusion matrix of a data set, IoU and pixel accuracy.

Labels absent from both ground truth and prediction are excluded from the mean; labels that are
only predicted have IoU 0. Pixels with ground truth 255 are ignored. Predictions of 255 have their
own column and count as false negatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dscnet.types import IGNORE_INDEX

Labels = NDArray[np.integer]

BLOCK = 2**16
"""Pixels counted at once: few enough for the processor's cache."""


def confusion_matrix(pred: Labels, gt: Labels, num_labels: int) -> NDArray[np.int64]:
    """Count the pixels of each pair of ground-truth and predicted label.

    Args:
        pred: Predicted labels, any shape, in [0, num_labels) or 255.
        gt: Ground-truth labels, of the same shape, in [0, num_labels) or 255 = ignored.
        num_labels: L, including background, up to 255.

    Returns:
        ``(L, L + 1)``: row = ground truth, column = prediction; the last column is 255.

    Raises:
        ValueError: If the shapes differ, a label is out of range, or L is.
    """
    counts = np.zeros((num_labels + 1) ** 2, dtype=np.int64)
    for _, pairs in pair_codes(pred, gt, num_labels):
        counts += np.bincount(pairs, minlength=counts.size)
    return matrix_of_codes(counts, num_labels)


def pair_codes(
    pred: Labels, gt: Labels, num_labels: int
) -> Iterator[tuple[slice, NDArray[np.uint16]]]:
    """Encode the pairs of labels of a photo, block by block.

    A label has code ``label + 1``, and 255 code 0; a pair has ``gt code * (L + 1) + pred code``.

    Args:
        pred: As for :func:`confusion_matrix`.
        gt: As for :func:`confusion_matrix`.
        num_labels: L.

    Yields:
        Flat pixels, and the codes of their pairs.

    Raises:
        ValueError: As for :func:`confusion_matrix`.
    """
    if not 1 <= num_labels <= IGNORE_INDEX:
        raise ValueError(f"num_labels must be in [1, {IGNORE_INDEX}], got {num_labels}")
    if pred.shape != gt.shape:
        raise ValueError(f"pred and gt must have the same shape, got {pred.shape} and {gt.shape}")
    columns, rows = _codes("pred", pred, num_labels), _codes("gt", gt, num_labels)
    for block in pixel_blocks(gt.size):
        pairs = np.multiply(rows[block], num_labels + 1, dtype=np.uint16)
        pairs += columns[block]
        yield block, pairs


def matrix_of_codes(counts: NDArray[np.int64], num_labels: int) -> NDArray[np.int64]:
    """Confusion matrix ``(L, L + 1)`` from the number of pixels of each pair's code."""
    square = counts.reshape(num_labels + 1, num_labels + 1)
    # Without the row of code 0, which is 255; its column comes last.
    return np.roll(square[1:], -1, axis=1)


def _codes(name: str, labels: Labels, num_labels: int) -> NDArray[np.uint8]:
    """Codes of labels, flat; the largest one shows whether all are valid."""
    codes = labels.ravel().astype(np.uint8, copy=False) + np.uint8(1)
    suspect = labels.dtype != np.uint8 or codes.max(initial=0) > num_labels
    if suspect and (invalid := invalid_labels(labels, num_labels)).size:
        raise ValueError(
            f"{name} must be in [0, {num_labels}) or {IGNORE_INDEX}, got {invalid.tolist()}"
        )
    return codes


def pixel_blocks(count: int) -> Iterator[slice]:
    """Slices that split the pixels of a photo into blocks."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def invalid_labels(labels: Labels, num_labels: int) -> NDArray[np.int64]:
    """Unique values that are neither in [0, num_labels) nor 255."""
    invalid = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= num_labels))
    return np.unique(labels[invalid]).astype(np.int64)


class ConfusionMatrix:
    """A confusion matrix accumulated over photos.

    Args:
        num_labels: L, including background.
        counts: Initial counts ``(L, L + 1)``, as from :func:`confusion_matrix`; None = zeros.
    """

    def __init__(self, num_labels: int, counts: NDArray[np.int64] | None = None) -> None:
        self.num_labels = num_labels
        empty = np.zeros((num_labels, num_labels + 1), dtype=np.int64)
        self.counts = empty if counts is None else counts

    def update(self, pred: Labels, gt: Labels) -> None:
        """Add one photo; see :func:`confusion_matrix`."""
        self.counts = self.counts + confusion_matrix(pred, gt, self.num_labels)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix with the same labels."""
        if other.num_labels != self.num_labels:
            raise ValueError(f"other must have {self.num_labels} labels, got {other.num_labels}")
        self.counts = self.counts + other.counts

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union, ``(L,)`` in [0, 1]; nan for labels absent from both."""
        hit = np.diagonal(self.counts)
        union = self.counts.sum(axis=1) + self.counts[:, :-1].sum(axis=0) - hit
        present = union > 0
        return np.where(present, hit / np.where(present, union, 1), np.nan)

    def miou(self) -> float:
        """Mean IoU over the labels that are present; nan if none is."""
        iou = self.iou()
        known = iou[~np.isnan(iou)]
        return float(known.mean()) if known.size else math.nan

    def pixel_accuracy(self) -> float:
        """Fraction of correct pixels; nan if no pixel counts."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else math.nan
