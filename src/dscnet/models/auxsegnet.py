"""AuxSegNet: tags, segmentation and saliency learned together (Xu et al., ICCV 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dscnet.context import normalise_cam
from dscnet.models.cam import PlainCam
from dscnet.models.cross_task import CrossTaskAffinity, NonLocal
from dscnet.types import ModelOutput


class TaskBranch(nn.Module):
    """Scores of a dense task from the trunk's features, and how alike pixels are to it.

    [Reading] The 3x3 convolutions start as for rectifiers (He et al., ICCV 2015).

    Args:
        in_channels: Channels of the features.
        out_channels: Maps of the task.
        channels: Channels in between.
        dilations: Of the three 3x3 convolutions.
        norm: Batch normalisation follows each of them; none does in the published branch.
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
    """A CAM with a segmentation and a saliency branch on one trunk.

    The cross-task affinity of the two branches refines both, and in inference the CAM. With a
    context that fuses, that is the CAM that it refines. Segmentation needs no tags.

    Deviation: the tag scores are the mean of the up-sampled CAM unless ``grid_pooling`` is set, and
    the CAM has a background channel that nothing supervises, as in all CAM models here.

    Args:
        backbone: As for :class:`PlainCam`.
        num_classes: Foreground classes C, >= 1.
        branch_channels: Channels of the two branches.
        dilations: Of their three 3x3 convolutions (published: 6, 12 and 18 at stride 8); None =
            the published ones at the backbone's stride, :func:`dilations_at`.
        branch_norm: Batch normalisation follows each of these.
        rows: As for :class:`CrossTaskAffinity`.
        published_row_quirk: As for :class:`CrossTaskAffinity`.
        grid_pooling: Tag scores are the mean of the CAM over the feature grid, as published.
        context: As for :class:`PlainCam`.
        group_by: As for :class:`PlainCam`.
        smooth: As for :class:`PlainCam`; before the affinity refines the CAM.
        likeness: As for :class:`PlainCam`; before the affinity too.
        dropout: As for :class:`PlainCam`.
    """

    slow_modules = ("cross_task",)
    """New parts that learn at the trunk's rate, as published."""

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
        context: nn.Module | None = None,
        group_by: str = "last",
        smooth: float = 0.0,
        likeness: float = 0.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(
            backbone,
            num_classes,
            context=context,
            group_by=group_by,
            smooth=smooth,
            likeness=likeness,
            dropout=dropout,
        )
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
        """Run the network once; arguments as for :class:`PlainCam`.

        Returns:
            The output with ``features``, ``cam_logits``, the scores of both branches at image size
            unless ``maps_only``, in inference ``cam_refined``, and with ``grid_pooling``
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
        if maps_only:  # all labels at image size are what large photos fail for
            return output
        size = (image.shape[-2], image.shape[-1])
        output.seg_initial, output.saliency_initial = (_enlarge(maps, size) for maps in initial)
        output.seg_logits, output.saliency_logits = (_enlarge(maps, size) for maps in refined)
        return output

    def dense_scores(self, image: Tensor, *, averaged: bool = False) -> tuple[Tensor, Tensor]:
        """What the two branches alone say of photos ``(B, 3, H, W)``, refined by A.

        Args:
            image: The photos.
            averaged: Segmentation is the mean of the scores before and after the affinity, which
                are trained alike, instead of those after it.

        Returns:
            Scores of the labels, ``(B, L, H, W)``, and the probability that a pixel stands out,
            ``(B, 1, H, W)``, made of the scores before they are enlarged, as published.
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
        """Scores of segmentation and saliency before and after A, and the CAM after it."""
        segmentation, seg_query, seg_key = self.segmentation(features)
        saliency, sal_query, sal_key = self.saliency(features)
        maps = [segmentation, saliency] if cam is None else [segmentation, saliency, cam]
        queries, keys = torch.stack([seg_query, sal_query], 1), torch.stack([seg_key, sal_key], 1)
        spread = self.cross_task(queries, keys, torch.cat(maps, 1))
        seg_refined, sal_refined, *rest = spread.split([part.shape[1] for part in maps], dim=1)
        return (segmentation, saliency), (seg_refined, sal_refined), rest[0] if rest else None


class SegmentationPath(nn.Module):
    """The way from photos to segmentation scores through an AuxSegNet: no tags, no CAM.

    Args:
        network: The trained network.
        averaged: As for :meth:`AuxSegNet.dense_scores`.

    Attributes:
        output_stride: Pixels of the photo per pixel of the trunk's last map, along one side.
    """

    def __init__(self, network: AuxSegNet, *, averaged: bool = False) -> None:
        super().__init__()
        self.network, self.averaged = network, averaged
        self.output_stride: int = network.backbone.output_stride

    def net(self, image: Tensor) -> Tensor:
        """Scores ``(B, L, H, W)`` of photos ``(B, 3, H, W)``."""
        return self.network.dense_scores(image, averaged=self.averaged)[0]

    def forward(self, image: Tensor, tags: Tensor | None = None) -> ModelOutput:
        """Score the pixels of photos of any size, ``(B, 3, H, W)``; ``tags`` are not read."""
        return ModelOutput(seg_logits=self.net(image))


def dilations_at(output_stride: int) -> tuple[int, int, int]:
    """The published dilations, made for stride 8, at another stride; at least 1 each.

    Example:
        >>> dilations_at(16)
        (3, 6, 9)
    """
    first, second, third = (max(1, rate * 8 // output_stride) for rate in (6, 12, 18))
    return first, second, third


def _conv(in_channels: int, out_channels: int, dilation: int) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
    # Torch's own start, a sixth of this variance, would leave the third of these layers in a row a
    # nearly constant map, and the affinity of its pixels nearly even.
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _cam_to_refine(output: ModelOutput) -> Tensor:
    """The CAM in [0, 1]: as the context's groups smoothed it, else divided by its maxima."""
    if output.cam_refined is not None:
        return output.cam_refined
    logits = output.final_logits
    return normalise_cam(logits, torch.ones_like(logits[:, 1:, 0, 0]), bg_score=0.0)


def _grid_mean(cam_logits: Tensor) -> Tensor:
    """Mean of the foreground CAM over its own grid, ``(B, C)``, at least float32."""
    foreground = cam_logits[:, 1:]
    return foreground.to(torch.promote_types(foreground.dtype, torch.float32)).mean((2, 3))


def _enlarge(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(scores, size, mode="bilinear", align_corners=False)
