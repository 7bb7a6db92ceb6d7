"""The plain CAM network, base of all CAM models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dscnet.context import ContextOutput, normalise_cam
from dscnet.numerics import resize
from dscnet.types import ModelOutput

FEATURE_MAPS = ("early", "middle", "last")
"""Names of the three feature maps of a backbone, from shallow to deep."""


class PlainCam(nn.Module):
    """CAM network: a 1x1 classifier convolution on backbone features, Eq. (1).

    ``cam_logits`` and ``cam_refined`` of the output are at feature resolution; losses and inference
    resize them.

    Args:
        backbone: A module with ``channels`` (low, mid, high) whose call maps photos
            ``(B, 3, H, W)`` to the three feature maps ``(B, channels[i], *, *)``.
        num_classes: Foreground classes C, >= 1; the CAM has L = C + 1 labels.
        context: DSCNet's streams (``dscnet.context.DualStreamContext`` or similar), called as
            ``context(features, cam_logits, tags, guide=feature_map)``; returns a ``ContextOutput``.
            If its attribute ``fuse`` is true, its ``cam_logits`` replace the plain ones; otherwise
            inference uses only its tag scores and ``class_similarity``.
        group_by: Feature map that guides the context, one of ``FEATURE_MAPS``.
        smooth: Weight of the groups' scores in the refined CAM, if the context fuses, in [0, 1];
            see ``ContextOutput.smooth``.
        class_similarity: Weight of the class similarity in the refined CAM at inference, in [0, 1];
            see ``ContextOutput.weigh``.
        dropout: Channel dropout before the classifier, in [0, 1].

    Raises:
        ValueError: If ``num_classes`` is below 1, ``group_by`` is unknown or ``smooth`` or
            ``class_similarity`` is outside [0, 1].
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        context: nn.Module | None = None,
        group_by: str = "last",
        smooth: float = 0.0,
        class_similarity: float = 0.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        for name, share in (("smooth", smooth), ("class_similarity", class_similarity)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {share}")
        if group_by not in FEATURE_MAPS:
            raise ValueError(f"group_by must be one of {', '.join(FEATURE_MAPS)}, got {group_by!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.channels: tuple[int, int, int] = backbone.channels  # type: ignore[assignment]
        self.backbone: Any = backbone
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(self.channels[2], num_classes + 1, 1, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)
        self.context = context
        self.group_by = FEATURE_MAPS.index(group_by)
        self.smooth, self.class_similarity = smooth, class_similarity

    def forward(self, image: Tensor, tags: Tensor | None = None) -> ModelOutput:
        """Score the pixels of photos.

        Args:
            image: Normalised photos, ``(B, 3, H, W)``.
            tags: ``(B, C)`` in {0, 1}; used by the context only. None = unknown.

        Returns:
            The output with ``features`` ``(B, D, h, w)`` and ``cam_logits`` ``(B, L, h, w)``.
        """
        return self.one_view(image, tags)

    def one_view(
        self, image: Tensor, tags: Tensor | None = None, *, maps_only: bool = False
    ) -> ModelOutput:
        """Run a single forward pass, in training and inference alike.

        Args:
            image: As for :meth:`forward`.
            tags: As for :meth:`forward`.
            maps_only: Skip the context if it does not affect the CAMs.
        """
        feature_maps = self.backbone(image)
        low, mid, high = feature_maps
        cam_logits = self.classifier(self.dropout(high))
        size = (image.shape[-2], image.shape[-1])
        output = ModelOutput(features=high, cam_logits=cam_logits, size=size)
        in_maps = self.context is not None and (self.context.fuse or self.class_similarity > 0)
        if self.context is not None and (in_maps or not maps_only):
            output.context = self.context(high, cam_logits, tags, guide=feature_maps[self.group_by])
        output.cam_refined = self.refine(output.final_logits, image, low, mid)
        if output.context is not None:
            output.cam_refined = self._refine_by_context(output, output.context)
        return output

    def _refine_by_context(self, output: ModelOutput, context: ContextOutput) -> Tensor | None:
        """The refined CAM, smoothed by the context's groups and weighted by class similarity."""
        refined = output.cam_refined
        smooth = self.smooth if self.smooth and context.pixel_to_group is not None else 0.0
        class_similarity = (
            self.class_similarity
            if self.class_similarity and context.class_similarity is not None
            else 0.0
        )
        if smooth == class_similarity == 0:
            return refined
        if refined is None:
            every = torch.ones_like(output.final_logits[:, 1:, 0, 0])
            refined = normalise_cam(output.final_logits, every, bg_score=0.0)
        return context.weigh(context.smooth(refined, smooth), class_similarity)

    def refine(self, cam_logits: Tensor, image: Tensor, low: Tensor, mid: Tensor) -> Tensor | None:
        """Return a refined CAM ``(B, L, h, w)`` in [0, 1]; None in this base class."""
        return None

    def score_maps(self, image: Tensor, tags: Tensor | None = None) -> dict[str, Tensor]:
        """Return the foreground CAMs that inference aggregates.

        Args:
            image: Normalised photos, ``(B, 3, H, W)``.
            tags: ``(B, C)`` or None, as for :meth:`forward`. The CAMs are not masked by them.

        Returns:
            ``cam``: rectified scores ``(B, C, h, w)``; and, if the model refines its CAM,
            ``refined`` ``(B, C, h, w)`` in [0, 1].
        """
        output = self.one_view(image, tags, maps_only=True)
        maps = {"cam": output.final_logits[:, 1:].relu()}
        if output.cam_refined is not None:
            maps["refined"] = output.cam_refined[:, 1:]
        return maps

    def tag_logits(self, output: ModelOutput, size: tuple[int, int]) -> Tensor:
        """Return the tag scores ``(B, C)``: the context's if it pools over groups.

        Otherwise the model's own, or the mean of the final CAM upsampled to ``size``. With aligned
        corners the border counts less than in a mean over the feature grid, so ``size`` must be the
        image size used in training.
        """
        if output.context is not None and output.context.tag_logits is not None:
            return output.context.tag_logits
        if output.tag_logits is not None:
            return output.tag_logits
        return resize(output.final_logits[:, 1:], size).mean((2, 3))
