"""Pseudo labels from CAMs and saliency, and the saliency labels of AuxSegNet's rounds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dscnet.labels.pseudo_label import best_label
from dscnet.refine.crf import dense_crf
from dscnet.refine.probabilities import probable_label, trusted_labels
from dscnet.types import BACKGROUND, IGNORE_INDEX

Map = NDArray[np.floating]
Refine = Callable[[Map, NDArray[np.uint8]], Map]
"""Aligns a map ``(H, W)`` in [0, 1] with the edges of its photo ``(H, W, 3)``."""


def fuse_saliency(
    cam: Map,
    classes: Sequence[int] | NDArray[np.integer],
    saliency: Map,
    *,
    cam_score: float = 0.2,
    saliency_score: float = 0.06,
    stuff: Collection[int] = (),
) -> NDArray[np.uint8]:
    """Label pixels where CAM and saliency agree.

    AuxSegNet's pseudo labels: a pixel is foreground if its strongest class is above ``cam_score``
    and its saliency above ``saliency_score``, background if neither is, and 255 if only one is.

    Deviation: a photo without classes is all background, regardless of saliency; the published
    data set has no such photo.

    Args:
        cam: CAMs of the present classes, ``(C', H, W)`` in [0, 1].
        classes: Class indices, 0-based, foreground only.
        saliency: ``(H, W)`` in [0, 1].
        cam_score: CAM threshold, in [0, 1].
        saliency_score: Saliency threshold, in [0, 1].
        stuff: Classes that count as salient wherever their CAM is the strongest.

    Returns:
        ``(H, W)`` uint8: 0 background, c + 1 for class c, 255 undecided.

    Raises:
        ValueError: If a score is out of range, or shapes do not match.
    """
    for name, score in (("cam_score", cam_score), ("saliency_score", saliency_score)):
        if not 0 <= score <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {score}")
    if cam.shape[1:] != saliency.shape:
        raise ValueError(f"saliency must be {cam.shape[1:]}, as cam is, got {saliency.shape}")
    best, winner = best_label(cam, classes)
    if not len(classes):
        return winner
    active = best > cam_score
    salient = (saliency > saliency_score) | (active & np.isin(winner, [c + 1 for c in stuff]))
    labels = np.where(active & salient, winner, np.uint8(BACKGROUND))
    labels[active != salient] = IGNORE_INDEX
    return labels


def fill_undecided(
    labels: NDArray[np.uint8], classes: NDArray[np.integer], photo: torch.Tensor
) -> NDArray[np.uint8]:
    """Fill undecided pixels from nearby decided pixels of similar colour.

    A dense CRF with the parameters of label refinement propagates the decided labels, with
    certainty 0.7; undecided pixels start uniform. If one of the photo's classes has no decided
    pixel, nothing is changed, as its object may be undecided. [Reading: ours; AuxSegNet ignores
    undecided pixels in its loss.]

    Args:
        labels: ``(H, W)``, 255 undecided.
        classes: Classes of the photo, 0-based.
        photo: ``(3, H, W)`` uint8, on the device to use.

    Returns:
        ``(H, W)``; decided pixels keep their labels.
    """
    undecided = labels == IGNORE_INDEX
    if not undecided.any() or not np.isin(classes + 1, labels).all():
        return labels
    start = trusted_labels(labels, np.array([BACKGROUND, *(classes + 1)]))
    spread = dense_crf(start[None].to(photo.device), photo[None])[0, 1:].cpu().numpy()
    return np.where(undecided, probable_label(spread, classes), labels)


def saliency_from_cam(cam: Map) -> Map:
    """Substitute for missing saliency maps: the score of the strongest class.

    [Reading] It uses no more information than tags. All zero for a photo without classes.

    Args:
        cam: CAMs of the present classes, ``(C', H, W)`` in [0, 1].

    Returns:
        ``(H, W)`` in [0, 1].
    """
    return best_label(cam, np.arange(len(cam)))[0]


def refresh_saliency(
    predicted: Map,
    initial: Map,
    photo: NDArray[np.uint8],
    *,
    refine: Refine | None = None,
) -> Map:
    """Saliency label of the next round: the mean of prediction and initial map.

    AuxSegNet averages with the initial map, not with that of the last round.

    Args:
        predicted: Predicted saliency probability, ``(H, W)`` in [0, 1].
        initial: The saliency map of round 0, ``(H, W)`` in [0, 1].
        photo: ``(H, W, 3)`` uint8, for ``refine``.
        refine: Refines the mean, published: :func:`fit_to_photo`; None = no refinement.

    Returns:
        ``(H, W)`` in [0, 1].
    """
    mean = (predicted + initial) / 2
    return mean if refine is None else refine(mean, photo)


def fit_to_photo(mean: Map, photo: NDArray[np.uint8]) -> Map:
    """Align a saliency map with the edges of its photo as in AuxSegNet.

    One mean-field iteration of a dense CRF with labels salient and not salient, with the published
    kernels and energies ``-log(p + 1e-8) / (1.05 sigmoid(p))``.

    Args:
        mean: ``(H, W)`` in [0, 1].
        photo: ``(H, W, 3)`` uint8.

    Returns:
        Saliency probability, ``(H, W)``.
    """
    salient = torch.from_numpy(np.asarray(mean, dtype=np.float32))
    both = torch.stack([1 - salient, salient])
    energy = -(both + 1e-8).log() / (1.05 * both.sigmoid())
    marginals = dense_crf(
        (-energy).exp()[None],
        torch.from_numpy(photo).permute(2, 0, 1)[None],
        iterations=1,
        gaussian_std=3.0,
        gaussian_weight=3.0,
        bilateral_std=60.0,
        color_std=5.0,
        bilateral_weight=5.0,
        # The energies' own 1e-8 bounds them.
        least=torch.finfo(torch.float32).tiny,
    )
    fitted: Map = marginals[0, 1].numpy()
    return fitted
