"""Saliency loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

SALIENT = 0.5
"""Pixels with a saliency above this are salient."""


def saliency_loss(saliency_logits: Tensor, saliency: Tensor) -> Tensor:
    """Binary cross-entropy with saliency maps, binarised here, after augmentation.

    AuxSegNet (Xu et al., ICCV 2021).

    Args:
        saliency_logits: Scores, ``(B, 1, H, W)``, positive = salient.
        saliency: ``(B, 1, H, W)`` in [0, 1].

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: If the shapes differ.
    """
    if saliency_logits.shape != saliency.shape:
        raise ValueError(
            "saliency_logits must have the shape of saliency, "
            f"got {tuple(saliency_logits.shape)} and {tuple(saliency.shape)}"
        )
    target = (saliency > SALIENT).to(saliency_logits.dtype)
    return functional.binary_cross_entropy_with_logits(saliency_logits, target)
