"""Confident labels for training affinities: where two refined CAMs agree; 255 elsewhere."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dscnet.refine.crf import dense_crf
from dscnet.refine.probabilities import label_probabilities, label_scores, probable_label
from dscnet.types import BACKGROUND, IGNORE_INDEX

NO_SCORE = 1e-5
"""Pixels where all scores are below this are padding around a crop."""


def power_marginals(cam: NDArray[np.floating], photo: Tensor, *, power: float) -> Tensor:
    """AffinityNet's refined CAMs at one power: a dense CRF on scores and background.

    The background is ``(1 - max score)^power``: a lower power gives more background and more
    confident foreground. CRF parameters as published.

    Args:
        cam: CAMs of the present classes, ``(C', H, W)`` in [0, 1].
        photo: ``(3, H, W)`` uint8.
        power: Exponent of the background, > 0.

    Returns:
        Marginals of background and classes, ``(C' + 1, H, W)`` float32.
    """
    scores = label_scores(cam, bg_power=power).to(photo.device)
    return dense_crf(scores[None], photo[None], bilateral_std=80.0, color_std=13.0)[0]


def merge_scores(low: Tensor, high: Tensor) -> Tensor:
    """AffinityNet's labels: confident foreground of one CAM and confident background of another.

    A cell gets the strongest label of ``low`` if that is foreground, and background if ``high``
    predicts it; the rest, and cells without any score, get no label.

    Args:
        low: Scores at the low power, average-pooled to the cells, ``(C' + 1, h, w)``.
        high: Those at the high power.

    Returns:
        ``(h, w)`` int64: 0 = background, i = the i-th of the present classes, 255 = no label.
    """
    labels = low.argmax(0)
    labels[labels == BACKGROUND] = IGNORE_INDEX
    labels[high.argmax(0) == BACKGROUND] = BACKGROUND
    labels[torch.cat([low, high]).amax(0) < NO_SCORE] = IGNORE_INDEX
    return labels


def score_labels(
    cam: NDArray[np.floating], classes: NDArray[np.integer], photo: Tensor, *, bg_score: float
) -> NDArray[np.uint8]:
    """IRNet's labels at one background threshold, after a dense CRF with label certainty 0.7.

    Args:
        cam: CAMs of the present classes, ``(C', H, W)`` in [0, 1].
        classes: Class indices, 0-based.
        photo: ``(3, H, W)`` uint8.
        bg_score: Background threshold, in [0, 1].

    Returns:
        ``(H, W)`` uint8: 0 = background, c + 1 = class c.
    """
    start = label_probabilities(cam, bg_score=bg_score).to(photo.device)
    return probable_label(dense_crf(start[None], photo[None])[0, 1:].cpu().numpy(), classes)


def merge_labels(sure: NDArray[np.uint8], likely: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """IRNet's labels: foreground of one, background where both agree, 255 elsewhere.

    Args:
        sure: Labels at a high background threshold, ``(H, W)``.
        likely: Labels at a low one.
    """
    both = (sure == BACKGROUND) & (likely == BACKGROUND)
    undecided = np.where(both, np.uint8(BACKGROUND), np.uint8(IGNORE_INDEX))
    return np.where(sure != BACKGROUND, sure, undecided)
