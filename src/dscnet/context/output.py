"""What DSCNet's context computed for one view, and what CAMs gain from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dscnet.context.memory import GroupMemory
from dscnet.context.pixel_groups import PixelGroups, group_mean
from dscnet.deprecation import RenamedAttribute
from dscnet.numerics import full_precision

LEAST = 1e-3
"""Lower bound of scores and similarities, so that no label is ruled out entirely."""


@dataclass
class ContextOutput:
    """What the two streams computed for one view.

    Attributes:
        embeddings: Projected pixels, unit vectors ``(B, N, E)``.
        groups: The pixel groups, Eq. (5).
        group_embeddings: Mean embedding of each group, scaled to unit length, ``(B, K, E)``; zero
            for empty groups.
        semantic_logits: Group-to-label logits, ``(B, K, L)``: S of Eq. (8) before its softmax; None
            without the semantic stream.
        pixel_to_group: Pixel-to-group attention, norm(A) of Eq. (10), ``(B, N, K)``, no gradient;
            None without fusion.
        cam_logits: The refined CAM P~ of Eq. (11), ``(B, L, h, w)``; None without fusion.
        tag_logits: Tag scores pooled over the groups of the final CAM, ``(B, C)``; None if pooling
            is over pixels.
        class_similarity: Similarity of each pixel to each label of its photo, ``(B, L, h, w)`` in
            [0, 1], from the shrinkage LDA; None in training, and before the LDA is fitted.
        memory: Memory bank of past groups, read by the group contrast, filled by :meth:`remember`.
    """

    embeddings: Tensor
    groups: PixelGroups
    group_embeddings: Tensor
    semantic_logits: Tensor | None = None
    pixel_to_group: Tensor | None = None
    cam_logits: Tensor | None = None
    tag_logits: Tensor | None = None
    class_similarity: Tensor | None = None
    memory: GroupMemory | None = None

    def remember(self, embeddings: Tensor, categories: Tensor) -> None:
        """Add groups to the memory bank, if the context has one.

        Args:
            embeddings: Of the groups, ``(M, D)``.
            categories: Of each, ``(M,)``; groups without a category (-1) are left out.
        """
        if self.memory is not None:
            known = categories >= 0
            self.memory.push(embeddings[known].detach(), categories[known])

    pointing = RenamedAttribute("pixel_to_group")
    likeness = RenamedAttribute("class_similarity")

    @full_precision
    def smooth(self, maps: Tensor, share: float) -> Tensor:
        """Blend each pixel's scores with those of the groups it attends to.

        [Reading] norm(A) of Eq. (10) applied to the mean scores of the groups; not in the paper.

        Args:
            maps: Scores of the same pixels, ``(B, L, h, w)``.
            share: Weight of the groups' scores, in [0, 1]; 0 changes nothing.

        Returns:
            ``(B, L, h, w)``, within the range of ``maps``, at least float32.

        Raises:
            ValueError: If the context was built without fusion, or ``share`` is outside [0, 1].
        """
        _check_share(share)
        if share == 0:
            return maps
        if self.pixel_to_group is None:
            raise ValueError("smoothing needs a context with fuse=True")
        means = group_mean(maps.flatten(2).mT, self.groups)
        smoothed = (self.pixel_to_group.to(means) @ means).mT.reshape(maps.shape)
        return torch.lerp(maps, smoothed.to(maps), share)

    def weigh(self, maps: Tensor, share: float) -> Tensor:
        """Weight each pixel's scores by its class similarity.

        [Reading] Not in the paper. The weighted geometric mean of score and ``class_similarity``: a
        label must be likely under both. The scores are stretched to [0, 1] first, as a refined CAM
        may cover only a small part of that range.

        Args:
            maps: Scores of the same pixels, ``(B, L, h, w)``, background first.
            share: Weight of ``class_similarity``, in [0, 1]; 0 changes nothing.

        Returns:
            ``(B, L, h, w)`` in [0, 1]; ``maps`` unchanged without ``class_similarity``.

        Raises:
            ValueError: If ``share`` is outside [0, 1], or the shapes differ.
        """
        _check_share(share)
        if share == 0 or self.class_similarity is None:
            return maps
        if maps.shape != self.class_similarity.shape:
            raise ValueError(
                f"maps must be {tuple(self.class_similarity.shape)}, (B, L, h, w) with background"
                f" as label 0, got {tuple(maps.shape)}"
            )
        low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        stretched = (maps - low) / (high - low).clamp_min(1e-5)
        likely = self.class_similarity.to(maps).clamp_min(LEAST)
        return stretched.clamp_min(LEAST) ** (1 - share) * likely**share


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")
