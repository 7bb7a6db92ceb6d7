"""The training objectives, Eq. (13): sums of named loss terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscnet.context import (
    ContextOutput,
    group_categories,
    normalise_cam,
    present_labels,
    pseudo_labels,
)
from dscnet.distributed.batch import batch_mean, gather
from dscnet.losses.contrastive import (
    group_contrast,
    pixel_contrast,
    semantic_contrast,
    soft_targets,
)
from dscnet.losses.equivariance import equivariance_losses, min_pool_loss
from dscnet.losses.saliency import saliency_loss
from dscnet.losses.tags import pooled_logits, tag_loss
from dscnet.numerics import at_least_float32
from dscnet.types import IGNORE_INDEX, Batch, LossTerms, ModelOutput

SMALLEST = 1e-6
"""Lower bound of the labelled pixels per rank that a loss is divided by."""


class ContrastObjective(nn.Module):
    """PGCL and SGCL, Eq. (7) and (9), on the output of a ``DualStreamContext``.

    Their pseudo labels are computed without gradient from the given CAM (Eq. 2, or Eq. 12 for
    DSCL's). In training the groups are added to the context's memory bank.

    Args:
        num_labels: L, background included.
        pgcl: Whether to contrast groups (Eq. 7).
        sgcl: Whether to contrast groups with categories (Eq. 9).
        contrast: ``groups``, or ``pixels`` for Eq. (3) instead of Eq. (7).
        pgcl_weight: Weight alpha of Eq. (13).
        sgcl_weight: Weight beta of Eq. (13).
        temperature: Divides the cosine similarity.
        bg_score: Background threshold of the pseudo labels.
        group_rule: How a group gets its category, one of ``context.RULES``.
        group_margin: Groups whose category leads the next by less are ignored in Eq. (7).
        hard_targets: Use the majority label of a group as SGCL's target instead of soft targets.
        warmup: Fraction of training, in [0, 1), before the terms are switched on.
    """

    def __init__(
        self,
        num_labels: int,
        *,
        pgcl: bool = True,
        sgcl: bool = True,
        contrast: Literal["groups", "pixels"] = "groups",
        pgcl_weight: float = 0.3,
        sgcl_weight: float = 0.1,
        temperature: float = 0.1,
        bg_score: float = 0.25,
        group_rule: str = "mean_cam",
        group_margin: float = 0.0,
        hard_targets: bool = False,
        warmup: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), got {warmup}")
        if contrast not in ("groups", "pixels"):
            raise ValueError(f"contrast must be 'groups' or 'pixels', got {contrast!r}")
        self.num_labels = num_labels
        self.pgcl, self.sgcl, self.contrast = pgcl, sgcl, contrast
        self.temperature, self.bg_score = temperature, bg_score
        self.group_rule, self.group_margin = group_rule, group_margin
        self.hard_targets, self.warmup = hard_targets, warmup
        self.weights = {"pgcl": pgcl_weight, "sgcl": sgcl_weight}

    def forward(
        self,
        views: Sequence[ContextOutput],
        cam_logits: Sequence[Tensor],
        tags: Tensor,
        progress: float | None = None,
    ) -> LossTerms:
        """Contrast the groups of one or more views of the same photos.

        Args:
            views: The context's output for each view.
            cam_logits: The CAM of each view, ``(B, L, h, w)``, that assigns categories to groups.
            tags: ``(B, C)`` in {0, 1}.
            progress: Fraction of training done, in [0, 1]; required with a warm-up.

        Returns:
            The enabled terms among ``pgcl`` and ``sgcl``; zero during the warm-up.

        Raises:
            ValueError: If there is a warm-up but no progress.
        """
        if progress is None and self.warmup > 0:
            raise ValueError(f"progress must be given with a warm-up, here {self.warmup}")
        names = [name for name, on in (("pgcl", self.pgcl), ("sgcl", self.sgcl)) if on]
        if progress is not None and progress < self.warmup:
            return LossTerms({name: tags.new_zeros(()) for name in names}, self.weights)
        present = present_labels(tags)
        with torch.no_grad():
            cams = [normalise_cam(logits, tags, self.bg_score) for logits in cam_logits]
            labels = [pseudo_labels(cam).flatten(1) for cam in cams]
        terms: dict[str, Tensor] = {}
        if self.pgcl and self.contrast == "groups":
            terms["pgcl"] = self._group_term(views, cams, present)
        elif self.pgcl:
            embeddings = torch.cat([view.embeddings for view in views], 1)
            terms["pgcl"] = pixel_contrast(
                gather(embeddings), gather(torch.cat(labels, 1)), temperature=self.temperature
            )
        if self.sgcl:
            terms["sgcl"] = torch.stack(
                [
                    self._semantic_term(view, label)
                    for view, label in zip(views, labels, strict=True)
                ]
            ).mean()
        return LossTerms(terms, self.weights)

    def _group_term(
        self, views: Sequence[ContextOutput], cams: Sequence[Tensor], present: Tensor
    ) -> Tensor:
        categories = [
            gather(
                group_categories(
                    cam, view.groups, present, rule=self.group_rule, margin=self.group_margin
                )
            )
            for view, cam in zip(views, cams, strict=True)
        ]
        embeddings = torch.cat([gather(view.group_embeddings).flatten(0, 1) for view in views])
        num_photos = len(categories[0])
        # Each view of a photo is a separate source, so that its groups have positives in the
        # other view.
        sources = [
            (torch.arange(num_photos, device=present.device) + index * num_photos)[
                :, None
            ].expand_as(category)
            for index, category in enumerate(categories)
        ]
        flat = torch.cat([category.flatten() for category in categories])
        memory = views[0].memory
        loss = group_contrast(
            embeddings,
            flat,
            torch.cat([source.flatten() for source in sources]),
            temperature=self.temperature,
            memory=None if memory is None else memory.contents(),
        )
        if self.training:
            views[0].remember(embeddings, flat)
        return loss

    def _semantic_term(self, view: ContextOutput, labels: Tensor) -> Tensor:
        if view.semantic_logits is None:
            raise ValueError("sgcl needs a DualStreamContext built with semantic=True")
        targets = soft_targets(labels, view.groups, self.num_labels, hard=self.hard_targets)
        return semantic_contrast(view.semantic_logits, targets)


class CamObjective(nn.Module):
    """Tag loss plus the terms of the baseline and of DSCNet that the model output supports.

    Args:
        contrast: DSCNet's contrastive losses; None = baseline.
        plain_weight: Weight of the tag loss on P of Eq. (1), pooled over pixels, if the context
            scores the tags (by P~ of Eq. (11), or by its groups).
        pool_ramp: Fraction of training, in [0, 1], over which pooling shifts from pixels to
            groups.

    Raises:
        ValueError: If ``pool_ramp`` is out of range.
    """

    def __init__(
        self,
        contrast: ContrastObjective | None = None,
        *,
        plain_weight: float = 0.4,
        pool_ramp: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 <= pool_ramp <= 1:
            raise ValueError(f"pool_ramp must be in [0, 1], got {pool_ramp}")
        self.contrast = contrast
        self.plain_weight = plain_weight
        self.pool_ramp = pool_ramp

    def forward(self, output: ModelOutput, batch: Batch, progress: float = 1.0) -> LossTerms:
        """Losses of one step; ``progress`` is the fraction of training done, in [0, 1]."""
        views = [view for view in (output, output.second) if view is not None]
        size = (batch.image.shape[-2], batch.image.shape[-1])
        sizes = [view.size or size for view in views]
        share = 1.0 if self.pool_ramp == 0 else min(progress / self.pool_ramp, 1.0)
        final = [_tag_logits(view, size, share) for view, size in zip(views, sizes, strict=True)]
        terms = {"cls": _mean_tag_loss(final, batch.tags)}
        weights: dict[str, float] = {}
        plain = [
            _plain_tag_logits(view, size)
            for view, size in zip(views, sizes, strict=True)
            if _scored_by_context(view)
        ]
        if plain:
            terms["cls_plain"] = _mean_tag_loss(plain, batch.tags)
            weights["cls_plain"] = self.plain_weight
        if output.second is not None:
            terms |= _seam_terms(output, output.second, batch.tags, size)
        if self.contrast is not None:
            contexts = [view.context for view in views if view.context is not None]
            joined = self.contrast(
                contexts, [view.final_logits for view in views], batch.tags, progress
            )
            terms |= joined.terms
            weights |= joined.weights
        return LossTerms(terms, weights)


class SegmentationObjective(nn.Module):
    """Cross-entropy of segmentation scores; pixels labelled 255 are ignored."""

    def forward(self, output: ModelOutput, batch: Batch, progress: float = 1.0) -> LossTerms:
        """Loss ``seg``; zero with zero gradient when every pixel is 255."""
        if output.seg_logits is None or batch.mask is None:
            raise ValueError("SegmentationObjective needs seg_logits and a batch with masks")
        return LossTerms({"seg": _label_loss(output.seg_logits, batch.mask)})


class AuxSegObjective(nn.Module):
    """AuxSegNet's losses, each with weight 1, plus those of a :class:`CamObjective`.

    Both branches are supervised before and after the cross-task affinity; ``seg`` and ``sal`` are
    sums of the two.

    Args:
        cam: Tag loss and DSCNet's contrastive losses.
    """

    def __init__(self, cam: CamObjective) -> None:
        super().__init__()
        self.cam = cam

    def forward(self, output: ModelOutput, batch: Batch, progress: float = 1.0) -> LossTerms:
        """Losses of one step; ``progress`` is the fraction of training done, in [0, 1]."""
        mask, saliency = batch.mask, batch.saliency
        if mask is None or saliency is None:
            raise ValueError("AuxSegObjective needs a batch with masks and saliency")
        segmentations = [s for s in (output.seg_initial, output.seg_logits) if s is not None]
        saliencies = [s for s in (output.saliency_initial, output.saliency_logits) if s is not None]
        if len(segmentations) + len(saliencies) < 4:
            raise ValueError("AuxSegObjective needs segmentation and saliency, initial and refined")
        joined = self.cam(output, batch, progress)
        terms = {
            "seg": torch.stack([_label_loss(scores, mask) for scores in segmentations]).sum(),
            "sal": torch.stack([saliency_loss(scores, saliency) for scores in saliencies]).sum(),
        }
        return LossTerms(joined.terms | terms, joined.weights)


def _label_loss(seg_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, mean over the pixels that are not 255; zero if all are."""
    # Of all ranks: they may have different numbers of labelled pixels.
    counted = batch_mean((labels != IGNORE_INDEX).sum()).clamp(min=SMALLEST)
    scores = at_least_float32(seg_logits)
    summed = F.cross_entropy(scores, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return summed / counted


def _tag_logits(view: ModelOutput, size: tuple[int, int], share: float) -> Tensor:
    """Tag scores of the final CAM: pooled over pixels, over groups, or a mixture of the two."""
    groups = None if view.context is None else view.context.tag_logits
    if groups is not None and share == 1:
        return groups
    mean = view.tag_logits
    if mean is None:
        mean = pooled_logits(view.final_logits, size)
    return mean if groups is None else torch.lerp(mean.to(groups), groups, share)


def _plain_tag_logits(view: ModelOutput, size: tuple[int, int]) -> Tensor:
    """Tag scores of P, Eq. (1), pooled over pixels."""
    if view.plain_tag_logits is not None:
        return view.plain_tag_logits
    assert view.cam_logits is not None
    return pooled_logits(view.cam_logits, size)


def _scored_by_context(view: ModelOutput) -> bool:
    context = view.context
    return context is not None and not (context.tag_logits is None and context.cam_logits is None)


def _mean_tag_loss(scores: Sequence[Tensor], tags: Tensor) -> Tensor:
    return torch.stack([tag_loss(score, tags) for score in scores]).mean()


def _seam_terms(
    first: ModelOutput, second: ModelOutput, tags: Tensor, size: tuple[int, int]
) -> dict[str, Tensor]:
    """SEAM's minimum pooling, ER and ECR between the two views of the same photos."""
    if first.cam_refined is None or second.cam_refined is None or second.size is None:
        raise ValueError("two views can only be compared if the model refines its CAM")
    er, ecr = equivariance_losses(
        first.final_logits,
        first.cam_refined,
        second.final_logits,
        second.cam_refined,
        tags,
        size,
        second.size,
    )
    weakest = [
        min_pool_loss(first.cam_refined, tags, size),
        min_pool_loss(second.cam_refined, tags, second.size),
    ]
    return {"min": torch.stack(weakest).mean(), "er": er, "ecr": ecr}
