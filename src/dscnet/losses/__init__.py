"""Losses: tensors in, a scalar out."""

from __future__ import annotations

from dscnet.losses.affinity import affinity_loss
from dscnet.losses.contrastive import (
    group_contrast,
    label_shares,
    pixel_contrast,
    semantic_contrast,
)
from dscnet.losses.equivariance import equivariance_losses, min_pool_loss, normalise
from dscnet.losses.saliency import saliency_loss
from dscnet.losses.tags import mean_average_precision, pooled_logits, tag_loss

__all__ = [
    "affinity_loss",
    "equivariance_losses",
    "group_contrast",
    "label_shares",
    "mean_average_precision",
    "min_pool_loss",
    "normalise",
    "pixel_contrast",
    "pooled_logits",
    "saliency_loss",
    "semantic_contrast",
    "tag_loss",
]
