"""Photo sizes that a backbone accepts, found by trial: timm does not specify them."""

from __future__ import annotations

from functools import cache
from typing import Any

import timm
import torch
from torch import nn

from dscnet.types import DscnetError

# Window and grid attention divides the maps of each stage by one of these.
_FACTORS = (1, 2, 4, 5, 6, 7, 8, 10, 12, 14, 16)
# Long enough for backbones with unpadded convolutions.
_LONG = 160


@cache
def least_multiple(name: str, output_stride: int, options: tuple[tuple[str, Any], ...]) -> int:
    """Find the smallest number that photo sides must be multiples of.

    The backbone runs on the meta device: no values, memory or random numbers.

    Args:
        name: A timm model.
        output_stride: Stride of its last map.
        options: Further options of ``timm.create_model``, as pairs.

    Returns:
        1 if any size works, else the stride times a small factor; 0 if none of these works.
    """
    with torch.device("meta"):
        net: nn.Module = timm.create_model(name, features_only=True, **dict(options)).eval()
    multiples = (1, *(output_stride * factor for factor in _FACTORS))
    return next((m for m in multiples if _takes(net, m, output_stride)), 0)


def refuse_one_size(name: str) -> DscnetError:
    """The error for a model that accepts a single photo size."""
    return DscnetError(
        f"backbone {name!r} accepts a single photo size only, that of its position embeddings;"
        " choose one that accepts any size, such as tf_efficientnet_lite0 or resnet50"
    )


@torch.no_grad()
def _takes(net: nn.Module, multiple: int, stride: int) -> bool:
    """Whether a backbone runs on a photo of two different sides that are such multiples."""
    height = -(-_LONG // multiple) * multiple + (3 if multiple == 1 else 0)
    width = height + -(-3 * stride // multiple) * multiple
    try:
        features = net(torch.zeros(1, 3, height, width, device="meta"))[-1]
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # Models that need values cannot be tried like this and are assumed to work.
        return "meta tensor" in str(error)
    trails = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
    sides = features.shape[1:3] if trails else features.shape[-2:]
    cells = (height / stride, width / stride)
    return all(abs(side - n) <= 2 for side, n in zip(sides, cells, strict=True))
