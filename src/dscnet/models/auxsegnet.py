"""AuxSegNet: joint classification, segmentation and saliency (Xu et al., ICCV 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dscnet.context import normalise_cam
from dscnet.models.cam import PlainCam
from dscnet.models.cross_task import CrossTaskAffinity, NonLocal
from dscnet.numerics import at_least_float32
from dscnet.types import ModelOutput


class TaskBranch(nn.Module):
    """Head of a dense task: scores and pixel affinities from the backbone's features.

    [Reading] The 3x3 convolutions have He initialisation (ICCV 2015).

    Args:
        in_channels: Channels of the features.
        out_channels: Output channels of the task.
        channels: Hidden channels.
        dilations: Of the three 3x3 convolutions.
        norm: Whether batch normalisation follows each of them; not in the published branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int,
        dilations: Sequence[int],
        norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = (in_channels, channels, channels)
        first, second, third = (
            [_conv(size, channels, dilation), *([nn.BatchNorm2d(channels)] if norm else [])]
            for size, dilation in zip(sizes, dilations, strict=True)
        )
        self.before = nn.Sequential(*first, nn.ReLU(), *second)
        self.non_local = NonLocal(channels)
        self.after = nn.Sequential(*third, nn.ReLU())
        self.classifier = nn.Conv2d(channels, out_channels, 1, bias=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score the pixels of ``(B, D, h, w)`` features.

        Returns:
            Scores ``(B, out_channels, h, w)``; queries and keys of the affinity, ``(B, N, E)``.
        """
        mixed, query, key = self.non_local(self.before(features).relu())
        return self.classifier(self.after(mixed)), query, key


class AuxSegNet(PlainCam):
    """A CAM with a segmentation and a saliency branch on one backbone.

    The cross-task affinity of the two branches refines both, and at inference also the CAM (after a
    fusing context, if any). Segmentation needs no tags.

    Deviation: tag scores are the mean of the upsampled CAM unless ``grid_pooling`` is set, and the
    CAM has an unsupervised background channel, as in all CAM models here.

    Args:
        backbone: As for :class:`PlainCam`.
        num_classes: Foreground classes C, >= 1.
        branch_channels: Channels of the two branches.
        dilations: Of their three 3x3 convolutions (published: 6, 12 and 18 at stride 8); None =
            the published ones at the backbone's stride, :func:`dilations_at`.
        branch_norm: Whether batch normalisation follows each of these.
        rows: As for :class:`CrossTaskAffinity`.
        published_row_quirk: As for :class:`CrossTaskAffinity`.
        grid_pooling: Average the CAM over the feature grid for tag scores, as published.
        **shared: As for :class:`PlainCam`; ``smooth`` and ``class_similarity`` are applied before
            the cross-task affinity.
    """

    slow_modules = ("cross_task",)
    """New modules that use the backbone's learning rate, as published."""

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        branch_channels: int = 128,
        dilations: Sequence[int] | None = (6, 12, 18),
        branch_norm: bool = False,
        rows: int = 512,
        published_row_quirk: bool = False,
        grid_pooling: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **shared)
        if not dilations:
            dilations = dilations_at(self.backbone.output_stride)
        self.segmentation, self.saliency = (
            TaskBranch(
                self.channels[2],
                maps,
                channels=branch_channels,
                dilations=dilations,
                norm=branch_norm,
            )
            for maps in (num_classes + 1, 1)
        )
        self.grid_pooling = grid_pooling
        self.cross_task = CrossTaskAffinity(rows=rows, published_row_quirk=published_row_quirk)

    def one_view(
        self, image: Tensor, tags: Tensor | None = None, *, maps_only: bool = False
    ) -> ModelOutput:
        """Run a single forward pass; arguments as for :class:`PlainCam`.

        Returns:
            The output with ``features``, ``cam_logits``, the scores of both branches at image size
            unless ``maps_only``, at inference ``cam_refined``, and with ``grid_pooling``
            ``tag_logits`` and ``plain_tag_logits``.
        """
        output = super().one_view(image, tags, maps_only=maps_only)
        assert output.features is not None and output.cam_logits is not None
        if self.grid_pooling:
            output.tag_logits = _grid_mean(output.final_logits)
            output.plain_tag_logits = _grid_mean(output.cam_logits)
        cam = None if self.training else _cam_to_refine(output)
        initial, refined, spread_cam = self._branches(output.features, cam)
        output.cam_refined = spread_cam
        if maps_only:  # scores of all labels at image size would exhaust memory
            return output
        size = (image.shape[-2], image.shape[-1])
        output.seg_initial, output.saliency_initial = (_enlarge(maps, size) for maps in initial)
        output.seg_logits, output.saliency_logits = (_enlarge(maps, size) for maps in refined)
        return output

    def dense_scores(self, image: Tensor, *, averaged: bool = False) -> tuple[Tensor, Tensor]:
        """Scores of the two branches for photos ``(B, 3, H, W)``, refined by A.

        Args:
            image: The photos.
            averaged: Average the segmentation scores before and after the affinity, which are
                trained alike, instead of using those after it.

        Returns:
            Label scores ``(B, L, H, W)`` and saliency probabilities ``(B, 1, H, W)``; the sigmoid
            is applied before upsampling, as published.
        """
        *_, features = self.backbone(image)
        (initial, _), (segmentation, saliency), _ = self._branches(features, None)
        if averaged:
            segmentation = (initial + segmentation) / 2
        size = (image.shape[-2], image.shape[-1])
        return _enlarge(segmentation, size), _enlarge(saliency.sigmoid(), size)

    def _branches(
        self, features: Tensor, cam: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor | None]:
        """Segmentation and saliency scores before and after A, and the CAM after it."""
        segmentation, seg_query, seg_key = self.segmentation(features)
        saliency, sal_query, sal_key = self.saliency(features)
        maps = [segmentation, saliency] if cam is None else [segmentation, saliency, cam]
        queries, keys = torch.stack([seg_query, sal_query], 1), torch.stack([seg_key, sal_key], 1)
        spread = self.cross_task(queries, keys, torch.cat(maps, 1))
        seg_refined, sal_refined, *rest = spread.split([part.shape[1] for part in maps], dim=1)
        return (segmentation, saliency), (seg_refined, sal_refined), rest[0] if rest else None


class SegmentationPath(nn.Module):
    """The segmentation path of an AuxSegNet, from photos to scores: no tags, no CAM.

    Args:
        network: The trained network.
        averaged: As for :meth:`AuxSegNet.dense_scores`.

    Attributes:
        output_stride: Stride of the backbone's last feature map.
    """

    def __init__(self, network: AuxSegNet, *, averaged: bool = False) -> None:
        super().__init__()
        self.network, self.averaged = network, averaged
        self.output_stride: int = network.backbone.output_stride

    def net(self, image: Tensor) -> Tensor:
        """Scores ``(B, L, H, W)`` of photos ``(B, 3, H, W)``."""
        return self.network.dense_scores(image, averaged=self.averaged)[0]

    def forward(self, image: Tensor, tags: Tensor | None = None) -> ModelOutput:
        """Score the pixels of photos of any size, ``(B, 3, H, W)``; ``tags`` are ignored."""
        return ModelOutput(seg_logits=self.net(image))


def dilations_at(output_stride: int) -> tuple[int, int, int]:
    """The published dilations (for stride 8) scaled to another stride, at least 1 each.

    Example:
        >>> dilations_at(16)
        (3, 6, 9)
    """
    first, second, third = (max(1, rate * 8 // output_stride) for rate in (6, 12, 18))
    return first, second, third


def _conv(in_channels: int, out_channels: int, dilation: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
    # PyTorch's default has a sixth of this variance: after three such layers in a row the map would
    # be nearly constant and the affinity nearly uniform.
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _cam_to_refine(output: ModelOutput) -> Tensor:
    """The CAM in [0, 1]: as refined by the context, else divided by its maxima."""
    if output.cam_refined is not None:
        return output.cam_refined
    logits = output.final_logits
    return normalise_cam(logits, torch.ones_like(logits[:, 1:, 0, 0]), bg_score=0.0)


def _grid_mean(cam_logits: Tensor) -> Tensor:
    """Mean of the foreground CAM over the feature grid, ``(B, C)``, at least float32."""
    foreground = cam_logits[:, 1:]
    return at_least_float32(foreground).mean((2, 3))


def _enlarge(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(scores, size, mode="bilinear", align_corners=False)
