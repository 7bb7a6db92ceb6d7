"""Which sizes of photos a trunk takes, found by trying: timm does not tell."""

from __future__ import annotations

from functools import cache
from typing import Any

import timm
import torch
from torch import nn

from dscnet.types import DscnetError

# Windows and grids of attention divide the maps of each stage by one of these.
_FACTORS = (1, 2, 4, 5, 6, 7, 8, 10, 12, 14, 16)
# Long enough for trunks whose convolutions lose the borders.
_LONG = 160


@cache
def least_multiple(name: str, output_stride: int, options: tuple[tuple[str, Any], ...]) -> int:
    """Find the least number that the sides of photos may be multiples of.

    The trunk is run on the meta device: without values, memory or random numbers.

    Args:
        name: A timm model.
        output_stride: Stride of its last map.
        options: Further ones of ``timm.create_model``, as pairs.

    Returns:
        1 if any size does, else the stride times a small factor; 0 if none of these does.
    """
    with torch.device("meta"):
        net: nn.Module = timm.create_model(name, features_only=True, **dict(options)).eval()
    multiples = (1, *(output_stride * factor for factor in _FACTORS))
    return next((m for m in multiples if _takes(net, m, output_stride)), 0)


def refuse_one_size(name: str) -> DscnetError:
    """The error for a model that takes photos of one size alone."""
    return DscnetError(
        f"backbone {name!r} takes photos of one size alone, for which its positions were learned;"
        " choose one that takes any, such as tf_efficientnet_lite0 or resnet50"
    )


@torch.no_grad()
def _takes(net: nn.Module, multiple: int, stride: int) -> bool:
    """Whether a trunk gives maps of two sides that differ, both multiples and no more than that."""
    height = -(-_LONG // multiple) * multiple + (3 if multiple == 1 else 0)
    width = height + -(-3 * stride // multiple) * multiple
    try:
        features = net(torch.zeros(1, 3, height, width, device="meta"))[-1]
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # What asks for a value cannot be tried like this, and is taken as it is.
        return "meta tensor" in str(error)
    trails = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
    sides = features.shape[1:3] if trails else features.shape[-2:]
    cells = (height / stride, width / stride)
    return all(abs(side - n) <= 2 for side, n in zip(sides, cells, strict=True))
