"""ResNet38d, the backbone of SEAM, AffinityNet and AuxSegNet: wide, pre-activation, stride 8."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dscnet.models.mxnet_params import read_mxnet_params, resnet38_state
from dscnet.models.weights import FILE_ENDINGS, load_weights, match_weights, read_weights
from dscnet.types import DscnetError

logger = logging.getLogger(__name__)

NAME = "resnet38"
"""Name of the backbone in settings."""

STAGES = ("conv1a", "b2", "b3", "b4", "b5", "b6", "b7")
"""Stages counted by ``frozen_stages``; a stage is all blocks whose names start with its name."""

_STEM = 64


class _Stage(NamedTuple):
    blocks: int
    middle: int
    out: int
    stride: int
    first_dilation: int  # of the first convolution of the first block
    dilation: int


class _Bottleneck(NamedTuple):
    first: int
    middle: int
    out: int
    dilation: int
    dropout: float


_PLAIN = {
    "b2": _Stage(3, 128, 128, 2, 1, 1),
    "b3": _Stage(3, 256, 256, 2, 1, 1),
    "b4": _Stage(6, 512, 512, 2, 1, 1),
    "b5": _Stage(3, 512, 1024, 1, 1, 2),
}
_BOTTLENECKS = {
    "b6": _Bottleneck(512, 1024, 2048, 4, 0.3),
    "b7": _Bottleneck(1024, 2048, 4096, 4, 0.5),
}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after batch normalisation and ReLU.

    Args:
        in_channels: Input channels.
        middle: Channels between the convolutions.
        out: Output channels.
        stride: Of the first convolution.
        dilations: Of the two convolutions.
    """

    def __init__(
        self, in_channels: int, middle: int, out: int, *, stride: int, dilations: tuple[int, int]
    ) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(in_channels)
        self.conv_branch2a = _conv(in_channels, middle, 3, stride, dilations[0])
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = _conv(middle, out, 3, 1, dilations[1])
        same = in_channels == out and stride == 1
        self.conv_branch1 = None if same else _conv(in_channels, out, 1, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of branch and shortcut, and the rectified input of both."""
        entering = self.bn_branch2a(x).relu_()
        branch = self.bn_branch2b1(self.conv_branch2a(entering)).relu_()
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(entering)
        return shortcut + self.conv_branch2b1(branch), entering


class BottleneckBlock(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1, the last two after channel dropout; a 1x1 shortcut.

    Args:
        in_channels: Input channels.
        first: Output channels of the first convolution.
        middle: Output channels of the second.
        out: Output channels.
        dilation: Of the 3x3 convolution.
        dropout: Probability of dropping a channel.
    """

    def __init__(
        self, in_channels: int, first: int, middle: int, out: int, *, dilation: int, dropout: float
    ) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(in_channels)
        self.conv_branch2a = _conv(in_channels, first, 1)
        self.bn_branch2b1 = nn.BatchNorm2d(first)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = _conv(first, middle, 3, 1, dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(middle)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = _conv(middle, out, 1)
        self.conv_branch1 = _conv(in_channels, out, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of branch and shortcut, and the rectified input of both."""
        entering = self.bn_branch2a(x).relu_()
        branch = self.dropout_2b1(self.bn_branch2b1(self.conv_branch2a(entering)).relu_())
        branch = self.dropout_2b2(self.bn_branch2b2(self.conv_branch2b1(branch)).relu_())
        return self.conv_branch1(entering) + self.conv_branch2b2(branch), entering


class ResNet38(nn.Module):
    """Network A1 of Wu et al. ("Wider or Deeper"), as implemented in SEAM's code.

    Same interface as ``Backbone``. Layers have the names of the published state dict (``conv1a``,
    ``b2``, ``b2_1`` ... ``b7``, ``bn7``). Batch normalisation always uses its running statistics,
    and its affine parameters get no gradient.

    Args:
        width: Channel multiplier, > 0.
        frozen_stages: How many of ``STAGES`` are frozen: 1 = ``conv1a``, as in AuxSegNet;
            2 = ``conv1a``, ``b2``, ``b2_1`` and ``b2_2``, as in SEAM and AffinityNet.

    Attributes:
        channels: Channels of conv4, conv5 and conv6; 512, 1024 and 4096 at width 1.
        output_stride: 8, of all three maps; sizes are rounded up.
        name: ``resnet38``.
        mean: Channel means of the training photos, RGB in [0, 1].
        std: Their standard deviations.

    Raises:
        ValueError: If ``width`` is not positive or ``frozen_stages`` is out of range.
    """

    output_stride = 8
    name = NAME
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, *, width: float = 1.0, frozen_stages: int = 2) -> None:
        super().__init__()
        if width <= 0:
            raise ValueError(f"width must be positive, got {width}")
        if not 0 <= frozen_stages <= len(STAGES):
            raise ValueError(f"frozen_stages must be in 0..{len(STAGES)}, got {frozen_stages}")

        def scaled(channels: int) -> int:
            return max(1, round(channels * width))

        channels = scaled(_STEM)
        self.conv1a = _conv(3, channels, 3)
        blocks: dict[str, nn.Module] = {}
        entering: dict[str, int] = {}
        for stage, (count, middle, out, stride, first_dilation, dilation) in _PLAIN.items():
            entering[stage] = channels
            for index in range(count):
                blocks[f"{stage}_{index}" if index else stage] = ResidualBlock(
                    channels,
                    scaled(middle),
                    scaled(out),
                    stride=1 if index else stride,
                    dilations=(dilation if index else first_dilation, dilation),
                )
                channels = scaled(out)
        for stage, (first, middle, out, dilation, dropout) in _BOTTLENECKS.items():
            entering[stage] = channels
            blocks[stage] = BottleneckBlock(
                channels,
                scaled(first),
                scaled(middle),
                scaled(out),
                dilation=dilation,
                dropout=dropout,
            )
            channels = scaled(out)
        for name, block in blocks.items():
            self.add_module(name, block)
        self._blocks = tuple(blocks)
        self.bn7 = nn.BatchNorm2d(channels)
        self.channels: tuple[int, int, int] = (entering["b5"], entering["b6"], channels)
        self._freeze(frozen_stages)
        self.train(self.training)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the feature maps of photos.

        Args:
            image: Photos normalised by ``mean`` and ``std``, ``(B, 3, H, W)``.

        Returns:
            conv4 and conv5, the rectified inputs of ``b5`` and ``b6``, and conv6, the rectified
            output; ``(B, channels[i], ceil(H / 8), ceil(W / 8))`` each.
        """
        low, mid, high = self._feature_maps(image, ("b5", "b6"))
        return low, mid, high

    def _feature_maps(self, image: Tensor, blocks: tuple[str, ...]) -> list[Tensor]:
        """The rectified inputs of the named blocks, in order, and the rectified output."""
        # Not channels-last like other backbones: in that layout torch 2.15's CPU backward corrupts
        # memory for a 1x1 convolution with stride 2 and four channels, which narrow ones have.
        x = self.conv1a(image.contiguous())
        feature_maps = []
        for block in self._blocks:
            x, entering = getattr(self, block)(x)
            if block in blocks:
                feature_maps.append(entering)
        return [*feature_maps, self.bn7(x).relu_()]

    def train(self, mode: bool = True) -> ResNet38:
        """Set the mode; batch normalisation stays in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def _freeze(self, frozen_stages: int) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        for name, child in self.named_children():
            if name.partition("_")[0] in STAGES[:frozen_stages]:
                child.requires_grad_(False)


def create_resnet38(
    *, output_stride: int = 8, weights: str = "none", frozen_stages: int = 2, width: float = 1.0
) -> ResNet38:
    """Create the backbone and load its weights.

    Args:
        output_stride: 8; no other is supported.
        weights: ``none`` or a file path: MXNet's ``.params`` of the ImageNet network, or a ``.pth``
            or ``.safetensors`` file with the backbone's names. Other tensors, such as SEAM's own
            layers, are reported and not used.
        frozen_stages: As for :class:`ResNet38`.
        width: As for :class:`ResNet38`; for tests.

    Returns:
        The backbone, in training mode.

    Raises:
        ValueError: As for :class:`ResNet38`.
        DscnetError: If another stride is requested, or the weights are unavailable or do not match.
    """
    if output_stride != ResNet38.output_stride:
        raise DscnetError(
            f"backbone {NAME!r} does not support output stride {output_stride}: its maps have "
            f"stride {ResNet38.output_stride}. Choose output_stride={ResNet38.output_stride} or a "
            "backbone that can be dilated, such as tf_efficientnet_lite0 or resnet50"
        )
    backbone = ResNet38(width=width, frozen_stages=frozen_stages)
    if weights != "none":
        report = load_weights(backbone, _read_weights(weights), source=weights)
        logger.info("%s: %s", weights, report)
    return backbone


def resnet38_feature_maps(state_dict: Mapping[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """Feature maps of photos, computed with the tensors of a published state dict.

    Runs in evaluation mode; gradients flow to tensors that require them.

    Args:
        state_dict: Tensors with the published names, of SEAM's, AffinityNet's or AuxSegNet's
            network or of the backbone only. Other names are ignored. The width is taken from
            ``conv1a.weight``.
        image: Normalised photos, ``(B, 3, H, W)``, with the tensors' dtype and device.

    Returns:
        ``conv3``, the rectified input of ``b4`` at stride 4, then ``conv4``, ``conv5`` and
        ``conv6`` as returned by :class:`ResNet38`.

    Raises:
        DscnetError: If a tensor is missing or has another shape.
    """
    stem = state_dict.get("conv1a.weight")
    with torch.device("meta"):
        backbone = ResNet38(width=1.0 if stem is None else len(stem) / _STEM).eval()
    report = match_weights(backbone, state_dict, source="state_dict")
    tensors = {f"backbone.{name}": state_dict[name] for name in report.loaded}
    maps = functional_call(_FeatureMaps(backbone), tensors, (image,))
    return dict(zip(("conv3", "conv4", "conv5", "conv6"), maps, strict=True))


class _FeatureMaps(nn.Module):
    def __init__(self, backbone: ResNet38) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.backbone._feature_maps(image, ("b4", "b5", "b6"))


def _read_weights(weights: str) -> dict[str, Tensor]:
    """Tensors under the backbone's names, from a file in any supported format."""
    path = Path(weights)
    if path.suffix == ".params":
        return resnet38_state(read_mxnet_params(path))
    if path.suffix in FILE_ENDINGS or path.is_file():
        return read_weights(path)
    raise DscnetError(
        f"weights {weights!r}: no package or hub provides weights of backbone {NAME!r}; use the "
        'path of a .params, .pth or .safetensors file, or weights="none"'
    )


def _conv(
    in_channels: int, out_channels: int, size: int, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    padding = dilation * (size // 2)
    return nn.Conv2d(
        in_channels, out_channels, size, stride, padding, dilation=dilation, bias=False
    )
