"""Labels from maps and saliency together, and the saliency labels of AuxSegNet's rounds."""

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
"""Fits a map ``(H, W)`` in [0, 1] to the edges of its photo ``(H, W, 3)``."""


def fuse_saliency(
    cam: Map,
    classes: Sequence[int] | NDArray[np.integer],
    saliency: Map,
    *,
    cam_score: float = 0.2,
    saliency_score: float = 0.06,
    stuff: Collection[int] = (),
) -> NDArray[np.uint8]:
    """Label each pixel where maps and saliency agree.

    AuxSegNet's pseudo labels: a pixel is an object where its strongest class is above ``cam_score``
    and its saliency above ``saliency_score``, background where neither is, and 255 where one is.

    Deviation: a photo without classes is background everywhere, whatever stands out in it; the
    published data set has no such photo.

    Args:
        cam: Maps of the present classes, ``(C', H, W)`` in [0, 1].
        classes: Index of each of them, 0-based, foreground only.
        saliency: ``(H, W)`` in [0, 1].
        cam_score: In [0, 1].
        saliency_score: In [0, 1].
        stuff: Those of the classes that count as salient wherever their map is the strongest.

    Returns:
        ``(H, W)`` uint8: 0 background, c + 1 for class c, 255 undecided.

    Raises:
        ValueError: If a score is out of range, or shapes do not fit.
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
    """Label undecided pixels by the decided ones that are near and alike.

    A dense CRF, with the constants of label refinement, spreads the decided labels, each trusted
    with 0.7; the undecided pixels say nothing of their own. Where no decided pixel shows one of the
    photo's classes, all stay as they are: that object may lie in the undecided ones. [Reading:
    ours; AuxSegNet leaves undecided pixels out of its loss.]

    Args:
        labels: ``(H, W)``, 255 undecided.
        classes: Index of each class that the photo has, 0-based.
        photo: ``(3, H, W)`` uint8, on the device that is to do it.

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
    """The stand-in where there are no saliency maps: the strongest class of each pixel.

    [Reading] It knows no more than the tags do. Nothing stands out in a photo without classes.

    Args:
        cam: Maps of the present classes, ``(C', H, W)`` in [0, 1].

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
    """The saliency label of the next round: the mean of prediction and first map.

    AuxSegNet averages with the map that it began with, never with the last round's.

    Args:
        predicted: The network's probability that a pixel stands out, ``(H, W)`` in [0, 1].
        initial: The saliency map of round 0, ``(H, W)`` in [0, 1].
        photo: ``(H, W, 3)`` uint8, for ``refine``.
        refine: What fits the mean to the photo, published: :func:`fit_to_photo`; None = nothing.

    Returns:
        ``(H, W)`` in [0, 1].
    """
    mean = (predicted + initial) / 2
    return mean if refine is None else refine(mean, photo)


def fit_to_photo(mean: Map, photo: NDArray[np.uint8]) -> Map:
    """Fit a saliency map to the edges of its photo as AuxSegNet does.

    One mean-field iteration of a dense CRF over "stands out" and "does not", with the published
    kernels and energies ``-log(p + 1e-8) / (1.05 sigmoid(p))``.

    Args:
        mean: ``(H, W)`` in [0, 1].
        photo: ``(H, W, 3)`` uint8.

    Returns:
        Probability that a pixel stands out, ``(H, W)``.
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
