"""Builds objects from settings; the only module below the pipeline that reads the config."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscnet.config import Config, MethodConfig, OptimiserConfig
from dscnet.context import DualStreamContext
from dscnet.data import EvalTransform, TrainTransform
from dscnet.data.scale import PhotoScale
from dscnet.data.transforms import check_scale_range
from dscnet.distributed.trainer import ranks_of_trainer
from dscnet.labels.cam import resize_photos
from dscnet.models import PlainCam, create_model
from dscnet.models.affinitynet import AffinityNet
from dscnet.models.backbones import create_backbone
from dscnet.models.cam import FEATURE_MAPS
from dscnet.models.deeplab import HEADS, DeepLab, create_deeplab
from dscnet.models.irn import BoundaryNet
from dscnet.models.resnet38 import NAME as RESNET38
from dscnet.models.segmenter import Segmenter, create_segmenter
from dscnet.models.weights import names_file, tagged_name
from dscnet.objective import CamObjective, ContrastObjective
from dscnet.types import BACKGROUND, IGNORE_INDEX

DROPOUT = 0.5
"""SEAM's channel dropout before the classifier, in Eq. (1) and Eq. (11)."""

GROUP_BY = "middle"
"""Feature map that pixels are grouped by: purest groups on MSRC (docs/method.md)."""

WALK_STRIDE = 8
"""Stride of the random walk (AffinityNet)."""


def build_context(method: MethodConfig, channels: int, num_labels: int) -> DualStreamContext | None:
    """DSCNet's streams for the variant; None for the baseline."""
    if method.variant == "baseline":
        return None
    return DualStreamContext(
        channels,
        num_labels,
        semantic=method.sgcl,
        fuse=method.dscl,
        head=method.head,
        starts=method.kmeans_init,
        num_groups=method.num_groups,
        temperature=method.temperature,
        dropout=DROPOUT,
        pool_sharpness=method.pool_sharpness,
    )


def build_scale(config: Config) -> PhotoScale:
    """Photo sizes at inference.

    Raises:
        ValueError: If a setting of ``scale`` is invalid.
    """
    scale, stride = config.scale, config.model.output_stride
    if config.side is not None and 0 < config.side < stride:
        raise ValueError(
            f"scale.side must be at least model.output_stride, {stride}, got {config.side}"
        )
    try:
        return PhotoScale(config.side, scale.work_side, scale.tiles, scale.tile_overlap)
    except ValueError as error:
        raise ValueError(f"scale.{error}") from error


def build_model(config: Config, num_classes: int, *, pretrained: bool = True) -> PlainCam:
    """The CAM network; ``pretrained=False`` if weights are loaded afterwards."""
    model = config.model
    backbone = create_backbone(
        model.backbone,
        output_stride=model.output_stride,
        weights=model.weights if pretrained else "none",
        frozen_stages=model.frozen_stages,
    )
    method = config.method
    options: dict[str, Any] = {
        "dropout": DROPOUT,
        "group_by": GROUP_BY,
        "smooth": method.smooth,
        # Without PGCL the embeddings are untrained.
        "class_similarity": method.class_similarity if method.pgcl else 0.0,
        **config.baseline.options(config),
    }
    network = cast(PlainCam, create_model(model.name, backbone, num_classes, **options))
    with torch.no_grad():
        network.classifier.weight.mul_(model.classifier_gain)
    # Last, so that all variants of a seed share the same baseline initialisation.
    network.context = build_context(method, backbone.channels[-1], num_classes + 1)
    return network


def build_objective(method: MethodConfig, num_labels: int) -> CamObjective:
    """The objective, Eq. (13), for the variant."""
    if method.variant == "baseline":
        return CamObjective()
    contrast = ContrastObjective(
        num_labels,
        pgcl=method.pgcl,
        sgcl=method.sgcl,
        contrast=method.contrast,
        pgcl_weight=method.pgcl_weight,
        sgcl_weight=method.sgcl_weight,
        temperature=method.temperature,
        bg_score=method.bg_score,
        group_margin=method.group_margin,
        warmup=method.warmup,
    )
    return CamObjective(contrast, plain_weight=method.plain_weight, pool_ramp=method.pool_ramp)


def build_features(
    config: Config, model: PlainCam, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Tensor], Tensor]:
    """Feature extractor for the random walk, from uint8 photos ``(B, 3, H, W)``.

    The features by which DSCNet groups pixels, of photos at scale 1, upsampled so that the stride
    is that of the published walks.
    """
    transform, scale = build_eval_transform(mean, std), build_scale(config)
    enlarge = max(1.0, model.backbone.output_stride / WALK_STRIDE)
    index = FEATURE_MAPS.index(GROUP_BY)

    @torch.inference_mode()
    def features(photos: Tensor) -> Tensor:
        images = torch.stack([transform(photo.cpu(), None)[0] for photo in photos])
        size = scale.view_size((photos.shape[-2], photos.shape[-1]), 1.0)
        images = resize_photos(images.to(photos.device), size)
        if enlarge > 1:
            images = F.interpolate(images, scale_factor=enlarge, mode="bicubic")
        maps: tuple[Tensor, ...] = model.backbone(images)
        return maps[index]

    return features


def build_affinity_net(config: Config, *, pretrained: bool = True) -> AffinityNet:
    """AffinityNet on the CAM network's backbone, at its own stride."""
    return AffinityNet(_backbone(config, config.affinity.output_stride, pretrained))


def build_boundary_net(config: Config, *, pretrained: bool = True) -> BoundaryNet:
    """IRNet's boundary branch on the CAM network's backbone."""
    return BoundaryNet(_backbone(config, config.model.output_stride, pretrained))


def _backbone(config: Config, output_stride: int, pretrained: bool) -> nn.Module:
    return create_backbone(
        config.model.backbone,
        output_stride=output_stride,
        weights=config.model.weights if pretrained else "none",
        frozen_stages=config.model.frozen_stages,
    )


def build_segmenter(
    config: Config, num_labels: int, *, pretrained: bool = True
) -> Segmenter | DeepLab:
    """The segmentation network, on its own backbone or one like the CAM network's."""
    model, segment = config.model, config.segment
    backbone = segment.backbone or model.backbone
    options: dict[str, Any] = {
        "output_stride": segment.output_stride or model.output_stride,
        "weights": (segment.weights or model.weights) if pretrained else "none",
        "frozen_stages": segment.frozen_stages,
    }
    # DeepLabV3+ needs a timm backbone.
    network = "deeplabv1" if (segment.network, backbone) == ("auto", RESNET38) else segment.network
    if network in HEADS:
        return create_deeplab(network, create_backbone(backbone, **options), num_labels)
    return create_segmenter(
        backbone, num_labels, decoder_channels=segment.decoder_channels, **options
    )


def build_segmenter_transform(
    config: Config, mean: tuple[float, ...], std: tuple[float, ...]
) -> TrainTransform:
    """Augmentation for the segmentation network: ``augment`` with the overrides of ``segment``."""
    segment = config.segment
    own: dict[str, Any] = {"crop_size": segment.crop_size, "jitter": segment.jitter}
    augment = replace(config.augment, **{k: v for k, v in own.items() if v is not None})
    config = replace(config, augment=augment)
    return build_train_transform(config, mean, std, scale_range=segment.scale_range)


def build_affinity_transform(
    config: Config, mean: tuple[float, ...], std: tuple[float, ...]
) -> TrainTransform:
    """Augmentation for AffinityNet: ``augment`` except for the scale."""
    return build_train_transform(config, mean, std, scale_range=config.affinity.scale_range)


def build_train_transform(
    config: Config,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    scale_range: list[float] | None = None,
) -> TrainTransform:
    """Augmentation of training photos; ``scale_range`` replaces ``long_side``.

    It is relative to scale 1 at inference. With tiles, photos are enlarged by that factor.
    """
    augment, side, tiles = config.augment, config.side, config.scale.tiles
    low, high = augment.long_side
    if scale_range is not None and side is not None:
        low, high = (max(1, round(side * one)) for one in check_scale_range(scale_range))
    of_photo = scale_range is not None and side is None
    return TrainTransform(
        augment.crop_size,
        long_side=None if of_photo else (low * tiles, high * tiles),
        scale_range=scale_range if of_photo else None,
        jitter=tuple(augment.jitter),
        mask_fill=BACKGROUND if augment.published_padding_quirk else IGNORE_INDEX,
        mean=mean,
        std=std,
    )


def build_eval_transform(mean: tuple[float, ...], std: tuple[float, ...]) -> EvalTransform:
    """Normalisation only; photos keep their size."""
    return EvalTransform(mean=mean, std=std)


def optimiser_settings(train: OptimiserConfig) -> dict[str, Any]:
    """Arguments of ``TrainingModule``; resolves the published quirks of SGD."""
    quirk = train.published_momentum_quirk or train.published_positional_quirk
    settings = {
        "optimizer": train.optimizer,
        "lr": train.lr,
        "new_lr_factor": train.new_lr_factor,
        "bias_lr_factor": train.bias_lr_factor,
        "weight_decay": 0.0 if train.published_positional_quirk else train.weight_decay,
        "lr_warmup": train.lr_warmup,
    }
    return settings | ({"momentum": train.weight_decay} if quirk else {})


def inference_settings(config: Config) -> dict[str, Any]:
    """Inference arguments of ``Predictor``."""
    segment = config.segment
    return {
        "scale": build_scale(config),
        "scales": tuple(segment.test_scales),
        "flip": segment.flip_test,
        "crf": segment.crf,
        "device": device_of(segment.accelerator),
    }


def device_of(accelerator: str) -> torch.device:
    """The inference device, chosen as Lightning would for training."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def check_hardware(name: str, settings: OptimiserConfig) -> None:
    """Reject an unavailable accelerator or an unsupported precision.

    Args:
        name: Section of the settings, for the message.
        settings: The settings, checked by Lightning.

    Raises:
        ValueError: With the section and Lightning's reason.
    """
    # Creating a trainer logs the available hardware every time.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        L.Trainer(
            accelerator=settings.accelerator,
            precision=settings.precision,  # type: ignore[arg-type]
            **ranks_of_trainer(),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except Exception as error:  # Lightning's own errors, and ValueError
        raise ValueError(f"{name}.accelerator or {name}.precision: {error}") from error


def weights_are_here(backbone: str, weights: str) -> bool:
    """Whether pretrained weights are a file, or come with the package.

    Raises:
        DscnetError: If they are neither, and timm offers none of that name.
    """
    if names_file(weights) or backbone == RESNET38:
        return weights != "none"
    tagged_name(backbone, weights)
    return False
