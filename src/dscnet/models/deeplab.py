"""The retraining networks of the published tables: a trunk and the head of DeepLab v1 or v2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dscnet.models.backbones import Colour, scores_at_any_size
from dscnet.types import ModelOutput

STRIDE = 8
"""Output stride that the published dilations were made for."""

FIELD_DILATION = 12
"""Dilation of DeepLab v1's large field of view (Chen et al., ICLR 2015)."""

FIELD_CHANNELS = 512

PYRAMID_DILATIONS = (6, 12, 18, 24)
"""Dilations of DeepLab v2's atrous spatial pyramid pooling (Chen et al., TPAMI 2018)."""

MOMENTUM = 3e-4
"""Share of the newest batch in the running statistics of the published head."""

MEMORY = 6
"""The published 1 / 3e-4 steps are a sixth of the published 20,000."""


class RunningNorm(nn.BatchNorm2d):
    """Batch normalisation whose running statistics are those of the last steps of any training.

    Deviation: a batch's share is ``max(3e-4, 6 / (n + 6))`` after n batches, not 3e-4 from the
    start. That is the published share at the published 20,000 steps; a short training would
    otherwise end on running statistics that are still those of no data, 0 and 1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, C, h, w)``."""
        if self.training and self.num_batches_tracked is not None:
            self.momentum = max(MOMENTUM, MEMORY / (int(self.num_batches_tracked) + MEMORY))
        return super().forward(input)


class LargeField(nn.Sequential):
    """Head of DeepLab v1: one dilated convolution with a large field of view, and two of 1x1.

    [Reading] The layers start as PyTorch's own; dropout is of single values.

    Args:
        in_channels: Channels of the features.
        num_labels: Labels L with the background.
        output_stride: Of the features; the dilation is 12 at stride 8, halved at 16.
    """

    def __init__(self, in_channels: int, num_labels: int, *, output_stride: int = STRIDE) -> None:
        dilation = dilation_at(FIELD_DILATION, output_stride)
        width = FIELD_CHANNELS
        super().__init__(
            nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation, bias=False),
            RunningNorm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
            RunningNorm(width),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(width, num_labels, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Score the pixels of ``(B, D, h, w)`` features: ``(B, L, h, w)``.

        Raises:
            ValueError: In training, if the batch holds a single pixel: nothing to normalise by.
        """
        batch, _, height, width = features.shape
        if self.training and batch * height * width == 1:
            raise ValueError(
                "features must hold at least 2 pixels in training, for batch normalisation, got 1:"
                " give more photos or larger ones"
            )
        scores: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return scores


class AtrousPyramid(nn.Module):
    """Head of DeepLab v2: the sum of four parallel 3x3 convolutions to the labels.

    It is the form that the paper has on ResNet-101. Weights start as N(0, 0.01), biases at zero.

    Args:
        in_channels: Channels of the features.
        num_labels: Labels L with the background.
        output_stride: Of the features; dilations are 6, 12, 18, 24 at stride 8, halved at 16.
    """

    def __init__(self, in_channels: int, num_labels: int, *, output_stride: int = STRIDE) -> None:
        super().__init__()
        rates = [dilation_at(rate, output_stride) for rate in PYRAMID_DILATIONS]
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, num_labels, 3, padding=rate, dilation=rate) for rate in rates
        )
        for branch in self.branches.children():
            nn.init.normal_(branch.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(branch.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Score the pixels of ``(B, D, h, w)`` features: ``(B, L, h, w)``."""
        first, *others = (branch(features) for branch in self.branches)
        scores: Tensor = sum(others, first)
        return scores


HEADS: dict[str, Callable[..., nn.Module]] = {"deeplabv1": LargeField, "deeplabv2": AtrousPyramid}
"""Heads by the name of their network."""


class DeepLab(nn.Module):
    """A head on the last feature map of a trunk whose batch normalisation is frozen.

    Args:
        backbone: As for :class:`dscnet.models.cam.PlainCam`; it also has ``output_stride``,
            ``mean`` and ``std``, and keeps its batch normalisation in evaluation.
        head: Maps the last features ``(B, D, h, w)`` to scores ``(B, L, h, w)``.

    Attributes:
        mean: Mean of the photos that the trunk was trained on, RGB in [0, 1].
        std: Their standard deviation.
        output_stride: Pixels of the photo per pixel of the trunk's last map, along one side.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        trunk: Any = backbone
        self.backbone: Any = trunk
        self.head = head.to(memory_format=torch.channels_last)
        self.mean: Colour = trunk.mean
        self.std: Colour = trunk.std
        self.output_stride: int = trunk.output_stride

    def net(self, image: Tensor) -> Tensor:
        """Scores ``(B, L, H, W)`` of photos whose sides are multiples of the output stride."""
        *_, features = self.backbone(image)
        size = (image.shape[-2], image.shape[-1])
        return functional.interpolate(
            self.head(features), size, mode="bilinear", align_corners=True
        )

    def forward(self, image: Tensor, tags: Tensor | None = None) -> ModelOutput:
        """Score the pixels of photos of any size.

        Sides are padded to multiples of the output stride, and the scores cut to the photo.

        Args:
            image: Photos normalised by ``mean`` and ``std``, ``(B, 3, H, W)``.
            tags: Not read; CAM networks take them.

        Returns:
            The output with ``seg_logits`` ``(B, L, H, W)``.

        Raises:
            ValueError: As the head: that of DeepLab v1 refuses to train on a single pixel.
        """
        return ModelOutput(seg_logits=scores_at_any_size(self.net, image, self.output_stride))


def create_deeplab(name: str, backbone: nn.Module, num_labels: int) -> DeepLab:
    """Put the head of a DeepLab on a trunk.

    Args:
        name: ``deeplabv1`` (on ResNet38 in the papers) or ``deeplabv2`` (on ResNet-101).
        backbone: As for :class:`DeepLab`, e.g. of ``dscnet.models.backbones.create_backbone``.
        num_labels: Labels L with the background, >= 2.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: If ``name`` is unknown or ``num_labels`` below 2.
    """
    if name not in HEADS:
        raise ValueError(f"name must be one of {', '.join(HEADS)}, got {name!r}")
    if num_labels < 2:
        raise ValueError(f"num_labels must be at least 2, got {num_labels}")
    trunk: Any = backbone
    head = HEADS[name](trunk.channels[-1], num_labels, output_stride=trunk.output_stride)
    return DeepLab(backbone, head)


def dilation_at(rate: int, output_stride: int) -> int:
    """A dilation made for stride 8 at another stride, so that it spans as much of the photo.

    Example:
        >>> dilation_at(12, 8), dilation_at(12, 16), dilation_at(6, 64)
        (12, 6, 1)
    """
    return max(1, rate * STRIDE // output_stride)
