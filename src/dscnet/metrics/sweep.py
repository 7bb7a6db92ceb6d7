"""Confusion matrices of CAMs at many background thresholds, from one pass over the photos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dscnet.labels.pseudo_label import best_label
from dscnet.metrics.confusion import ConfusionMatrix, Labels, matrix_of_codes, pair_codes
from dscnet.types import BACKGROUND

GRID = 1024
"""Cells of [0, 1] by which the thresholds below a score are found; a power of two."""


class SweepCounts:
    """Pixels of the photos so far, by labels and number of thresholds below their score.

    Args:
        num_labels: L, including background.
        scores: The thresholds, in [0, 1].

    Attributes:
        scores: The thresholds, ascending.
        counts: Pixels by pair of ground truth and strongest class, see
            :func:`dscnet.metrics.confusion.pair_codes`, and number of thresholds below the score,
            ``((L + 1)^2, scores + 1)``.
    """

    def __init__(self, num_labels: int, scores: Iterable[float]) -> None:
        self.num_labels = num_labels
        self.scores = sorted(scores)
        self.counts = np.zeros(((num_labels + 1) ** 2, len(self.scores) + 1), dtype=np.int64)

    def add(
        self,
        cam: NDArray[np.floating],
        classes: Sequence[int] | NDArray[np.integer],
        gt: Labels,
    ) -> None:
        """Count one photo.

        Args:
            cam: CAMs of the present classes, ``(C', h, w)`` in [0, 1].
            classes: Class indices, 0-based.
            gt: Ground truth, ``(H, W)``; the CAMs are resized to it.

        Raises:
            ValueError: If shapes, classes or labels do not fit.
        """
        best, winner = best_label(cam, classes, (gt.shape[0], gt.shape[1]))
        # Rounded to the type of the scores, so that ties fall as in a plain comparison.
        bounds = np.asarray(self.scores, dtype=best.dtype)
        for block, pairs in pair_codes(winner, gt, self.num_labels):
            self._add_block(pairs, num_below(bounds, best.ravel()[block]))

    def _add_block(self, pairs: NDArray[np.uint16], below: NDArray[np.int64]) -> None:
        # A photo has few of the pairs: their counts fit into the cache.
        width = self.counts.shape[1]
        present = np.flatnonzero(np.bincount(pairs, minlength=len(self.counts)))
        first = np.zeros(len(self.counts), dtype=np.int64)
        first[present] = np.arange(len(present)) * width
        counts = np.bincount(first[pairs] + below, minlength=len(present) * width)
        self.counts[present] += counts.reshape(len(present), width)

    def matrices(self) -> dict[float, ConfusionMatrix]:
        """The confusion matrix at each threshold; background wins ties."""
        below = self.counts.cumsum(axis=1)
        found = {}
        for score, lost in zip(self.scores, below.T, strict=False):
            counts = matrix_of_codes(below[:, -1] - lost, self.num_labels)
            counts[:, BACKGROUND] += matrix_of_codes(lost, self.num_labels).sum(axis=1)
            found[score] = ConfusionMatrix(self.num_labels, counts)
        return found


def num_below(bounds: NDArray[np.floating], values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Number of bounds below each value, as by ``numpy.searchsorted`` but without searching.

    Args:
        bounds: Ascending, ``(K,)``.
        values: In [0, 1], ``(N,)``.
    """
    below_edge = np.searchsorted(bounds, np.arange(GRID + 1) / GRID)
    # The cell of a value is exact, as GRID is a power of two.
    found = below_edge[(values * GRID).astype(np.int64)]
    padded = np.append(bounds, np.inf)
    for _ in range(int(np.diff(below_edge).max())):
        found += values > padded[found]
    return found
