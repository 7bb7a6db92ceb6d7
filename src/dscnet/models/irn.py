"""IRNet's boundary branch: class boundaries for the random walk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dscnet.types import ModelOutput

STRIDE = 4
"""Stride of the boundary map."""

WIDTH, GROUPS = 32, 4
"""Channels of each reduced feature map, and groups of its group normalisation."""


class BoundaryNet(nn.Module):
    """Boundaries from the feature maps of a frozen backbone (Ahn, Cho, Kwak, CVPR 2019).

    Each feature map goes through a 1x1 convolution, group normalisation, resizing to stride 4 and
    ReLU; a final 1x1 convolution merges them. ``dscnet.refine.pairs.line_affinity`` derives
    affinities from the boundaries.

    Deviations: the published branch uses the five stages of ResNet50, this one the three feature
    maps of any backbone. There is no displacement field: only instance segmentation needs it, and
    with a frozen backbone and no shared layers its loss does not affect the boundaries.

    Args:
        backbone: A module with ``channels`` (low, mid, high) whose call maps photos
            ``(B, 3, H, W)`` to the three feature maps ``(B, channels[i], *, *)``. It is frozen.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = backbone.requires_grad_(False)
        self.squeeze = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, WIDTH, 1, bias=False), nn.GroupNorm(GROUPS, WIDTH))
            for channels in backbone.channels  # type: ignore[union-attr]
        )
        self.join = nn.Conv2d(len(self.squeeze) * WIDTH, 1, 1)
        self.train(self.training)

    def forward(self, image: Tensor, tags: Tensor | None = None) -> ModelOutput:
        """Predict the boundaries of photos.

        Args:
            image: Normalised photos, ``(B, 3, H, W)``.
            tags: Ignored; CAM networks take them.

        Returns:
            The output with ``boundary_logits`` ``(B, 1, ceil(H / 4), ceil(W / 4))``.
        """
        with torch.no_grad():
            feature_maps = self.backbone(image)
        size = (-(-image.shape[-2] // STRIDE), -(-image.shape[-1] // STRIDE))
        parts = [
            functional.interpolate(
                squeeze(features), size, mode="bilinear", align_corners=False
            ).relu()
            for squeeze, features in zip(self.squeeze, feature_maps, strict=True)
        ]
        return ModelOutput(boundary_logits=self.join(torch.cat(parts, 1)))

    def train(self, mode: bool = True) -> BoundaryNet:
        """Set the mode; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self
