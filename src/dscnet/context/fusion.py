"""DSCNet's two context streams on one view of a batch, and their fusion (DSCL)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscnet.context.categories import normalise_cam, predicted_labels, present_labels
from dscnet.context.memory import GroupMemory
from dscnet.context.output import ContextOutput
from dscnet.context.pixel_groups import (
    PixelGroups,
    check_grouping,
    correlate_groups,
    group_mean,
    group_pixels,
    pool_groups,
    standardise,
)
from dscnet.context.semantic_graph import SemanticGraph, SemanticNodes
from dscnet.context.shrinkage_lda import ShrinkageLDA
from dscnet.deprecation import RenamedAttribute
from dscnet.numerics import at_least_float32, full_precision, softmax_of_rows, unit

FUSIONS = ("groups", "categories")
"""What a pixel attends to in Eq. (10): graph nodes of its groups, or of their categories."""

HEADS = ("own", "shared")
"""Classifier of X in Eq. (11): separate (own), or that of Eq. (1), so that P~ = P + W X^."""

ROW_NORMS = ("softmax", "l1")
"""norm() of Eq. (10): softmax with temperature, or the positive part divided by its sum."""


class DualStreamContext(nn.Module):
    """Group pixels, relate the groups to categories, and refine the CAM with both.

    The paper's variants: M1 and M2 differ in their losses only, M3 is ``semantic``, M4 is
    ``semantic`` and ``fuse``. The tags of an image affect the refined CAM only with
    ``num_groups=None`` (number of groups) and with ``starts="cam"`` (initial centres).

    After training, fit the class prototypes with ``lda.add``; inference then also returns
    ``class_similarity``.

    Args:
        in_channels: D, channels of the features.
        num_labels: L, background included.
        semantic: Whether to build the graph, Eq. (8).
        fuse: Whether to compute the refined CAM, Eq. (10) and (11); requires ``semantic``.
        fusion: One of ``FUSIONS``.
        head: One of ``HEADS``.
        row_norm: One of ``ROW_NORMS``.
        grouping: One of ``pixel_groups.GROUPINGS``.
        starts: One of ``pixel_groups.STARTS``.
        num_groups: A fixed K, not with ``starts="cam"``; None = number of present labels of each
            image.
        embedding_dim: E, length of the embeddings.
        node_dim: Length of the graph's nodes.
        temperature: Of S and of norm(), > 0.
        residual: Whether the graph convolution adds its input.
        learned_prototypes: Whether the category nodes are trained.
        zero_init: Whether the classifier's weights for the context start at zero, so that training
            starts from a plain CAM.
        dropout: Channel dropout before the classifier of the refined CAM, in [0, 1). Use the plain
            classifier's rate, so that the two differ in the context only.
        pool_sharpness: Sharpness of ``pixel_groups.pool_groups`` for the tag scores; 0 = pool over
            pixels instead.
        memory_size: Past groups kept per category, 0 = off. The contrast fills the memory.

    Raises:
        ValueError: If an option is unknown or two are incompatible.
    """

    def __init__(
        self,
        in_channels: int,
        num_labels: int,
        *,
        semantic: bool,
        fuse: bool,
        fusion: str = "groups",
        head: str = "shared",
        row_norm: str = "softmax",
        grouping: str = "pearson",
        starts: str = "kmeans++",
        num_groups: int | None = 8,
        embedding_dim: int = 128,
        node_dim: int = 128,
        temperature: float = 0.1,
        residual: bool = True,
        learned_prototypes: bool = True,
        zero_init: bool = True,
        dropout: float = 0.0,
        pool_sharpness: float = 1.0,
        memory_size: int = 64,
    ) -> None:
        super().__init__()
        check_grouping(grouping, starts, num_groups)
        _check_fusion(semantic, fuse, fusion, head, row_norm)
        if num_labels < 2:
            raise ValueError(f"num_labels must be >= 2, background included, got {num_labels}")
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        if pool_sharpness < 0:
            raise ValueError(f"pool_sharpness must be >= 0, got {pool_sharpness}")
        self.in_channels = in_channels
        self.num_labels = num_labels
        self.fuse = fuse
        self.fusion = fusion
        self.head = head
        self.row_norm = row_norm
        self.grouping = grouping
        self.starts = starts
        self.num_groups = num_groups
        self.embedding_dim = embedding_dim
        self.temperature = temperature
        self.pool_sharpness = pool_sharpness
        self.memory = GroupMemory(num_labels, memory_size, embedding_dim)
        self.lda = ShrinkageLDA(num_labels, embedding_dim)
        self.projection = nn.Conv2d(in_channels, embedding_dim, 1, bias=False)
        self.graph: SemanticGraph | None = None
        self.expand: nn.Linear | None = None
        self.classifier: nn.Conv2d | None = None
        if semantic:
            self.graph = SemanticGraph(
                in_channels,
                num_labels,
                node_dim=node_dim,
                temperature=temperature,
                residual=residual,
                learned_prototypes=learned_prototypes,
            )
        if fuse:
            self.expand = nn.Linear(node_dim, in_channels)
            self.dropout = nn.Dropout2d(dropout)
            read = in_channels if head == "shared" else 2 * in_channels
            self.classifier = nn.Conv2d(read, num_labels, 1, bias=False)
            *plain, enriched = torch.split(self.classifier.weight.detach(), in_channels, dim=1)
            for half in plain:
                nn.init.xavier_uniform_(half)
            if zero_init:
                nn.init.zeros_(enriched)
            else:
                nn.init.xavier_uniform_(enriched)

    def forward(
        self,
        features: Tensor,
        cam_logits: Tensor,
        tags: Tensor | None = None,
        guide: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> ContextOutput:
        """Run the streams on one view.

        Args:
            features: X, ``(B, D, h, w)``.
            cam_logits: P of Eq. (1), ``(B, L, h, w)``; no gradient through the grouping.
            tags: ``(B, C)`` in {0, 1}; None = the classes predicted by ``cam_logits``.
            guide: Features that pixels are compared by in Eq. (4), (5) and A of Eq. (10),
                ``(B, D', h', w')``, resized to X, no gradient; None = X.
            generator: Random generator for k-means.

        Raises:
            ValueError: If a shape does not match.
        """
        self._check_shapes(features, cam_logits, tags)
        present = predicted_labels(cam_logits) if tags is None else present_labels(tags)
        compared = _compared(features, guide)
        groups = group_pixels(
            compared,
            # The grouping ignores the background channel.
            normalise_cam(cam_logits.detach(), present, bg_score=0.0),
            present,
            grouping=self.grouping,
            starts=self.starts,
            num_groups=self.num_groups,
            generator=generator,
        )
        embeddings = self.embed(features)
        output = ContextOutput(
            embeddings, groups, unit(group_mean(embeddings, groups)), memory=self.memory
        )
        if self.graph is not None:
            relations = self.graph(group_mean(features.flatten(2).mT, groups), groups.valid)
            output.semantic_logits = relations.logits
            if self.classifier is not None:
                output.pixel_to_group = self._pixel_to_group(compared, groups)
                context = self._context_features(features, output.pixel_to_group, relations)
                output.cam_logits = self._classify(features, context.to(features.dtype), cam_logits)
        if self.pool_sharpness > 0:
            final = cam_logits if output.cam_logits is None else output.cam_logits
            output.tag_logits = pool_groups(final, groups, self.pool_sharpness)
        if not self.training and self.lda.fitted:
            class_similarity = self.lda(embeddings, present, self.temperature)
            output.class_similarity = class_similarity.mT.reshape(cam_logits.shape)
        return output

    discriminant = RenamedAttribute("lda")

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Read files written when ``lda`` was called ``discriminant``."""
        old, new = f"{prefix}discriminant.", f"{prefix}lda."
        for name in [name for name in state_dict if name.startswith(old)]:
            state_dict[new + name.removeprefix(old)] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def embed(self, features: Tensor) -> Tensor:
        """Unit embeddings of the pixels for the contrastive losses, ``(B, N, E)``."""
        projected = self.projection(features).flatten(2).mT
        return unit(at_least_float32(projected))

    @torch.no_grad()
    def _pixel_to_group(self, compared: Tensor, groups: PixelGroups) -> Tensor:
        """Pixel-to-group attention, norm(A) of Eq. (10), ``(B, N, K)``."""
        context = correlate_groups(standardise(compared), groups)
        return normalise_rows(context, groups.valid, self.row_norm, self.temperature)

    @full_precision
    def _context_features(
        self, features: Tensor, pixel_to_group: Tensor, relations: SemanticNodes
    ) -> Tensor:
        """X^ of Eq. (10), ``(B, D, h, w)``."""
        assert self.expand is not None
        if self.fusion == "groups":
            values = self.expand(relations.nodes)
        else:
            # S is a softmax already: norm(S) = S.
            values = relations.logits.softmax(-1) @ self.expand(relations.category_nodes)
        enriched: Tensor = pixel_to_group.to(values.dtype) @ values
        return enriched.mT.reshape(features.shape)

    def _classify(self, features: Tensor, context: Tensor, cam_logits: Tensor) -> Tensor:
        """P~ of Eq. (11), ``(B, L, h, w)``."""
        assert self.classifier is not None
        if self.head == "shared":
            added: Tensor = self.classifier(self.dropout(context))
            return cam_logits + added
        own: Tensor = self.classifier(self.dropout(torch.cat([features, context], dim=1)))
        return own

    def _check_shapes(self, features: Tensor, cam_logits: Tensor, tags: Tensor | None) -> None:
        if features.ndim != 4 or features.shape[1] != self.in_channels:
            raise ValueError(
                f"features must be (B, {self.in_channels}, h, w), got {tuple(features.shape)}"
            )
        batch, _, height, width = features.shape
        expected = (batch, self.num_labels, height, width)
        if cam_logits.shape != expected:
            raise ValueError(f"cam_logits must be {expected}, got {tuple(cam_logits.shape)}")
        if tags is not None and tags.shape != (batch, self.num_labels - 1):
            raise ValueError(
                f"tags must be ({batch}, {self.num_labels - 1}), got {tuple(tags.shape)}"
            )


def normalise_rows(context: Tensor, valid: Tensor, row_norm: str, temperature: float) -> Tensor:
    """norm() of Eq. (10): attention of each pixel to the groups of its image.

    Args:
        context: A, the correlations, ``(B, N, K)``.
        valid: Non-empty groups, ``(B, K)`` bool, at least one per image.
        row_norm: One of ``ROW_NORMS``.
        temperature: Of the softmax; not used by ``l1``.

    Returns:
        ``(B, N, K)``; rows sum to one over the valid groups. With ``l1``, a row without a positive
        entry is zero.
    """
    if row_norm == "softmax":
        return softmax_of_rows((context / temperature).masked_fill(~valid[:, None], -torch.inf))
    return F.normalize(context.relu() * valid[:, None], p=1, dim=-1)


def _compared(features: Tensor, guide: Tensor | None) -> Tensor:
    """Features for comparing pixels, ``(B, D', h, w)``, at the resolution of X."""
    compared = (features if guide is None else guide).detach()
    if compared.shape[-2:] == features.shape[-2:]:
        return compared
    size = (features.shape[-2], features.shape[-1])
    return F.interpolate(compared, size, mode="bilinear", align_corners=True)


def _check_fusion(semantic: bool, fuse: bool, fusion: str, head: str, row_norm: str) -> None:
    if fuse and not semantic:
        raise ValueError("fuse=True needs semantic=True: the refined CAM uses the graph")
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, got {head!r}")
    if row_norm not in ROW_NORMS:
        raise ValueError(f"row_norm must be one of {', '.join(ROW_NORMS)}, got {row_norm!r}")
