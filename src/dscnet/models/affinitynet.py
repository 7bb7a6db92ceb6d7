"""AffinityNet: features whose distance predicts whether neighbouring cells share a label."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dscnet.numerics import resize
from dscnet.types import ModelOutput

LOW, MID, HIGH = 64, 128, 256
"""Channels that the three feature maps are reduced to."""


class AffinityNet(nn.Module):
    """The three feature maps of a backbone, reduced and merged (Ahn, Kwak, CVPR 2018).

    ``F = elu mix(cat(elu squeeze_low, elu squeeze_mid, elu squeeze_high))``, all 1x1 convolutions
    without bias (published names: f9, f8_3, f8_4, f8_5). The backbone is trained as well.
    ``dscnet.refine.pairs.pair_affinity`` compares cells of F.

    Deviation: in the published backbone all feature maps have the resolution of the last; here
    others are resized to it before their convolution.

    Args:
        backbone: A module with ``channels`` (low, mid, high) whose call maps photos
            ``(B, 3, H, W)`` to the three feature maps ``(B, channels[i], *, *)``.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        low, mid, high = backbone.channels  # type: ignore[misc]
        self.backbone: Any = backbone
        self.squeeze_low = nn.Conv2d(low, LOW, 1, bias=False)
        self.squeeze_mid = nn.Conv2d(mid, MID, 1, bias=False)
        self.squeeze_high = nn.Conv2d(high, HIGH, 1, bias=False)
        self.mix = nn.Conv2d(LOW + MID + HIGH, LOW + MID + HIGH, 1, bias=False)
        for squeeze in (self.squeeze_low, self.squeeze_mid, self.squeeze_high):
            nn.init.kaiming_normal_(squeeze.weight)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, image: Tensor, tags: Tensor | None = None) -> ModelOutput:
        """Compute F of photos.

        Args:
            image: Normalised photos, ``(B, 3, H, W)``.
            tags: Ignored; CAM networks take them.

        Returns:
            The output with ``features`` F, ``(B, 448, h, w)``, at the size of the last feature map.
        """
        low, mid, high = self.backbone(image)
        size = (high.shape[-2], high.shape[-1])
        parts = [
            functional.elu(self.squeeze_low(resize(low, size))),
            functional.elu(self.squeeze_mid(resize(mid, size))),
            functional.elu(self.squeeze_high(high)),
        ]
        return ModelOutput(features=functional.elu(self.mix(torch.cat(parts, 1))))
