"""Background thresholds estimated from the CAMs, without masks.

All criteria use histograms of scores, computed in one pass over the photos. Photos without classes
are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dscnet.labels.pseudo_label import best_label

BINS = 100
"""Histogram bins over [0, 1]; criteria return bin edges."""

LEAST_FOREGROUND = 0.01
"""Minimum fraction of foreground pixels in both CAMs for ``agreement``."""

Counts = NDArray[Any]


class ScoreCounts:
    """Histograms of the photos so far, by the score of the strongest class.

    Attributes:
        by_label: Pixels by strongest label and score, ``(label + 1, BINS)`` rows for the labels
            seen; row 0 stays empty.
        entropy: Sum over photos of the entropy of the label areas, by threshold, ``(BINS,)``.
        shared: Pixels by the lower of two scores, from the CAM and the second CAM.
        second: Pixels by the score of the second CAM.
        salient: Pixels by score, salient and not salient, ``(2, BINS)``.
        shared_scales: Pixels by the lower of the scores of two scales, ``(S, S, BINS)``; the
            diagonal is the histogram of each scale. Empty until the first photo.
        all_seconds: Whether every photo had a second CAM.
        all_salient: Whether every photo had a saliency map.
        all_scales: Whether every photo had CAMs of the same number of scales.
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
            cam: CAMs of the present classes, ``(C', H, W)`` in [0, 1].
            classes: Class indices, 0-based.
            second: Other CAMs of the same classes, such as those before refinement.
            saliency: ``(H, W)`` in [0, 1].
            scales: Single-scale CAMs of the same classes, ``(S, C', h, w)`` in [0, 1].
        """
        if not len(classes):
            return
        best, winner = best_label(cam, classes)
        bins = _bins(best)
        labels = np.asarray(classes, dtype=np.int64) + 1
        missing = int(labels.max()) + 1 - len(self.by_label)
        self.by_label = np.pad(self.by_label, ((0, max(0, missing)), (0, 0)))
        size = self.by_label.size
        cells = np.multiply(winner, BINS, dtype=np.uint16) + bins
        photo = np.bincount(cells.ravel(), minlength=size)
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

    def _add_scales(self, bins: list[NDArray[np.uint8]]) -> None:
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
    """Background threshold estimated by a criterion.

    Args:
        counts: Histograms of all photos.
        criterion: One of ``CRITERIA``.

    Returns:
        A threshold in (0, 1); None if the CAMs or saliency maps do not allow the criterion.

    Raises:
        ValueError: If the criterion is unknown.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    return CRITERIA[criterion](counts)


def otsu_score(histogram: NDArray[Any]) -> float | None:
    """Otsu's threshold (IEEE Trans. SMC, 1979), with the largest between-class variance.

    Args:
        histogram: Pixels by score over equal bins of [0, 1], ``(bins,)``.

    Returns:
        Upper edge of the lower class, in (0, 1); None if fewer than two bins are non-empty.
    """
    if np.count_nonzero(histogram) < 2:
        return None
    bins = len(histogram)
    share = histogram / histogram.sum()
    centre = (np.arange(bins) + 0.5) / bins
    below, moment = share.cumsum()[:-1], (share * centre).cumsum()[:-1]
    mean = float((share * centre).sum())
    # No second class if one side is empty.
    spread = np.where((below > 0) & (below < 1), below * (1 - below), np.inf)
    return float((np.argmax((mean * below - moment) ** 2 / spread) + 1) / bins)


def otsu(counts: ScoreCounts) -> float | None:
    """Otsu's threshold over the pixels of all photos."""
    return otsu_score(counts.foreground)


def class_otsu(counts: ScoreCounts) -> float | None:
    """Median of the per-class Otsu thresholds."""
    found = [otsu_score(row) for row in counts.by_label[1:]]
    scores = [score for score in found if score is not None]
    return float(np.median(scores)) if scores else None


def tags(counts: ScoreCounts) -> float | None:
    """Tag consistency: every present label, background included, keeps some area.

    The threshold with the largest entropy of the label areas of a photo, mean over photos; the
    entropy is low if a label vanishes or covers everything.
    """
    return _best_score(counts.entropy)


def stability(counts: ScoreCounts) -> float | None:
    """Stability: where label areas change least with the threshold.

    The threshold whose labels overlap most with those of the next one; background and the mean over
    the classes have equal weight.
    """
    # Without threshold 0, where everything is foreground.
    *classes, background = _areas(counts.by_label[1:])[:, 1:]
    kept = [area[1:] / np.maximum(area[:-1], 1) for area in classes if area[0]]
    if not kept:
        return None
    overlap = np.mean(kept, axis=0) + background[:-1] / np.maximum(background[1:], 1)
    return _best_score(np.concatenate([[0.0], overlap, [0.0]]))


def agreement(counts: ScoreCounts) -> float | None:
    """Agreement of two CAMs of a photo on the foreground, beyond chance (Cohen's kappa).

    Thresholds at which either CAM has almost no foreground are excluded: only peaks would matter.
    """
    if not counts.all_seconds:
        return None
    one, other = _above(counts.foreground), _above(counts.second)
    enough = np.minimum(one, other) >= LEAST_FOREGROUND * one[0]
    return _best_score(np.where(enough, _kappa(_above(counts.shared), one, other), 0.0))


def scales(counts: ScoreCounts) -> float | None:
    """Agreement of single-scale CAMs on the foreground (Cohen's kappa, mean over pairs)."""
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


def _bins(scores: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.minimum((scores * BINS).astype(np.uint8), np.uint8(BINS - 1))


def _above(histogram: Counts) -> Counts:
    """Pixels with a score at or above the lower edge of each bin, along the last axis."""
    reversed_: Counts = np.flip(histogram, -1).cumsum(-1)
    return np.flip(reversed_, -1)


def _areas(by_class: Counts) -> Counts:
    """Pixels of each class, and of background in the last row, by threshold."""
    above = _above(by_class)
    return np.vstack([above, by_class.sum() - above.sum(axis=0)])


def _entropy(areas: Counts) -> Counts:
    """Entropy of the label areas, ``(BINS,)``."""
    fractions = areas / areas.sum(axis=0)
    logs = np.log(np.where(fractions > 0, fractions, 1.0))
    entropy: Counts = -(fractions * logs).sum(axis=0)
    return entropy


def _kappa(both: Counts, one: Counts, other: Counts) -> Counts:
    """Cohen's kappa of two binary labellings of the same pixels; 0 if either is constant.

    The first entries, at threshold 0, are the total number of pixels.
    """
    total = max(one[0], 1.0)
    p, q = one / total, other / total
    chance = p * q + (1 - p) * (1 - q)
    agreed = 1 + 2 * both / total - p - q
    return np.where(chance < 1, (agreed - chance) / np.where(chance < 1, 1 - chance, 1), 0.0)


def _best_score(values: Counts) -> float | None:
    """Lower edge of the bin with the largest value (the middle one on ties); None if constant."""
    largest = np.flatnonzero(values == values.max())
    return None if len(largest) == len(values) else float(largest[len(largest) // 2]) / BINS
