"""Labels of images, pixels and groups, derived from tags and class activation maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dscnet.context.pixel_groups import PixelGroups, group_mean
from dscnet.numerics import full_precision
from dscnet.types import IGNORE_INDEX

RULES = ("mean_cam", "majority")
"""How a group gets its category: from its mean CAM, or by majority vote of its pixels."""


def present_labels(tags: Tensor) -> Tensor:
    """Labels of each image from its tags: ``(B, C)`` in {0, 1} to ``(B, L)`` bool.

    Background, label 0, is always present, even in an image without tags.
    """
    return F.pad(tags > 0.5, (1, 0), value=True)


def predicted_labels(cam_logits: Tensor) -> Tensor:
    """Labels of each image as predicted by its tag scores, ``(B, L, h, w)`` to ``(B, L)`` bool.

    A class is present if the mean of its CAM over the image is positive; background always is.
    """
    return present_labels(cam_logits[:, 1:].float().mean((2, 3)) > 0)


@full_precision
def normalise_cam(cam_logits: Tensor, present: Tensor, bg_score: float) -> Tensor:
    """Normalise CAMs to [0, 1] with a constant background, for grouping and pseudo labels.

    Args:
        cam_logits: ``(B, L, h, w)``; channel 0 is unsupervised and ignored.
        present: Present labels ``(B, L)``, or tags ``(B, C)``.
        bg_score: Background threshold: the value of the background channel, in [0, 1].

    Returns:
        ``(B, L, h, w)``: the positive part of each foreground CAM divided by its maximum over the
        image; zero for absent classes.

    Raises:
        ValueError: If ``bg_score`` is outside [0, 1] or the shapes do not match.
    """
    batch, num_labels = cam_logits.shape[:2]
    if not 0 <= bg_score <= 1:
        raise ValueError(f"bg_score must be in [0, 1], got {bg_score}")
    if present.shape == (batch, num_labels):
        tags = present[:, 1:]
    elif present.shape == (batch, num_labels - 1):
        tags = present
    else:
        raise ValueError(
            f"present must be ({batch}, {num_labels}), or tags ({batch}, {num_labels - 1}), "
            f"got {tuple(present.shape)}"
        )
    foreground = cam_logits[:, 1:].relu() * (tags > 0.5)[..., None, None]
    # 1e-5 avoids division by zero for a class that is active nowhere.
    foreground = foreground / (foreground.amax((2, 3), keepdim=True) + 1e-5)
    background = torch.full_like(cam_logits[:, :1], bg_score)
    return torch.cat([background, foreground], dim=1)


def pseudo_labels(cam: Tensor, *, margin: float = 0.0) -> Tensor:
    """Label of each pixel: the channel with the largest CAM, DSCNet Eq. (2) and (12).

    Args:
        cam: From ``normalise_cam``, ``(B, L, h, w)``.
        margin: Pixels whose best label leads the runner-up by less than this are ignored; 0 ignores
            none. Keep it below ``bg_score``, the lead of background in a photo without any CAM.

    Returns:
        ``(B, h, w)`` int64, 255 = ignore. Ties go to the lower label.
    """
    best, labels = cam.max(1)
    if margin <= 0 or cam.shape[1] == 1:
        return labels
    lead = best - cam.topk(2, dim=1).values[:, 1]
    return labels.masked_fill(lead < margin, IGNORE_INDEX)


@torch.no_grad()
@full_precision
def group_categories(
    cam: Tensor,
    groups: PixelGroups,
    present: Tensor,
    *,
    rule: str = "mean_cam",
    margin: float = 0.0,
) -> Tensor:
    """Category of each group: the present label best supported by the CAMs of its pixels.

    [Reading] The paper does not say how a group gets its category.

    Args:
        cam: From ``normalise_cam``, ``(B, L, h, w)``.
        groups: The groups of the same pixels.
        present: Labels of each image, ``(B, L)`` bool.
        rule: One of ``RULES``. ``mean_cam``: the present label with the largest mean CAM in the
            group. ``majority``: the present label with the largest CAM at most of its pixels.
        margin: Groups whose best label leads the next present one by less than this (in mean CAM,
            or in the fraction of pixels) get no category; 0 keeps all.

    Returns:
        ``(B, K)`` int64; -1 for empty groups, groups below the margin, and images without a label.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    votes = cam.masked_fill(~present[..., None, None], -torch.inf).flatten(2).mT
    if rule == "majority":
        votes = F.one_hot(votes.argmax(-1), cam.shape[1]).to(cam.dtype)
    else:
        votes = cam.flatten(2).mT
    scores = group_mean(votes, groups).masked_fill(~present[:, None], -torch.inf)
    best, categories = scores.max(-1)
    known = groups.valid & best.isfinite()
    if margin > 0 and scores.shape[-1] > 1:
        known &= best - scores.topk(2, dim=-1).values[..., 1] >= margin
    return categories.masked_fill(~known, -1)
