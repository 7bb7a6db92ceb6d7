"""Numerical helpers: float32 arithmetic under autocast, and safe unit vectors."""

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
    """Make a function compute in float32 or better, even under autocast.

    Autocast is disabled inside, and half-precision tensor arguments are cast to float32 (float64 is
    kept). A correlation in bfloat16 has two or three digits: too few to tell groups apart.

    Args:
        function: Takes at least one tensor argument; the first one determines the device.
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
        floor: Norms up to this count as zero; broadcast against ``(..., 1)``.

    Returns:
        Unit vectors, ``(..., D)``. A zero vector stays zero with zero gradient, whereas
        dividing by a small constant would give it a huge gradient.
    """
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norm.masked_fill(norm <= floor, torch.inf)


def _promote(value: object) -> object:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value
