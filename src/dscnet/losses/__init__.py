"""Losses: tensors in, a scalar out."""

from __future__ import annotations

from dscnet.deprecation import renamed_names
from dscnet.losses.affinity import affinity_loss
from dscnet.losses.contrastive import (
    group_contrast,
    pixel_contrast,
    semantic_contrast,
    soft_targets,
)
from dscnet.losses.equivariance import equivariance_losses, min_pool_loss, normalise
from dscnet.losses.saliency import saliency_loss
from dscnet.losses.tags import mean_average_precision, pooled_logits, tag_loss

__all__ = [
    "affinity_loss",
    "equivariance_losses",
    "group_contrast",
    "mean_average_precision",
    "min_pool_loss",
    "normalise",
    "pixel_contrast",
    "pooled_logits",
    "saliency_loss",
    "semantic_contrast",
    "soft_targets",
    "tag_loss",
]

__getattr__ = renamed_names(__name__, {"label_shares": "soft_targets"}, globals())
