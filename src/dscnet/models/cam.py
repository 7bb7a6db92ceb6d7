"""The plain class activation map, and what every CAM model shares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dscnet.context import ContextOutput, normalise_cam
from dscnet.models.pcm import resize
from dscnet.types import ModelOutput

TAPS = ("early", "middle", "last")
"""The three feature maps of a trunk, from shallow to deep."""


class PlainCam(nn.Module):
    """A class-aware 1x1 convolution on the features of a trunk, Eq. (1).

    ``cam_logits`` and ``cam_refined`` of the output are at the resolution of the features; losses
    and inference resize them.

    Args:
        backbone: A module with ``channels`` (low, mid, high) whose call maps photos
            ``(B, 3, H, W)`` to the three taps ``(B, channels[i], *, *)``.
        num_classes: Foreground classes C, >= 1; the CAM has L = C + 1 labels.
        context: The streams of DSCNet (``dscnet.context.DualStreamContext`` or alike), called as
            ``context(features, cam_logits, tags, guide=tap)``. Where its attribute ``fuse`` is true
            its ``cam_logits`` replace the plain ones; otherwise inference reads its tag scores, and
            its maps its ``likeness`` alone. It returns a ``ContextOutput`` or alike.
        group_by: The tap that guides the context, one of ``TAPS``.
        smooth: Share of the refined map that the context's groups give where it fuses, in [0, 1];
            see ``ContextOutput.smooth``.
        likeness: Weight of the context's discriminant in the refined map, in inference, in [0, 1];
            see ``ContextOutput.weigh``.
        dropout: Probability of dropping a feature channel before the classifier, in [0, 1].

    Raises:
        ValueError: If ``num_classes`` is below 1, ``group_by`` is unknown or ``smooth`` or
            ``likeness`` is outside [0, 1].
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        context: nn.Module | None = None,
        group_by: str = "last",
        smooth: float = 0.0,
        likeness: float = 0.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        for name, share in (("smooth", smooth), ("likeness", likeness)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {share}")
        if group_by not in TAPS:
            raise ValueError(f"group_by must be one of {', '.join(TAPS)}, got {group_by!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.channels: tuple[int, int, int] = backbone.channels  # type: ignore[assignment]
        self.backbone: Any = backbone
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(self.channels[2], num_classes + 1, 1, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)
        self.context = context
        self.group_by = TAPS.index(group_by)
        self.smooth, self.likeness = smooth, likeness

    def forward(self, image: Tensor, tags: Tensor | None = None) -> ModelOutput:
        """Score the pixels of photos.

        Args:
            image: Normalised photos, ``(B, 3, H, W)``.
            tags: ``(B, C)`` in {0, 1}; read by the context only. None = unknown.

        Returns:
            The output with ``features`` ``(B, D, h, w)`` and ``cam_logits`` ``(B, L, h, w)``.
        """
        return self.one_view(image, tags)

    def one_view(
        self, image: Tensor, tags: Tensor | None = None, *, maps_only: bool = False
    ) -> ModelOutput:
        """Run the network once on photos of one size, in training and in inference alike.

        Args:
            image: As for :meth:`forward`.
            tags: As for :meth:`forward`.
            maps_only: Leave out a context that has no part in the maps.
        """
        taps = self.backbone(image)
        low, mid, high = taps
        cam_logits = self.classifier(self.dropout(high))
        size = (image.shape[-2], image.shape[-1])
        output = ModelOutput(features=high, cam_logits=cam_logits, size=size)
        in_maps = self.context is not None and (self.context.fuse or self.likeness > 0)
        if self.context is not None and (in_maps or not maps_only):
            output.context = self.context(high, cam_logits, tags, guide=taps[self.group_by])
        output.cam_refined = self.refine(output.final_logits, image, low, mid)
        if output.context is not None:
            output.cam_refined = self._refine_by_context(output, output.context)
        return output

    def _refine_by_context(self, output: ModelOutput, context: ContextOutput) -> Tensor | None:
        """The refined map, a share of it from the context's groups, weighed by its discriminant."""
        refined = output.cam_refined
        smooth = self.smooth if self.smooth and context.pointing is not None else 0.0
        likeness = self.likeness if self.likeness and context.likeness is not None else 0.0
        if smooth == likeness == 0:
            return refined
        if refined is None:
            every = torch.ones_like(output.final_logits[:, 1:, 0, 0])
            refined = normalise_cam(output.final_logits, every, bg_score=0.0)
        return context.weigh(context.smooth(refined, smooth), likeness)

    def refine(self, cam_logits: Tensor, image: Tensor, low: Tensor, mid: Tensor) -> Tensor | None:
        """Return a refined CAM ``(B, L, h, w)`` in [0, 1]; this model has none of its own."""
        return None

    def score_maps(self, image: Tensor, tags: Tensor | None = None) -> dict[str, Tensor]:
        """Return the foreground maps that inference aggregates.

        Args:
            image: Normalised photos, ``(B, 3, H, W)``.
            tags: ``(B, C)`` or None, as for :meth:`forward`. The maps are not masked by them.

        Returns:
            ``cam``: rectified scores ``(B, C, h, w)``; and ``refined`` ``(B, C, h, w)`` in [0, 1]
            where the model refines its CAM.
        """
        output = self.one_view(image, tags, maps_only=True)
        maps = {"cam": output.final_logits[:, 1:].relu()}
        if output.cam_refined is not None:
            maps["refined"] = output.cam_refined[:, 1:]
        return maps

    def tag_logits(self, output: ModelOutput, size: tuple[int, int]) -> Tensor:
        """Return the tag scores ``(B, C)``: those of the context's groups, where it gives them.

        Otherwise the model's own, or the mean over ``size`` of the up-sampled final CAM. Aligned
        corners weigh the border less than a mean over the feature grid does, so ``size`` must be
        the image size that training uses too.
        """
        if output.context is not None and output.context.tag_logits is not None:
            return output.context.tag_logits
        if output.tag_logits is not None:
            return output.tag_logits
        return resize(output.final_logits[:, 1:], size).mean((2, 3))
