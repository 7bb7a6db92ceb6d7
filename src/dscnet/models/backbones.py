"""Pretrained backbones: three feature maps, selectable stride, frozen batch normalisation."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar, cast

import timm
import torch
from timm.models import FeatureInfo, PretrainedCfg
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from dscnet.models import resnet38
from dscnet.models.convolutions import use_fast_convolutions
from dscnet.models.photo_sizes import least_multiple, refuse_one_size
from dscnet.models.weights import flat_name, load_pretrained, tagged_name
from dscnet.types import DscnetError

Colour = tuple[float, float, float]
T = TypeVar("T")

OUTPUT_STRIDES = (8, 16, 32)

_ANY_SIZE: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True},  # plain vision transformers
    {"strict_img_size": False},  # windowed ones
    {},
)
"""Options, tried in turn, that let models with a fixed stride accept any photo size."""


class Backbone(nn.Module):
    """A pretrained backbone that maps photos to its last three feature maps.

    Batch normalisation always uses its running statistics, and its affine parameters get no
    gradient, as batches are small. Convolutions are stored channels-last, the faster layout on CPUs
    and recent GPUs.

    Args:
        net: A timm feature extractor.
        name: Name of the timm model.
        mean: Channel means of its training photos, RGB in [0, 1].
        std: Their standard deviations.
        frozen_stages: As for :func:`freeze_backbone`.
        multiple: Photos are padded with zeros on the right and at the bottom to sides that are
            multiples of this; 1 = never.

    Attributes:
        channels: Channels of the low, mid and high map.
        output_stride: Stride of the high map.
        name: As given.
        mean: As given.
        std: As given.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str,
        mean: Colour,
        std: Colour,
        frozen_stages: int = 0,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        use_fast_convolutions(net)
        self.net = net.to(memory_format=torch.channels_last)
        self.name, self.mean, self.std = name, mean, std
        info = _feature_info(net)
        self.channels: tuple[int, int, int] = _last_three(info.channels())
        self.output_stride: int = info.reduction()[-1]
        self.multiple = multiple
        self._channels_trail = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
        freeze_backbone(net, frozen_stages)
        self.train(self.training)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the feature maps of photos.

        Args:
            image: Photos normalised by ``mean`` and ``std``, ``(B, 3, H, W)``.

        Returns:
            The last three maps, ``(B, channels[i], h_i, w_i)``; the last has the size of the photo
            divided by ``output_stride``, rounded as the model does. A model with fewer maps repeats
            its earliest.
        """
        maps = self.net(pad_to_multiple(image, self.multiple))
        if self._channels_trail:
            maps = [features.permute(0, 3, 1, 2) for features in maps]
        if self.multiple > self.output_stride:
            maps = self._of_the_photo(maps, image)
        return _last_three(maps)

    def _of_the_photo(self, maps: list[Tensor], image: Tensor) -> list[Tensor]:
        """Crop the cells that cover only padding beyond a multiple of the stride."""
        last = self.output_stride
        height, width = (-(-side // last) * last for side in image.shape[-2:])
        strides = _feature_info(self.net).reduction()
        return [
            features[..., : -(-height // stride), : -(-width // stride)]
            for features, stride in zip(maps, strides, strict=True)
        ]

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; batch normalisation stays in evaluation mode."""
        super().train(mode)
        freeze_batch_norm(self)
        return self


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad ``(B, 3, H, W)`` with zeros on the right and at the bottom; store it channels-last.

    Zero is the mean colour of normalised photos; training crops are padded with it as well.
    """
    height, width = image.shape[-2:]
    padding = (0, -width % multiple, 0, -height % multiple)
    padded = functional.pad(image, padding) if any(padding) else image
    return padded.contiguous(memory_format=torch.channels_last)


def scores_at_any_size(net: Callable[[Tensor], Tensor], image: Tensor, multiple: int) -> Tensor:
    """Run a network that needs sides that are multiples of a number: pad photos, crop scores.

    Args:
        net: Maps ``(B, 3, H', W')`` to ``(B, L, H', W')``.
        image: Normalised photos, ``(B, 3, H, W)``.
        multiple: As for :func:`pad_to_multiple`.

    Returns:
        ``(B, L, H, W)``.
    """
    height, width = image.shape[-2:]
    return net(pad_to_multiple(image, multiple))[..., :height, :width]


def _feature_info(net: nn.Module) -> FeatureInfo:
    """Return timm's description of an extractor's feature maps."""
    return cast(FeatureInfo, net.feature_info)


def _last_three(items: list[T]) -> tuple[T, T, T]:
    low, mid, high = ([items[0]] * 3 + items[1:])[-3:]
    return low, mid, high


def create_backbone(
    name: str = "tf_efficientnet_lite0",
    *,
    output_stride: int = 16,
    weights: str = "packaged",
    frozen_stages: int = 2,
) -> Backbone | resnet38.ResNet38:
    """Create a backbone from a timm model, or the ResNet38 of the published baselines.

    Args:
        name: A timm model with feature maps, with or without a tag
            (``resnet50``, ``resnet50.a1_in1k``), or ``resnet38``.
        output_stride: Stride of the last map: 8, 16 or 32, by dilating later stages.
        weights: As for ``dscnet.models.weights.pretrained_state``: ``packaged``, ``imagenet``, a
            timm tag, a file path, or ``none``. For ``resnet38`` as for
            ``dscnet.models.resnet38.create_resnet38``.
        frozen_stages: As for :func:`freeze_backbone`; for ``resnet38`` as for
            ``dscnet.models.resnet38.ResNet38``.

    Returns:
        The backbone, in training mode.

    Raises:
        ValueError: If ``output_stride`` is not 8, 16 or 32, or ``frozen_stages`` is out of range.
        DscnetError: If the model is unknown, does not support the stride or ``frozen_stages``, or
            the weights are unavailable or do not match.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride must be one of {OUTPUT_STRIDES}, got {output_stride}")
    if name == resnet38.NAME:
        return resnet38.create_resnet38(
            output_stride=output_stride, weights=weights, frozen_stages=frozen_stages
        )
    net, multiple = feature_net(name, output_stride)
    load_pretrained(net, name, weights)
    mean, std = normalisation(name, weights)
    return Backbone(
        net, name=name, mean=mean, std=std, frozen_stages=frozen_stages, multiple=multiple
    )


def check_name(name: str) -> None:
    """Raise a ``DscnetError`` with the closest names if timm has no model ``name``."""
    model, _, tag = name.partition(".")
    if timm.is_model(model):
        if tag:
            tagged_name(model, name)
        return
    nearest = ", ".join(difflib.get_close_matches(model, timm.list_models(), cutoff=0.5))
    raise DscnetError(
        f"unknown backbone {name!r}; closest in timm: {nearest or '(none)'}; "
        "timm.list_models() lists all"
    )


def normalisation(name: str, weights: str = "none") -> tuple[Colour, Colour]:
    """Return the input mean and standard deviation (RGB in [0, 1]) that weights expect.

    Args:
        name: A timm model, with or without a tag.
        weights: As for :func:`create_backbone`; tags can have their own values.
    """
    if name.startswith("tf_efficientnet_lite"):
        return (127 / 255,) * 3, (128 / 255,) * 3
    config = timm.get_pretrained_cfg(tagged_name(name, weights)) or PretrainedCfg()
    return cast(Colour, tuple(config.mean)), cast(Colour, tuple(config.std))


def feature_net(
    name: str, output_stride: int, *, strides: Collection[int] = OUTPUT_STRIDES
) -> tuple[nn.Module, int]:
    """Build timm's feature extractor at a stride, dilated if needed.

    Args:
        name: A timm model.
        output_stride: Stride of the last map.
        strides: Strides to suggest as alternatives.

    Returns:
        The extractor, and the number that photo sides must be multiples of.

    Raises:
        DscnetError: If the model is unknown, has no feature maps or not at this stride, or accepts
            a single photo size only.
    """
    check_name(name)
    offered: list[int] = []
    fixed = False
    dilation: dict[str, Any] = {"output_stride": output_stride}
    for options in (dilation, *_ANY_SIZE):
        try:
            net: nn.Module = timm.create_model(name, features_only=True, **options)
        except (TypeError, AssertionError, ValueError, NotImplementedError, RuntimeError):
            continue  # each model family rejects options differently
        offered = list(_feature_info(net).reduction())
        if offered[-1] == output_stride:
            dilated = options is dilation and output_stride < 32
            multiple = least_multiple(name, output_stride, tuple(options.items()))
            if multiple:
                return net, multiple if dilated else max(multiple, output_stride)
            fixed = True
    if fixed:
        raise refuse_one_size(name)
    if not offered:
        raise DscnetError(f"backbone {name!r} has no feature maps in timm; choose another")
    instead = f"output_stride={offered[-1]} or " if _offers(name, offered[-1], strides) else ""
    raise DscnetError(
        f"backbone {name!r} does not support output stride {output_stride}: its maps have strides "
        f"{', '.join(map(str, offered))} and the last is used. Choose {instead}"
        "a backbone that can be dilated, such as tf_efficientnet_lite0 or resnet50"
    )


def _offers(name: str, output_stride: int, strides: Collection[int]) -> bool:
    """Whether a model supports one of these strides."""
    if output_stride not in strides:
        return False
    try:
        with torch.device("meta"):
            feature_net(name, output_stride)
    except DscnetError:
        return False
    return True


def freeze_backbone(net: nn.Module, frozen_stages: int) -> None:
    """Freeze batch normalisation and the first stages of a backbone.

    A stage ends at a feature map in timm's list for the model, so n frozen stages are all modules
    up to and including that of the n-th map. The stem belongs to the first stage; in models with a
    stride-2 map right after the stem (ResNet, RegNet) it is that stage. Plain vision transformers
    have one stage per block.

    Args:
        net: A timm feature extractor.
        frozen_stages: Number of stages n; 0 = batch normalisation only.

    Raises:
        ValueError: If ``frozen_stages`` is negative or above the number of stages.
        DscnetError: If the model does not specify where its stages end.
    """
    stages = _feature_info(net).info
    if not 0 <= frozen_stages <= len(stages):
        raise ValueError(f"frozen_stages must be in 0..{len(stages)}, got {frozen_stages}")
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(False)
    if frozen_stages:
        for module in _until(net, stages[frozen_stages - 1]["module"]):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)


def _until(net: nn.Module, last: str) -> Iterator[nn.Module]:
    """Yield the modules in registration order, up to and including those inside ``last``."""
    last = flat_name(last)
    reached = False
    for name, module in net.named_modules():
        inside = f"{flat_name(name)}_".startswith(f"{last}_")
        if reached and not inside:
            return
        reached |= inside
        yield module
    if not reached:
        raise DscnetError(
            f"this backbone does not support freezing stages: it has no module {last!r}; "
            "choose frozen_stages=0"
        )


def freeze_batch_norm(net: nn.Module) -> None:
    """Set all batch normalisation of a network to evaluation mode."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
