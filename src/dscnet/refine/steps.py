"""Refinement of pseudo labels: steps on label probabilities, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dscnet.labels.enlarge import label_at
from dscnet.labels.pseudo_label import best_label
from dscnet.refine.crf import dense_crf
from dscnet.refine.mask_proposals import Mask, merge_masks
from dscnet.refine.pamr import pamr
from dscnet.refine.random_walk import random_walk
from dscnet.types import BACKGROUND

Step = Callable[[Tensor, Tensor], Tensor]
"""Maps label probabilities ``(B, L, H, W)`` and uint8 photos ``(B, 3, H, W)`` to probabilities."""

LEARNED = ("affinity", "irn")
"""Steps with learned affinities."""

STEPS = ("pamr", "crf", "walk", "masks", *LEARNED)
"""Names of the refinement steps."""


def refinement_steps(
    names: Iterable[str],
    features: Callable[[Tensor], Tensor] | None = None,
    masks: Callable[[], Iterable[Mask]] | None = None,
    *,
    mask_overlap: float = 0.5,
    learned: Mapping[str, Step] | None = None,
) -> dict[str, Step]:
    """The steps by name, in the given order.

    Args:
        names: Unique names from ``STEPS``.
        features: Maps uint8 photos ``(B, 3, H, W)`` to ``(B, D, h, w)``; for ``walk`` only.
        masks: Returns the masks ``(H, W)`` of the photo that these steps are for; for ``masks``
            only.
        mask_overlap: ``overlap`` of :func:`merge_masks`.
        learned: The steps of ``LEARNED`` with a trained network.

    Raises:
        ValueError: If a name is unknown or repeated; at run time, if a step lacks an input.
    """
    chosen = list(names)
    if set(chosen) - {*STEPS} or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"steps must be among {', '.join(STEPS)}, without repetition, got {chosen}"
        )

    def walk(probabilities: Tensor, photos: Tensor) -> Tensor:
        if features is None:
            raise ValueError("step 'walk' needs a function from photos to features")
        return random_walk(probabilities, features(photos))

    def merge(probabilities: Tensor, photos: Tensor) -> Tensor:
        if masks is None:
            raise ValueError("step 'masks' needs a function that returns the photo's masks")
        return merge_masks(probabilities[0], masks(), overlap=mask_overlap)[None]

    def untrained(probabilities: Tensor, photos: Tensor) -> Tensor:
        raise ValueError(f"steps {', '.join(LEARNED)} need a trained network each")

    steps: dict[str, Step] = {"pamr": pamr, "crf": dense_crf, "walk": walk, "masks": merge}
    steps |= dict.fromkeys(LEARNED, untrained) | dict(learned or {})
    return {name: steps[name] for name in chosen}


def label_scores(
    cam: NDArray[np.floating], *, bg_score: float = 0.0, bg_power: float | None = None
) -> Tensor:
    """Scores of background and classes.

    Args:
        cam: CAMs of the present classes, ``(C', H, W)`` in [0, 1].
        bg_score: Constant score of the background, in [0, 1]. Ignored with a power.
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
    """Normalise scores ``(L', H, W)``, background first, to sum to 1 over the labels.

    Pixels with all scores 0 become background.
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

    IRNet (Ahn, Cho, Kwak, CVPR 2019) and later code use labels at a fixed background threshold with
    certainty 0.7; AffinityNet uses the scores with ``(1 - max score)^bg_power`` as background
    (``certainty=None``).

    Args:
        cam: CAMs of the present classes, ``(C', H, W)`` in [0, 1].
        bg_score: Background threshold, in [0, 1]. Ignored with a power.
        bg_power: Exponent of ``1 - max score`` as the background; None = the constant score.
        certainty: Probability of the strongest label, in (0.5, 1]; the others share the rest.
            None = the normalised scores.

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
    """Probabilities from labels with a fixed certainty.

    Args:
        labels: ``(H, W)``.
        present: Possible labels, ``(L',)``.
        certainty: Probability of a pixel's label; the others share the rest. Uniform for pixels
            with other labels (255).

    Returns:
        ``(L', H, W)`` float32, sums to 1.
    """
    own = torch.from_numpy(labels == present[:, None, None])
    if len(present) == 1:
        return torch.ones(own.shape)
    others = (1 - certainty) / (len(present) - 1)
    known = torch.where(own, certainty, others)
    return torch.where(own.any(0), known, 1 / len(present))


def refine_labels(
    probabilities: Tensor, photo: Tensor, steps: dict[str, Step]
) -> Iterable[tuple[str, Tensor]]:
    """Run the steps in sequence on one photo.

    Args:
        probabilities: ``(L', H, W)``.
        photo: ``(3, H, W)`` uint8.
        steps: From :func:`refinement_steps`.

    Yields:
        Each step's name and the probabilities after it, ``(L', H, W)``; unchanged for a photo with
        background only.
    """
    for name, step in steps.items():
        if len(probabilities) > 1:
            probabilities = step(probabilities[None], photo[None])[0]
        yield name, probabilities


def probable_label(
    foreground: NDArray[np.floating],
    classes: Sequence[int] | NDArray[np.integer],
    size: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Most probable label of each pixel; background has the rest and wins ties.

    Args:
        foreground: Probabilities of the present classes, ``(C', H, W)``.
        classes: Class indices, 0-based.
        size: Resize probabilities to this height and width, see :func:`label_at`; None = no
            resizing.

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
