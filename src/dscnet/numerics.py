"""Small numeric rules that the whole room shares: float32 arithmetic and safe unit vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import chain
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function compute in float32 or better, under autocast too.

    Autocast is off inside, and half-precision tensor arguments arrive as float32 (float64 stays).
    A correlation in bfloat16 keeps two or three digits: too few to tell groups apart.

    Args:
        function: Takes at least one tensor argument; the first one names the device.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(x.device.type for x in chain(args, kwargs.values()) if isinstance(x, Tensor))
        with torch.autocast(device, enabled=False):
            return function(
                *(_promote(x) for x in args),  # type: ignore[arg-type]
                **{name: _promote(x) for name, x in kwargs.items()},  # type: ignore[arg-type]
            )

    return wrapper


def unit(vectors: Tensor, *, floor: Tensor | float = 0.0) -> Tensor:
    """Scale vectors to unit length over the last dimension.

    Args:
        vectors: ``(..., D)``.
        floor: Norms up to this (broadcast against ``(..., 1)``) count as zero.

    Returns:
        Unit vectors, ``(..., D)``. A zero vector stays zero and gets zero gradient, where a
        division by a small constant would hand it a huge one.
    """
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norm.masked_fill(norm <= floor, torch.inf)


def _promote(value: object) -> object:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value
