"""From settings to objects: the only place below the pipeline that reads the config."""

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
from dscnet.labels.cam import resize_photos
from dscnet.models import PlainCam, create_model
from dscnet.models.affinitynet import AffinityNet
from dscnet.models.auxsegnet import dilations_at
from dscnet.models.backbones import create_backbone
from dscnet.models.cam import TAPS
from dscnet.models.deeplab import HEADS, DeepLab, create_deeplab
from dscnet.models.irn import BoundaryNet
from dscnet.models.resnet38 import NAME as RESNET38
from dscnet.models.segmenter import Segmenter, create_segmenter
from dscnet.objective import CamObjective, ContrastObjective
from dscnet.types import BACKGROUND, IGNORE_INDEX

DROPOUT = 0.5
"""SEAM's channel dropout before the class-aware convolution; Eq. (1) and Eq. (11) share it."""

GROUP_BY = "middle"
"""Feature map that pixels are grouped by: purest groups on MSRC (docs/method.md)."""

WALK_STRIDE = 8
"""Photo pixels a cell of the random walk (AffinityNet)."""


def build_context(method: MethodConfig, channels: int, num_labels: int) -> DualStreamContext | None:
    """DSCNet's streams as the variant asks for them; None for the baseline."""
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
    """How large the networks see photos at inference.

    Raises:
        ValueError: If a setting of ``scale`` is one that no photo can have.
    """
    scale, stride = config.scale, config.model.output_stride
    if config.side is not None and 0 < config.side < stride:
        raise ValueError(
            f"scale.side must be at least a cell of the network, model.output_stride {stride}, got"
            f" {config.side}"
        )
    try:
        return PhotoScale(config.side, scale.work_side, scale.tiles, scale.tile_overlap)
    except ValueError as error:
        raise ValueError(f"scale.{error}") from error


def build_model(config: Config, num_classes: int, *, pretrained: bool = True) -> PlainCam:
    """The CAM network; ``pretrained=False`` when weights are loaded right after."""
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
        # Without the contrast the embeddings are what they were drawn as.
        "likeness": method.class_similarity if method.pgcl else 0.0,
    }
    if model.name == "seam":
        options["view_scale"] = model.view_scale
    if model.name == "auxsegnet":
        options |= {
            "branch_channels": config.auxseg.branch_channels,
            "dilations": config.auxseg.dilations or dilations_at(model.output_stride),
            "branch_norm": config.auxseg.branch_norm,
            "rows": config.auxseg.affinity_rows,
            "published_row_quirk": config.auxseg.published_row_quirk,
            "grid_pooling": config.auxseg.grid_pooling,
        }
    network = cast(PlainCam, create_model(model.name, backbone, num_classes, **options))
    with torch.no_grad():
        network.classifier.weight.mul_(model.classifier_gain)
    # Last, so that all variants of a seed start from the same baseline.
    network.context = build_context(method, backbone.channels[-1], num_classes + 1)
    return network


def build_objective(method: MethodConfig, num_labels: int) -> CamObjective:
    """Eq. (13) as the variant asks for it."""
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
    """From uint8 photos ``(B, 3, H, W)`` to the features that the random walk compares cells by.

    They are those that DSCNet groups pixels by, of photos at scale 1 enlarged until the trunk's
    stride is that of the published walks.
    """
    transform, scale = build_eval_transform(mean, std), build_scale(config)
    enlarge = max(1.0, model.backbone.output_stride / WALK_STRIDE)
    tap = TAPS.index(GROUP_BY)

    @torch.inference_mode()
    def features(photos: Tensor) -> Tensor:
        images = torch.stack([transform(photo.cpu(), None)[0] for photo in photos])
        size = scale.view_size((photos.shape[-2], photos.shape[-1]), 1.0)
        images = resize_photos(images.to(photos.device), size)
        if enlarge > 1:
            images = F.interpolate(images, scale_factor=enlarge, mode="bicubic")
        maps: tuple[Tensor, ...] = model.backbone(images)
        return maps[tap]

    return features


def build_affinity_net(config: Config, *, pretrained: bool = True) -> AffinityNet:
    """AffinityNet, on the CAM network's backbone at a stride of its own."""
    return AffinityNet(_trunk(config, config.affinity.output_stride, pretrained))


def build_boundary_net(config: Config, *, pretrained: bool = True) -> BoundaryNet:
    """IRNet's boundary branch, on the CAM network's backbone."""
    return BoundaryNet(_trunk(config, config.model.output_stride, pretrained))


def _trunk(config: Config, output_stride: int, pretrained: bool) -> nn.Module:
    return create_backbone(
        config.model.backbone,
        output_stride=output_stride,
        weights=config.model.weights if pretrained else "none",
        frozen_stages=config.model.frozen_stages,
    )


def build_segmenter(
    config: Config, num_labels: int, *, pretrained: bool = True
) -> Segmenter | DeepLab:
    """The segmentation network, on a trunk of its own or one like the CAM network's."""
    model, segment = config.model, config.segment
    backbone = segment.backbone or model.backbone
    trunk: dict[str, Any] = {
        "output_stride": segment.output_stride or model.output_stride,
        "weights": (segment.weights or model.weights) if pretrained else "none",
        "frozen_stages": segment.frozen_stages,
    }
    # DeepLabV3+ is built on timm's trunks, and this is none.
    network = "deeplabv1" if (segment.network, backbone) == ("auto", RESNET38) else segment.network
    if network in HEADS:
        return create_deeplab(network, create_backbone(backbone, **trunk), num_labels)
    return create_segmenter(
        backbone, num_labels, decoder_channels=segment.decoder_channels, **trunk
    )


def build_segmenter_transform(
    config: Config, mean: tuple[float, ...], std: tuple[float, ...]
) -> TrainTransform:
    """Augmentation of the segmentation network's photos: ``augment`` but for what is its own."""
    segment = config.segment
    own: dict[str, Any] = {"crop_size": segment.crop_size, "jitter": segment.jitter}
    augment = replace(config.augment, **{k: v for k, v in own.items() if v is not None})
    config = replace(config, augment=augment)
    return build_train_transform(config, mean, std, scale_range=segment.scale_range)


def build_affinity_transform(
    config: Config, mean: tuple[float, ...], std: tuple[float, ...]
) -> TrainTransform:
    """Augmentation of AffinityNet's photos: ``augment`` but for their scale."""
    return build_train_transform(config, mean, std, scale_range=config.affinity.scale_range)


def build_train_transform(
    config: Config,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    scale_range: list[float] | None = None,
) -> TrainTransform:
    """Augmentation of training photos; a range of scales takes the place of ``long_side``.

    It is relative to what scale 1 is at inference. Tiles are crops of photos that much larger.
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
    """Normalisation alone: photos keep their size."""
    return EvalTransform(mean=mean, std=std)


def optimiser_settings(train: OptimiserConfig) -> dict[str, Any]:
    """Arguments of ``TrainingModule``; the published quirks of SGD are resolved here."""
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
    """Arguments of ``Predictor``: how a segmentation network is tested."""
    segment = config.segment
    return {
        "scale": build_scale(config),
        "scales": tuple(segment.test_scales),
        "flip": segment.flip_test,
        "crf": segment.crf,
        "device": device_of(segment.accelerator),
    }


def device_of(accelerator: str) -> torch.device:
    """The device that inference runs on, as Lightning would choose it for training."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def check_hardware(name: str, settings: OptimiserConfig) -> None:
    """Refuse a processor that is not there, and a precision that it does not have.

    Args:
        name: Section of the settings, for the message.
        settings: Which they are; Lightning judges them.

    Raises:
        ValueError: The message names the section and gives Lightning's reason.
    """
    # A trainer that is made tells what hardware there is, every time.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        L.Trainer(
            accelerator=settings.accelerator,
            precision=settings.precision,  # type: ignore[arg-type]
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except Exception as error:  # Lightning's own families, and ValueError
        raise ValueError(f"{name}.accelerator or {name}.precision: {error}") from error
