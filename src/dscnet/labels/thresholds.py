"""Background scores that the maps themselves suggest: no criterion reads a mask.

All are read off counts of pixels by score, gathered in one pass over the photos. A photo without
classes says nothing of its objects and is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscnet.labels.pseudo_label import best_label

BINS = 100
"""Equal parts of [0, 1] that scores are counted in; criteria answer with the edges between them."""

LEAST_FOREGROUND = 0.01
"""Share of the pixels of tagged photos that both maps must show as foreground in ``agreement``."""

Counts = NDArray[Any]


class ScoreCounts:
    """Pixels of the photos so far, by the score of their strongest class.

    Attributes:
        by_label: Pixels by strongest label and score, ``(label + 1, BINS)`` rows for the labels
            seen; row 0 stays empty.
        entropy: Sum over photos of the entropy of the labels' shares of the photo, by background
            score, ``(BINS,)``.
        shared: Pixels by the lower of two scores, the photo's and that of its second map.
        second: Pixels by the score of the second map.
        salient: Pixels by score where the saliency map says object, and where not, ``(2, BINS)``.
        shared_scales: Pixels by the lower of the scores of two scales, ``(S, S, BINS)``; those of
            a scale with itself are its pixels by score. Empty until the first photo.
        all_seconds: Whether every photo had a second map.
        all_salient: Whether every photo had a saliency map.
        all_scales: Whether every photo had maps of the same number of scales.
    """

    def __init__(self) -> None:
        self.by_label: Counts = np.zeros((1, BINS))
        self.entropy: Counts = np.zeros(BINS)
        self.shared: Counts = np.zeros(BINS)
        self.second: Counts = np.zeros(BINS)
        self.salient: Counts = np.zeros((2, BINS))
        self.shared_scales: Counts = np.zeros((0, 0, BINS))
        self.all_seconds = True
        self.all_salient = True
        self.all_scales = True

    def add(
        self,
        cam: NDArray[np.floating],
        classes: Sequence[int] | NDArray[np.integer],
        *,
        second: NDArray[np.floating] | None = None,
        saliency: NDArray[np.floating] | None = None,
        scales: NDArray[np.floating] | None = None,
    ) -> None:
        """Count one photo.

        Args:
            cam: Maps of the present classes, ``(C', H, W)`` in [0, 1].
            classes: Index of each, 0-based.
            second: Another view's maps of the same classes, such as those before refinement.
            saliency: ``(H, W)`` in [0, 1].
            scales: Maps of single scales of the same classes, ``(S, C', h, w)`` in [0, 1].
        """
        if not len(classes):
            return
        best, winner = best_label(cam, classes)
        bins = _bins(best)
        labels = np.asarray(classes, dtype=np.int64) + 1
        missing = int(labels.max()) + 1 - len(self.by_label)
        self.by_label = np.pad(self.by_label, ((0, max(0, missing)), (0, 0)))
        size = self.by_label.size
        photo = np.bincount(winner.astype(np.int64).ravel() * BINS + bins.ravel(), minlength=size)
        photo = photo.reshape(self.by_label.shape).astype(np.float64)
        self.by_label += photo
        self.entropy += _entropy(_areas(photo[labels]))
        if second is None:
            self.all_seconds = False
        else:
            other = _bins(best_label(second, classes)[0])
            self.second += np.bincount(other.ravel(), minlength=BINS)
            self.shared += np.bincount(np.minimum(bins, other).ravel(), minlength=BINS)
        if saliency is None:
            self.all_salient = False
        else:
            for row, where in zip(self.salient, (saliency > 0.5, saliency <= 0.5), strict=True):
                row += np.bincount(bins[where], minlength=BINS)
        self._add_scales([] if scales is None else [_bins(maps.max(0)) for maps in scales])

    def _add_scales(self, bins: list[NDArray[np.int64]]) -> None:
        if not len(self.shared_scales):
            self.shared_scales = np.zeros((len(bins), len(bins), BINS))
        if not bins or len(bins) != len(self.shared_scales):
            self.all_scales = False
            return
        for one, row in zip(bins, self.shared_scales, strict=True):
            for other, counts in zip(bins, row, strict=True):
                counts += np.bincount(np.minimum(one, other).ravel(), minlength=BINS)

    @property
    def foreground(self) -> Counts:
        """Pixels by score, ``(BINS,)``."""
        pixels: Counts = self.by_label.sum(axis=0)
        return pixels


def suggested_score(counts: ScoreCounts, criterion: str) -> float | None:
    """The background score that a criterion suggests.

    Args:
        counts: Of all photos.
        criterion: One of ``CRITERIA``.

    Returns:
        A score in (0, 1); None where the maps, or the saliency maps, do not allow the criterion.

    Raises:
        ValueError: If the criterion is unknown.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    return CRITERIA[criterion](counts)


def otsu_score(histogram: NDArray[Any]) -> float | None:
    """Background score that parts the scores into two groups best.

    Otsu (IEEE Trans. SMC, 1979): the threshold with the largest variance between the groups.

    Args:
        histogram: Pixels by score over equal bins of [0, 1], ``(bins,)``.

    Returns:
        Upper edge of the lower group, in (0, 1); None if fewer than two bins hold a pixel.
    """
    if np.count_nonzero(histogram) < 2:
        return None
    bins = len(histogram)
    share = histogram / histogram.sum()
    centre = (np.arange(bins) + 0.5) / bins
    below, moment = share.cumsum()[:-1], (share * centre).cumsum()[:-1]
    mean = float((share * centre).sum())
    # Where one side is empty there is no second group.
    spread = np.where((below > 0) & (below < 1), below * (1 - below), np.inf)
    return float((np.argmax((mean * below - moment) ** 2 / spread) + 1) / bins)


def otsu(counts: ScoreCounts) -> float | None:
    """Distribution of the scores: Otsu's threshold over the pixels of all photos."""
    return otsu_score(counts.foreground)


def class_otsu(counts: ScoreCounts) -> float | None:
    """Distribution of the scores: median of the classes' own Otsu thresholds."""
    found = [otsu_score(row) for row in counts.by_label[1:]]
    scores = [score for score in found if score is not None]
    return float(np.median(scores)) if scores else None


def tags(counts: ScoreCounts) -> float | None:
    """Tag consistency: all labels that a photo should show, background too, keep their share of it.

    The score with the largest entropy of the labels' shares of a photo, mean over photos: a label
    that vanishes, or one that takes all, makes it small.
    """
    return _best_score(counts.entropy)


def stability(counts: ScoreCounts) -> float | None:
    """Stability: where the areas of the labels change least with the score.

    The score at which labels and those of the next score overlap most; background and the mean over
    the classes count alike.
    """
    # Without the score 0, which makes everything foreground.
    *classes, background = _areas(counts.by_label[1:])[:, 1:]
    kept = [area[1:] / np.maximum(area[:-1], 1) for area in classes if area[0]]
    if not kept:
        return None
    overlap = np.mean(kept, axis=0) + background[:-1] / np.maximum(background[1:], 1)
    return _best_score(np.concatenate([[0.0], overlap, [0.0]]))


def agreement(counts: ScoreCounts) -> float | None:
    """Agreement of two maps of a photo on what is foreground, beyond chance (Cohen's kappa).

    Scores above which either map has next to no foreground do not count: there the peaks of the
    maps alone would decide.
    """
    if not counts.all_seconds:
        return None
    one, other = _above(counts.foreground), _above(counts.second)
    shown = np.minimum(one, other) >= LEAST_FOREGROUND * one[0]
    return _best_score(np.where(shown, _kappa(_above(counts.shared), one, other), 0.0))


def scales(counts: ScoreCounts) -> float | None:
    """Agreement of maps of single scales on what is foreground (Cohen's kappa, mean of pairs)."""
    shared = _above(counts.shared_scales)
    if not counts.all_scales or len(shared) < 2:
        return None
    pairs = combinations(range(len(shared)), 2)
    kappas = [_kappa(shared[i, j], shared[i, i], shared[j, j]) for i, j in pairs]
    return _best_score(np.mean(kappas, axis=0))


def saliency(counts: ScoreCounts) -> float | None:
    """Agreement of the foreground with saliency maps, beyond chance (Cohen's kappa).

    Uses more than tags if the saliency maps do.
    """
    if not counts.all_salient:
        return None
    object_, rest = counts.salient
    salient = np.full(BINS, object_.sum())
    return _best_score(_kappa(_above(object_), _above(object_ + rest), salient))


CRITERIA: dict[str, Callable[[ScoreCounts], float | None]] = {
    "otsu": otsu,
    "class_otsu": class_otsu,
    "tags": tags,
    "stability": stability,
    "agreement": agreement,
    "scales": scales,
    "saliency": saliency,
}
"""Criteria by name."""


def _bins(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.minimum((scores * BINS).astype(np.int64), BINS - 1)


def _above(histogram: Counts) -> Counts:
    """Pixels whose score reaches the lower edge of each bin, over the last axis."""
    reversed_: Counts = np.flip(histogram, -1).cumsum(-1)
    return np.flip(reversed_, -1)


def _areas(by_class: Counts) -> Counts:
    """Pixels of each class, and of background in the last row, by background score."""
    above = _above(by_class)
    return np.vstack([above, by_class.sum() - above.sum(axis=0)])


def _entropy(areas: Counts) -> Counts:
    """Entropy of the shares of the labels, ``(BINS,)``."""
    shares = areas / areas.sum(axis=0)
    entropy: Counts = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=0)
    return entropy


def _kappa(both: Counts, one: Counts, other: Counts) -> Counts:
    """Cohen's kappa of two two-way labellings of the same pixels; 0 where either is all of a kind.

    The first entries, where the lowest score makes everything foreground, tell how many there are.
    """
    total = max(one[0], 1.0)
    p, q = one / total, other / total
    chance = p * q + (1 - p) * (1 - q)
    agreed = 1 + 2 * both / total - p - q
    return np.where(chance < 1, (agreed - chance) / np.where(chance < 1, 1 - chance, 1), 0.0)


def _best_score(values: Counts) -> float | None:
    """Lower edge of the bin with the largest value, the middle one of equals; None if all are."""
    largest = np.flatnonzero(values == values.max())
    return None if len(largest) == len(values) else float(largest[len(largest) // 2]) / BINS
