"""Label probabilities that refinement starts from, and the labels that it ends with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dscnet.labels.pseudo_label import best_label
from dscnet.labels.upsampled_argmax import label_at
from dscnet.types import BACKGROUND


def label_scores(
    cam: NDArray[np.floating], *, bg_score: float = 0.0, bg_power: float | None = None
) -> Tensor:
    """Scores of background and classes, as they are.

    Args:
        cam: Maps of the present classes, ``(C', H, W)`` in [0, 1].
        bg_score: Score of the background, in [0, 1]. Not read with a power.
        bg_power: Exponent of ``1 - max score`` as the background; None = the constant score.

    Returns:
        ``(C' + 1, H, W)`` float32, background first.

    Raises:
        ValueError: If ``bg_score`` or ``bg_power`` is out of range.
    """
    if not 0 <= bg_score <= 1:
        raise ValueError(f"bg_score must be in [0, 1], got {bg_score}")
    if bg_power is not None and bg_power <= 0:
        raise ValueError(f"bg_power must be > 0, got {bg_power}")
    foreground = torch.from_numpy(np.ascontiguousarray(cam, dtype=np.float32))
    background = torch.full((1, *cam.shape[1:]), bg_score)
    if bg_power is not None:
        strongest = foreground.amax(0, keepdim=True) if len(cam) else background.new_zeros(1, 1, 1)
        background = (1 - strongest).pow(bg_power).expand_as(background)
    return torch.cat([background, foreground])


def as_probabilities(scores: Tensor) -> Tensor:
    """Scores ``(L', H, W)``, background first, scaled to sum to 1 over the labels.

    Where no score is left, a background score of 0 included, all is background.
    """
    total = scores.sum(0)
    background = scores[:1].where(total > 0, 1.0)
    return torch.cat([background, scores[1:]]) / total.where(total > 0, 1.0)


def label_probabilities(
    cam: NDArray[np.floating],
    *,
    bg_score: float,
    bg_power: float | None = None,
    certainty: float | None = 0.7,
) -> Tensor:
    """Probabilities of background and classes that refinement starts from.

    IRNet (Ahn, Cho, Kwak, CVPR 2019) and later code trust the labels at a fixed background score
    with 0.7; AffinityNet takes the scores themselves with ``(1 - max score)^bg_power`` as
    background (``certainty=None``).

    Args:
        cam: Maps of the present classes, ``(C', H, W)`` in [0, 1].
        bg_score: Score of the background, in [0, 1]. Not read with a power.
        bg_power: Exponent of ``1 - max score`` as the background; None = the constant score.
        certainty: Probability of the strongest label, in (0.5, 1]; the others share the rest.
            None = the scores, scaled to sum to 1.

    Returns:
        ``(C' + 1, H, W)`` float32, background first, sums to 1.

    Raises:
        ValueError: If ``bg_score``, ``bg_power`` or ``certainty`` is out of range.
    """
    if certainty is not None and not 0.5 < certainty <= 1:
        raise ValueError(f"certainty must be above 0.5 and at most 1, got {certainty}")
    scores = label_scores(cam, bg_score=bg_score, bg_power=bg_power)
    if certainty is None:
        return as_probabilities(scores)
    if len(scores) == 1:
        return torch.ones_like(scores)
    labels = torch.arange(len(scores))
    return trusted_labels(scores.argmax(0).numpy(), labels.numpy(), certainty=certainty)


def trusted_labels(
    labels: NDArray[np.integer], present: NDArray[np.integer], *, certainty: float = 0.7
) -> Tensor:
    """Probabilities that say what labels say, with some doubt.

    Args:
        labels: ``(H, W)``.
        present: The labels that can be, ``(L',)``.
        certainty: Probability of a pixel's label, the others share the rest; a pixel whose label
            is not present (255) has them all alike.

    Returns:
        ``(L', H, W)`` float32, sums to 1.
    """
    own = torch.from_numpy(labels == present[:, None, None])
    if len(present) == 1:
        return torch.ones(own.shape)
    others = (1 - certainty) / (len(present) - 1)
    known = torch.where(own, certainty, others)
    return torch.where(own.any(0), known, 1 / len(present))


def probable_label(
    foreground: NDArray[np.floating],
    classes: Sequence[int] | NDArray[np.integer],
    size: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """The most probable label of each pixel; background, which has what is left, wins ties.

    Args:
        foreground: Probabilities of the present classes, ``(C', H, W)``.
        classes: Index of each, 0-based.
        size: Probabilities are resized to this height and width, as :func:`label_at` does; None =
            their own.

    Returns:
        ``(H, W)`` uint8: 0 background, c + 1 for class c. Without classes all is background.
    """
    background: NDArray[Any] = 1 - foreground.sum(axis=0)
    if size is not None and size != foreground.shape[1:]:
        scores = torch.from_numpy(np.concatenate([background[None], foreground]))
        labels = np.array([BACKGROUND, *(np.asarray(classes, dtype=np.int64) + 1)], dtype=np.uint8)
        return labels[label_at(scores, size)]
    best, winner = best_label(foreground, classes)
    return np.where(best > background, winner, np.uint8(BACKGROUND))
