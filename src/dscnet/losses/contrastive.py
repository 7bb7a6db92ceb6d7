"""DSCNet's contrastive losses: pixels, Eq. (3); groups, Eq. (7); groups and categories, Eq. (9).

All three are InfoNCE with the cosine as similarity and the mean over positives outside the
logarithm: a positive s+ against negatives s- costs

    -log(exp(s+) / (exp(s+) + sum exp(s-))) = softplus(logsumexp(s-) - s+).

They compute in float32 even under autocast; float64 is kept. Without any positive they return a
zero that supports backward.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dscnet.numerics import at_least_float32, unit
from dscnet.types import IGNORE_INDEX

_PAST = torch.iinfo(torch.int64).min
"""Source of the groups in the memory bank; no group of the batch has it."""


class Groups(Protocol):
    """A partition of the pixels, such as ``dscnet.context.PixelGroups``."""

    def one_hot(self) -> Tensor:
        """Membership, ``(B, N, K)``."""
        ...


def group_contrast(
    embeddings: Tensor,
    categories: Tensor,
    sources: Tensor,
    *,
    temperature: float,
    memory: tuple[Tensor, Tensor] | None = None,
    images: Tensor | None = None,
) -> Tensor:
    """Pull groups of the same category together across images and push other categories away.

    DSCNet Eq. (6), (7). A source is one image in one view. Positives of a group are the groups of
    its category in other sources and in the memory; negatives are all groups of other categories,
    including those of its own source and of the memory. A group of its category in its own source
    is neither.

    Args:
        embeddings: ``(M, E)``, one row per group; scaled to unit length here.
        categories: Category of each group, ``(M,)`` int64; -1 = ignored.
        sources: Source of each group, ``(M,)`` int64.
        temperature: Divides the cosine, > 0.
        memory: Embeddings ``(M', E)`` and categories ``(M',)`` of past groups; no gradient.
        images: Unit of the last mean, ``(M,)`` int64; None = the sources. With image numbers, all
            views of an image together weigh as much as any other image.

    Returns:
        Scalar: mean over the positives of a group, then over the groups of an image that have a
        positive, then over the images that have such a group; 0 with zero gradient if none has.

    Raises:
        ValueError: If ``temperature`` is not positive or the lengths differ.
    """
    _check_temperature(temperature)
    _check_length("embeddings", embeddings, 2, categories)
    _check_length("sources", sources, 1, categories)
    if images is not None:
        _check_length("images", images, 1, categories)
    others, other_categories = embeddings, categories
    other_sources = sources
    if memory is not None:
        _check_length("memory", memory[0], 2, memory[1])
        others = torch.cat([embeddings, memory[0].detach().to(embeddings)])
        other_categories = torch.cat([categories, memory[1].to(categories)])
        other_sources = torch.cat([sources, sources.new_full(memory[1].shape, _PAST)])
    positive, negative = group_pairs(categories, sources, other_categories, other_sources)
    terms = _anchor_terms(_cosines(embeddings, others) / temperature, positive, negative)
    counted = positive.any(1)
    if not counted.any():
        return _zero(embeddings)
    last = sources if images is None else images
    owner: Tensor = torch.unique(last[counted], return_inverse=True)[1]
    counts = owner.bincount().to(terms)
    sums = torch.zeros_like(counts).index_add(0, owner, terms[counted])
    return (sums / counts).mean()


def group_pairs(
    categories: Tensor, sources: Tensor, other_categories: Tensor, other_sources: Tensor
) -> tuple[Tensor, Tensor]:
    """Positive and negative pairs of groups, Eq. (5): never both, possibly neither.

    Args:
        categories: ``(M,)`` int64, -1 = ignored.
        sources: ``(M,)`` int64.
        other_categories: Categories of the groups compared with, ``(M',)``.
        other_sources: Their sources, ``(M',)``.

    Returns:
        Positive and negative, ``(M, M')`` bool each.
    """
    known = (categories >= 0)[:, None] & (other_categories >= 0)
    same = categories[:, None] == other_categories
    elsewhere = sources[:, None] != other_sources
    return known & same & elsewhere, known & ~same


def pixel_contrast(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    max_pairs: int = 2**24,
) -> Tensor:
    """Contrast each pixel of the batch with all others, DSCNet Eq. (3).

    The loss that pixel groups replace (row "w/o PGCL" of Table V). Positives of a pixel are
    the other pixels of its label, in all images of the batch; negatives are the pixels of other
    labels. Quadratic in B * N; beyond ``max_pairs`` pairs the anchors are processed in chunks that
    are recomputed in the backward pass, which bounds memory.

    Args:
        embeddings: ``(B, N, E)``; scaled to unit length here.
        labels: Pseudo label of each pixel, ``(B, N)`` or ``(B, h, w)`` int64; 255 = ignore.
        temperature: Divides the cosine, > 0.
        max_pairs: Maximum number of pairs compared at once, >= 1.

    Returns:
        Scalar: mean over the positives of a pixel, then over the pixels that have one; 0 with zero
        gradient if none has.

    Raises:
        ValueError: If ``temperature`` or ``max_pairs`` is not positive, a label is negative, or the
            shapes differ.
    """
    _check_temperature(temperature)
    labels = labels.flatten(1)
    if embeddings.ndim != 3 or embeddings.shape[:2] != labels.shape:
        raise ValueError(
            f"embeddings must be (B, N, E) with one label per pixel, "
            f"got {tuple(embeddings.shape)} and labels {tuple(labels.shape)}"
        )
    if labels.numel() and int(labels.min()) < 0:
        raise ValueError(f"labels must be >= 0, got {int(labels.min())}")
    if max_pairs < 1:
        raise ValueError(f"max_pairs must be >= 1, got {max_pairs}")
    counted = labels != IGNORE_INDEX
    pixels, labels = embeddings[counted], labels[counted]
    has_positive = labels.bincount()[labels] > 1 if len(labels) else counted.flatten()[:0]
    anchors = has_positive.nonzero()[:, 0]
    if len(anchors) == 0:
        return _zero(embeddings)

    def total(piece: Tensor, pixels: Tensor) -> Tensor:
        same = labels[piece, None] == labels
        itself = piece[:, None] == torch.arange(len(labels), device=labels.device)
        similarity = _cosines(pixels[piece], pixels) / temperature
        return _anchor_terms(similarity, same & ~itself, ~same).sum()

    pieces = torch.split(anchors, max(1, max_pairs // len(labels)))
    if len(pieces) == 1:
        return total(anchors, pixels) / len(anchors)
    sums = [checkpoint(total, piece, pixels, use_reentrant=False) for piece in pieces]
    return torch.stack(sums).sum() / len(anchors)


def semantic_contrast(logits: Tensor, targets: Tensor) -> Tensor:
    """Contrast pixel groups with category nodes, DSCNet Eq. (9).

    Eq. (3) with the group as anchor, its category node as positive and the other nodes as
    negatives; that is cross-entropy. A soft target weights each category as the positive by its
    probability.

    Args:
        logits: Similarity of each group with each category, divided by the temperature,
            ``(B, K, L)``.
        targets: Soft targets, ``(B, K, L)``; rows sum to 1, or are all 0 for groups to ignore.

    Returns:
        Scalar: mean over the groups of an image that have a target, then over the images that have
        such a group; 0 with zero gradient if none has.

    Raises:
        ValueError: If the shapes differ or a row of targets sums to neither 0 nor 1.
    """
    if logits.ndim != 3 or logits.shape != targets.shape:
        raise ValueError(
            f"logits and targets must both be (B, K, L), "
            f"got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    logits, targets = at_least_float32(logits), at_least_float32(targets)
    sums = targets.sum(-1)
    counted = sums > 0.5
    if ((sums - counted.to(sums)).abs() > 1e-3).any():
        raise ValueError("targets must have rows that sum to 1 or are all 0")
    groups = counted.sum(1)
    if not counted.any():
        return _zero(logits)
    terms = -(targets * logits.log_softmax(-1)).sum(-1)
    per_image = terms.sum(1) / groups.clamp_min(1)
    return per_image.sum() / (groups > 0).sum()


def soft_targets(labels: Tensor, groups: Groups, num_labels: int, *, hard: bool = False) -> Tensor:
    """Soft targets for ``semantic_contrast``: fraction of each pseudo label in each group.

    Args:
        labels: Pseudo labels, ``(B, N)`` or ``(B, h, w)`` int64; 255 = ignore.
        groups: The groups of the same pixels.
        num_labels: L, background included.
        hard: One-hot target of the majority label instead; ties go to the lower label.

    Returns:
        ``(B, K, L)`` float32, no gradient; rows sum to 1, or are all 0 for empty groups and for
        groups with more ignored than labelled pixels.

    Raises:
        ValueError: If the numbers of pixels differ, or a label is neither below L nor 255.
    """
    labels = labels.flatten(1)
    members = groups.one_hot()
    if members.shape[:2] != labels.shape:
        raise ValueError(
            f"groups must cover the same pixels as labels, {tuple(labels.shape)}, "
            f"got {tuple(members.shape[:2])}"
        )
    labelled = labels != IGNORE_INDEX
    if (labelled & ((labels < 0) | (labels >= num_labels))).any():
        raise ValueError(f"labels must be in [0, {num_labels}) or {IGNORE_INDEX}")
    votes = F.one_hot(labels.where(labelled, 0), num_labels) * labelled[..., None]
    with torch.autocast(labels.device.type, enabled=False):
        counts = members.mT @ votes.to(members)
    total = counts.sum(-1, keepdim=True)
    if hard:
        targets = F.one_hot(counts.argmax(-1), num_labels).to(counts)
    else:
        targets = counts / total.clamp_min(1)
    return targets * ((total > 0) & (2 * total >= members.sum(1)[..., None]))


def _anchor_terms(similarity: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Mean over each anchor's positives of softplus(logsumexp(negatives) - positive), ``(M,)``.

    An anchor without negatives or without positives costs 0.
    """
    # The lowest finite number instead of -inf: its exponential is 0 too, without nan.
    lowest = torch.finfo(similarity.dtype).min
    against = similarity.masked_fill(~negative, lowest).logsumexp(1, keepdim=True)
    costs = F.softplus(against - similarity).masked_fill(~positive, 0.0)
    return costs.sum(1) / positive.sum(1).clamp_min(1)


def _cosines(anchors: Tensor, others: Tensor) -> Tensor:
    with torch.autocast(anchors.device.type, enabled=False):
        return unit(at_least_float32(anchors)) @ unit(at_least_float32(others)).mT


def _zero(tensor: Tensor) -> Tensor:
    """A zero attached to the graph, so that backward works."""
    return at_least_float32(tensor).sum() * 0.0


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")


def _check_length(name: str, values: Tensor, ndim: int, categories: Tensor) -> None:
    if values.ndim != ndim or categories.ndim != 1 or len(values) != len(categories):
        raise ValueError(
            f"{name} must have {ndim} dimensions and one row per category, "
            f"got {tuple(values.shape)} and categories {tuple(categories.shape)}"
        )
