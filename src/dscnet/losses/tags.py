"""Tag loss and tag metrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dscnet.numerics import interpolation_matrix


def tag_loss(tag_logits: Tensor, tags: Tensor) -> Tensor:
    """Multi-label soft margin loss: binary cross-entropy, mean over classes and photos.

    Args:
        tag_logits: Scores, ``(B, C)``, positive = present.
        tags: ``(B, C)`` in {0, 1}.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_same_shape("tag_logits", tag_logits, tags)
    return functional.multilabel_soft_margin_loss(tag_logits, tags.to(tag_logits.dtype))


def pooled_logits(cam_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean of the foreground CAM upsampled to the image, without upsampling it.

    Bilinear interpolation (aligned corners) is linear, so its mean is a fixed weighted mean of the
    feature grid. SEAM pools the upsampled map, so border cells weigh about half.

    Args:
        cam_logits: Raw CAM, ``(B, L, h, w)``, label 0 = background.
        size: Height and width of the image in pixels.

    Returns:
        ``(B, C)``, at least float32.
    """
    height, width = cam_logits.shape[-2:]
    rows = interpolation_matrix(height, size[0], cam_logits).mean(0)
    columns = interpolation_matrix(width, size[1], cam_logits).mean(0)
    return (cam_logits[:, 1:] * (rows[:, None] * columns)).sum((2, 3))


def mean_average_precision(tag_scores: Tensor, tags: Tensor) -> float:
    """Mean average precision (mAP) over classes: validation without masks.

    Average precision = mean over the photos with the class of the precision among all photos that
    score at least as high; tied photos share one threshold.

    Args:
        tag_scores: ``(N, C)``; only the ranking within a class matters.
        tags: ``(N, C)`` in {0, 1}.

    Returns:
        Value in (0, 1]; classes without a positive photo are skipped; nan if all are.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_same_shape("tag_scores", tag_scores, tags)
    precisions = [
        _average_precision(scores, has_class)
        for scores, has_class in zip(tag_scores.detach().T, tags.T > 0, strict=True)
        if has_class.any()
    ]
    return sum(precisions) / len(precisions) if precisions else float("nan")


def _average_precision(scores: Tensor, has_class: Tensor) -> float:
    ranked = scores.sort().values
    hits = scores[has_class].sort().values
    at_least = len(ranked) - torch.searchsorted(ranked, hits)
    hits_at_least = len(hits) - torch.searchsorted(hits, hits)
    return float((hits_at_least.double() / at_least).mean())


def _check_same_shape(name: str, values: Tensor, tags: Tensor) -> None:
    if values.shape != tags.shape:
        raise ValueError(
            f"{name} must have the shape of tags, got {tuple(values.shape)} and {tuple(tags.shape)}"
        )
