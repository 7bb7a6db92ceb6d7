"""IRNet's boundary branch: where one object ends and the next begins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dscnet.types import ModelOutput

STRIDE = 4
"""Photo pixels a cell of the boundary map."""

WIDTH, GROUPS = 32, 4
"""Channels of each tap in the branch, and the groups they are normalised in."""


class BoundaryNet(nn.Module):
    """Boundaries from the taps of a trunk that is not trained (Ahn, Cho, Kwak, CVPR 2019).

    Each tap is squeezed by a 1x1 convolution, normalised in groups, resized to stride 4 and
    rectified; a last 1x1 convolution joins them. ``dscnet.refine.pairs.line_affinity`` reads
    affinities off the boundaries.

    Deviations: the published branch takes the five stages of ResNet50; this one takes the three
    taps of any trunk. There is no displacement field: only instances need it, and as the trunk is
    frozen and the two branches share nothing, its loss changes nothing of the boundaries.

    Args:
        backbone: A module with ``channels`` (low, mid, high) whose call maps photos
            ``(B, 3, H, W)`` to the three taps ``(B, channels[i], *, *)``. It gets no gradient.
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
        """Score the boundaries of photos.

        Args:
            image: Normalised photos, ``(B, 3, H, W)``.
            tags: Not read; CAM networks take them.

        Returns:
            The output with ``boundary_logits`` ``(B, 1, ceil(H / 4), ceil(W / 4))``.
        """
        with torch.no_grad():
            taps = self.backbone(image)
        size = (-(-image.shape[-2] // STRIDE), -(-image.shape[-1] // STRIDE))
        parts = [
            functional.interpolate(squeeze(tap), size, mode="bilinear", align_corners=False).relu()
            for squeeze, tap in zip(self.squeeze, taps, strict=True)
        ]
        return ModelOutput(boundary_logits=self.join(torch.cat(parts, 1)))

    def train(self, mode: bool = True) -> BoundaryNet:
        """Switch mode; the trunk stays in evaluation."""
        super().train(mode)
        self.backbone.eval()
        return self
