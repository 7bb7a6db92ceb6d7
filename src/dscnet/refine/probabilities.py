"""Initial label probabilities of refinement, and labels from refined probabilities."""

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
    """Scores of background and classes, not normalised.

    Args:
        cam: CAMs of the present classes, ``(C', H, W)`` in [0, 1].
        bg_score: Constant score of the background, in [0, 1]; unused with ``bg_power``.
        bg_power: The background is ``1 - max score`` to this power; None = ``bg_score``.

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
    """Normalise scores ``(L', H, W)``, background first, to sum to 1 over the labels.

    Pixels whose scores are all 0 become background.
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
    """Initial probabilities of background and classes for refinement.

    IRNet (Ahn, Cho, Kwak, CVPR 2019) and later code give the labels at a fixed background threshold
    a probability of 0.7; AffinityNet uses the scores, with ``(1 - max score)^bg_power`` as
    background (``certainty=None``).

    Args:
        cam: CAMs of the present classes, ``(C', H, W)`` in [0, 1].
        bg_score: Constant score of the background, in [0, 1]; unused with ``bg_power``.
        bg_power: The background is ``1 - max score`` to this power; None = ``bg_score``.
        certainty: Probability of the strongest label, in (0.5, 1]; the others share the rest
            equally. None = normalised scores.

    Returns:
        ``(C' + 1, H, W)`` float32, background first, sums to 1.

    Raises:
        ValueError: If ``bg_score``, ``bg_power`` or ``certainty`` is out of range.
    """
    if certainty is not None and not 0.5 < certainty <= 1:
        raise ValueError(f"certainty must be in (0.5, 1], got {certainty}")
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
    """Probabilities from hard labels with a fixed certainty.

    Args:
        labels: ``(H, W)``.
        present: Possible labels, ``(L',)``.
        certainty: Probability of a pixel's label; the others share the rest equally. Pixels with
            another label (255) are uniform.

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
    """The most probable label of each pixel; background has the rest and wins ties.

    Args:
        foreground: Probabilities of the present classes, ``(C', H, W)``.
        classes: Their indices, 0-based.
        size: Height and width to resize to, as :func:`label_at` does; None = unchanged.

    Returns:
        ``(H, W)`` uint8: 0 background, c + 1 for class c. All background without classes.
    """
    background: NDArray[Any] = 1 - foreground.sum(axis=0)
    if size is not None and size != foreground.shape[1:]:
        scores = torch.from_numpy(np.concatenate([background[None], foreground]))
        labels = np.array([BACKGROUND, *(np.asarray(classes, dtype=np.int64) + 1)], dtype=np.uint8)
        return labels[label_at(scores, size)]
    best, winner = best_label(foreground, classes)
    return np.where(best > background, winner, np.uint8(BACKGROUND))
