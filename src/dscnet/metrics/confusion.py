"""The confusion matrix of a data set, and the numbers that follow from it.

A label that neither the truth nor the prediction holds is left out of the mean; one that is
predicted but never true counts 0. Ground truth 255 is left out. A prediction of 255 is wrong
wherever the ground truth has a label: it has a column of its own and so adds to what its true
label missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dscnet.types import IGNORE_INDEX

Labels = NDArray[np.integer]

BLOCK = 2**20
"""Pixels counted at once: what is computed of one takes many times what its label takes."""


def confusion_matrix(pred: Labels, gt: Labels, num_labels: int) -> NDArray[np.int64]:
    """Count the pixels of each true and predicted label.

    Args:
        pred: Predicted labels, any shape, in [0, num_labels) or 255.
        gt: True labels, of the same shape, in [0, num_labels) or 255 = left out.
        num_labels: L, background included.

    Returns:
        ``(L, L + 1)``: row = true label, column = predicted label, the last one 255.

    Raises:
        ValueError: If the shapes differ or a label is out of range.
    """
    if pred.shape != gt.shape:
        raise ValueError(f"pred and gt must have one shape, got {pred.shape} and {gt.shape}")
    for name, labels in (("pred", pred), ("gt", gt)):
        if (strange := invalid_labels(labels, num_labels)).size:
            raise ValueError(
                f"{name} must be in [0, {num_labels}) or {IGNORE_INDEX}, got {strange.tolist()}"
            )
    counts = np.zeros((num_labels, num_labels + 1), dtype=np.int64)
    guessed, true = pred.ravel(), gt.ravel()
    for block in pixel_blocks(gt.size):
        counted = true[block] != IGNORE_INDEX
        rows = true[block][counted].astype(np.int64)
        columns = guessed[block][counted].astype(np.int64)
        columns[columns == IGNORE_INDEX] = num_labels
        cells = np.bincount(rows * (num_labels + 1) + columns, minlength=counts.size)
        counts += cells.reshape(counts.shape)
    return counts


def pixel_blocks(count: int) -> Iterator[slice]:
    """Parts of a photo's pixels, row by row, that are counted one after the other."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def invalid_labels(labels: Labels, num_labels: int) -> NDArray[np.int64]:
    """The values, each once, that are neither a label below ``num_labels`` nor 255."""
    strange = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= num_labels))
    return np.unique(labels[strange]).astype(np.int64)


class ConfusionMatrix:
    """A confusion matrix that grows photo by photo.

    Args:
        num_labels: L, background included.
        counts: ``(L, L + 1)`` pixels to start from, as :func:`confusion_matrix` gives; None = none.
    """

    def __init__(self, num_labels: int, counts: NDArray[np.int64] | None = None) -> None:
        self.num_labels = num_labels
        empty = np.zeros((num_labels, num_labels + 1), dtype=np.int64)
        self.counts = empty if counts is None else counts

    def update(self, pred: Labels, gt: Labels) -> None:
        """Add one photo; see :func:`confusion_matrix`."""
        self.counts = self.counts + confusion_matrix(pred, gt, self.num_labels)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the pixels that another matrix of the same labels has counted."""
        if other.num_labels != self.num_labels:
            raise ValueError(
                f"other must have {self.num_labels} labels like this one, got {other.num_labels}"
            )
        self.counts = self.counts + other.counts

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union, ``(L,)`` in [0, 1]; nan for labels absent from both sides."""
        hit = np.diagonal(self.counts)
        union = self.counts.sum(axis=1) + self.counts[:, :-1].sum(axis=0) - hit
        present = union > 0
        return np.where(present, hit / np.where(present, union, 1), np.nan)

    def miou(self) -> float:
        """Mean IoU over the labels that are not absent from both sides; nan if all are."""
        iou = self.iou()
        known = iou[~np.isnan(iou)]
        return float(known.mean()) if known.size else math.nan

    def pixel_accuracy(self) -> float:
        """Share of the counted pixels whose label is right; nan without pixels."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else math.nan
