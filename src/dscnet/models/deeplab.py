"""DeepLab v1 and v2, the segmentation networks of the published tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dscnet.models.backbones import Colour, scores_at_any_size
from dscnet.types import ModelOutput

STRIDE = 8
"""Output stride of the published dilations."""

FIELD_DILATION = 12
"""Dilation of DeepLab v1's large field of view (Chen et al., ICLR 2015)."""

FIELD_CHANNELS = 512

PYRAMID_DILATIONS = (6, 12, 18, 24)
"""Dilations of DeepLab v2's atrous spatial pyramid pooling (Chen et al., TPAMI 2018)."""

MOMENTUM = 3e-4
"""Momentum of the running statistics of the published head."""

MEMORY = 6
"""Number of training steps over the window of the running statistics: 20,000 to 1 / 3e-4."""


class RunningNorm(nn.BatchNorm2d):
    """Batch normalisation with running statistics that adapt to the length of the training.

    Deviation: the momentum is ``max(3e-4, 6 / (n + 6))`` after n batches, not 3e-4 throughout. It
    reaches the published value at the published 20,000 steps; in a short training the running
    statistics would otherwise stay near their initial values, 0 and 1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, C, h, w)``."""
        if self.training and self.num_batches_tracked is not None:
            self.momentum = max(MOMENTUM, MEMORY / (int(self.num_batches_tracked) + MEMORY))
        return super().forward(input)


class LargeField(nn.Sequential):
    """Head of DeepLab v1: a dilated 3x3 convolution (LargeFOV) and two 1x1 convolutions.

    [Reading] PyTorch's default initialisation; element-wise dropout.

    Args:
        in_channels: Channels of the features.
        num_labels: Labels L, background included.
        output_stride: Of the features; the dilation is 12 at stride 8, 6 at 16.
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
            ValueError: In training, if the batch has a single pixel, too few for batch
                normalisation.
        """
        batch, _, height, width = features.shape
        if self.training and batch * height * width == 1:
            raise ValueError(
                "features must have at least 2 pixels in training, for batch normalisation, got 1:"
                " use more or larger photos"
            )
        scores: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return scores


class AtrousPyramid(nn.Module):
    """Head of DeepLab v2 (ASPP): the sum of four parallel dilated 3x3 convolutions.

    The form used on ResNet-101. Weights are initialised from N(0, 0.01), biases at zero.

    Args:
        in_channels: Channels of the features.
        num_labels: Labels L, background included.
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
"""Heads by network name."""


class DeepLab(nn.Module):
    """A head on the last feature map of a backbone with frozen batch normalisation.

    Args:
        backbone: As for :class:`dscnet.models.cam.PlainCam`; it also has ``output_stride``,
            ``mean`` and ``std``, and keeps its batch normalisation in evaluation mode.
        head: Maps the last features ``(B, D, h, w)`` to scores ``(B, L, h, w)``.

    Attributes:
        mean: Channel means of the backbone's training photos, RGB in [0, 1].
        std: Their standard deviations.
        output_stride: Stride of the backbone's last feature map.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        pretrained: Any = backbone
        self.backbone: Any = pretrained
        self.head = head.to(memory_format=torch.channels_last)
        self.mean: Colour = pretrained.mean
        self.std: Colour = pretrained.std
        self.output_stride: int = pretrained.output_stride

    def net(self, image: Tensor) -> Tensor:
        """Scores ``(B, L, H, W)`` of photos whose sides are multiples of the output stride."""
        *_, features = self.backbone(image)
        size = (image.shape[-2], image.shape[-1])
        return functional.interpolate(
            self.head(features), size, mode="bilinear", align_corners=True
        )

    def forward(self, image: Tensor, tags: Tensor | None = None) -> ModelOutput:
        """Score the pixels of photos of any size: padded to multiples of the output stride.

        Args:
            image: As for :class:`dscnet.models.segmenter.Segmenter`, and so is ``tags``.
            tags: Not used.

        Returns:
            The output with ``seg_logits`` ``(B, L, H, W)``.

        Raises:
            ValueError: As for the head: DeepLab v1 cannot train on a single pixel.
        """
        return ModelOutput(seg_logits=scores_at_any_size(self.net, image, self.output_stride))


def create_deeplab(name: str, backbone: nn.Module, num_labels: int) -> DeepLab:
    """Create a DeepLab on a backbone.

    Args:
        name: ``deeplabv1`` (on ResNet38 in the papers) or ``deeplabv2`` (on ResNet-101).
        backbone: As for :class:`DeepLab`, e.g. of ``dscnet.models.backbones.create_backbone``.
        num_labels: Labels L, background included, >= 2.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: If ``name`` is unknown or ``num_labels`` below 2.
    """
    if name not in HEADS:
        raise ValueError(f"name must be one of {', '.join(HEADS)}, got {name!r}")
    if num_labels < 2:
        raise ValueError(f"num_labels must be at least 2, got {num_labels}")
    pretrained: Any = backbone
    stride = pretrained.output_stride
    head = HEADS[name](pretrained.channels[-1], num_labels, output_stride=stride)
    return DeepLab(backbone, head)


def dilation_at(rate: int, output_stride: int) -> int:
    """Scale a dilation for stride 8 to another stride, keeping its extent in the photo.

    Example:
        >>> dilation_at(12, 8), dilation_at(12, 16), dilation_at(6, 64)
        (12, 6, 1)
    """
    return max(1, rate * STRIDE // output_stride)
