"""DeepLabV3+, trained on pseudo labels in the last stage."""

from __future__ import annotations

from copy import deepcopy

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from dscnet.models.backbones import (
    Colour,
    feature_net,
    freeze_backbone,
    freeze_batch_norm,
    normalisation,
    scores_at_any_size,
)
from dscnet.models.convolutions import use_fast_convolutions
from dscnet.models.inference import fused
from dscnet.models.photo_sizes import least_multiple, refuse_one_size
from dscnet.models.resnet38 import NAME as RESNET38
from dscnet.models.weights import load_pretrained
from dscnet.types import DscnetError, ModelOutput

ATROUS_RATES = {8: (12, 24, 36), 16: (6, 12, 18)}
"""ASPP dilations of DeepLabV3+ by output stride (Chen et al., ECCV 2018)."""


class Segmenter(nn.Module):
    """DeepLabV3+ on a backbone with frozen batch normalisation; that of the decoder is trained.

    Args:
        net: DeepLabV3+ with a timm backbone as ``encoder.model``.
        mean: Channel means of the backbone's training photos, RGB in [0, 1].
        std: Their standard deviations.
        frozen_stages: As for ``dscnet.models.backbones.freeze_backbone``.
        multiple: As for ``dscnet.models.backbones.Backbone``; None = the output stride.

    Attributes:
        mean: As given.
        std: As given.
        output_stride: Stride of the backbone's last feature map.
    """

    def __init__(
        self,
        net: smp.DeepLabV3Plus,
        *,
        mean: Colour,
        std: Colour,
        frozen_stages: int = 0,
        multiple: int | None = None,
    ) -> None:
        super().__init__()
        use_fast_convolutions(net.encoder.model)
        use_fast_convolutions(net.decoder, fold=False)
        self.net = net.to(memory_format=torch.channels_last)
        self.mean, self.std = mean, std
        self.output_stride: int = net.encoder.output_stride
        self.multiple = multiple or self.output_stride
        freeze_backbone(net.encoder.model, frozen_stages)
        self.train(self.training)

    @property
    def backbone(self) -> nn.Module:
        """The pretrained backbone; everything else is newly initialised."""
        encoder: nn.Module = self.net.encoder
        return encoder

    def forward(self, image: Tensor, tags: Tensor | None = None) -> ModelOutput:
        """Score the pixels of photos of any size.

        Photos are padded to multiples of ``multiple``, and the scores cropped.

        Args:
            image: Photos normalised by ``mean`` and ``std``, ``(B, 3, H, W)``.
            tags: Ignored; CAM networks take them.

        Returns:
            The output with ``seg_logits`` ``(B, L, H, W)``.

        Raises:
            ValueError: If the batch has a single photo in training: batch normalisation after the
                decoder's global pooling needs two.
        """
        if self.training and len(image) < 2:
            raise ValueError(f"image must have at least 2 photos in training, got {len(image)}")
        return ModelOutput(seg_logits=scores_at_any_size(self.net, image, self.multiple))

    def train(self, mode: bool = True) -> Segmenter:
        """Set the mode; batch normalisation of the backbone stays in evaluation mode."""
        super().train(mode)
        freeze_batch_norm(self.backbone)
        return self

    def for_inference(self) -> Segmenter:
        """Copy the network, rewritten for inference: the copy cannot be trained or stored."""
        copied = deepcopy(self).eval()
        net = copied.net
        net.encoder.model = fused(net.encoder.model)
        net.decoder, net.segmentation_head = fused(net.decoder), fused(net.segmentation_head)
        return copied


def create_segmenter(
    backbone: str = "tf_efficientnet_lite0",
    num_labels: int = 2,
    *,
    output_stride: int = 16,
    weights: str = "packaged",
    decoder_channels: int = 256,
    frozen_stages: int = 0,
) -> Segmenter:
    """Create a DeepLabV3+ on a pretrained backbone.

    Args:
        backbone: A timm model with maps of stride 4 and of ``output_stride``.
        num_labels: Labels L, background included, >= 2.
        output_stride: Stride of the backbone's last map, 8 or 16.
        weights: As for ``dscnet.models.backbones.create_backbone``.
        decoder_channels: Width of the decoder, >= 1.
        frozen_stages: As for ``dscnet.models.backbones.freeze_backbone``.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: If ``num_labels``, ``output_stride`` or ``frozen_stages`` is out of range.
        DscnetError: If the backbone is unavailable, as for ``create_backbone``, or lacks the maps.
    """
    if num_labels < 2:
        raise ValueError(f"num_labels must be at least 2, got {num_labels}")
    if output_stride not in ATROUS_RATES:
        raise ValueError(f"output_stride must be one of {tuple(ATROUS_RATES)}, got {output_stride}")
    if backbone == RESNET38:
        raise DscnetError(
            f"backbone {backbone!r} does not support DeepLabV3+: its maps all have stride 8; "
            "choose another segmentation network, or a backbone such as tf_efficientnet_lite0"
        )
    try:
        net = smp.DeepLabV3Plus(
            f"tu-{backbone}",
            encoder_weights=None,
            encoder_output_stride=output_stride,
            decoder_channels=decoder_channels,
            decoder_atrous_rates=ATROUS_RATES[output_stride],
            classes=num_labels,
        )
    except (TypeError, AssertionError, ValueError, NotImplementedError, RuntimeError) as error:
        # Raises a more specific error if the name or the stride is the cause.
        feature_net(backbone, output_stride, strides=tuple(ATROUS_RATES))
        raise DscnetError(
            f"backbone {backbone!r} does not support DeepLabV3+, which needs maps of strides 4 to "
            "32; choose a convolutional backbone such as tf_efficientnet_lite0 or resnet50"
        ) from error
    multiple = least_multiple(backbone, output_stride, (("output_stride", output_stride),))
    if not multiple:
        raise refuse_one_size(backbone)
    load_pretrained(net.encoder.model, backbone, weights)
    mean, std = normalisation(backbone, weights)
    return Segmenter(
        net,
        mean=mean,
        std=std,
        frozen_stages=frozen_stages,
        multiple=max(multiple, output_stride),
    )
