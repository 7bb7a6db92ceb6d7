"""Numerical helpers: float32 arithmetic under autocast, safe unit vectors, resizing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import chain
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

P = ParamSpec("P")
R = TypeVar("R")

VECTOR = 16
"""Columns from which PyTorch vectorises a softmax over them: those of AVX-512; 8 with AVX2."""


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


def at_least_float32(tensor: Tensor) -> Tensor:
    """Cast half-precision tensors to float32; float64 is kept."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def resize(
    maps: Tensor, size: tuple[int, int], *, align_corners: bool = True, antialias: bool = False
) -> Tensor:
    """Resize maps ``(B, C, h, w)`` bilinearly.

    Args:
        maps: The maps.
        size: Height and width.
        align_corners: True in networks and losses, as published; inference does not align corners.
        antialias: Average where maps shrink; only without aligned corners.

    Returns:
        ``(B, C, *size)``; maps that have this size already are returned as they are.
    """
    if maps.shape[-2:] == size:
        return maps
    return functional.interpolate(
        maps, size, mode="bilinear", align_corners=align_corners, antialias=antialias
    )


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge coarse maps ``(B, C, h, w)`` bilinearly with aligned corners, like :func:`resize`.

    On CPUs as two matrix products, whose gradients take less time than PyTorch's interpolation
    for maps of about 14 x 14; not for large ones.

    Args:
        maps: The maps.
        size: Height and width.

    Returns:
        ``(B, C, *size)``.
    """
    if maps.device.type != "cpu" or maps.shape[-2:] == size:
        return resize(maps, size)
    height, width = (
        interpolation_matrix(source, target, maps)
        for source, target in zip(maps.shape[-2:], size, strict=True)
    )
    return height @ (maps @ width.T)


def interpolation_matrix(source: int, target: int, like: Tensor) -> Tensor:
    """Linear interpolation with aligned corners of ``source`` points at ``target`` points.

    Args:
        source: Number of given points.
        target: Number of interpolated points.
        like: A tensor on the device of the result; its precision is the least of the result.

    Returns:
        ``(target, source)``, at least float32; kept for the next call, not to be changed.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    return _interpolation_matrix(source, target, dtype, like.device)


@functools.lru_cache(maxsize=32)
def _interpolation_matrix(
    source: int, target: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    # A tensor made in inference mode could not be used in a later training step.
    with torch.inference_mode(False), torch.no_grad():
        basis = torch.eye(source, dtype=dtype, device=device)[None]
        return functional.interpolate(basis, target, mode="linear", align_corners=True)[0].mT


def softmax_of_rows(values: Tensor) -> Tensor:
    """Softmax over the last dimension, also fast for few columns.

    PyTorch's takes several times as long on CPUs for rows shorter than a vector of the processor.

    Args:
        values: Floating, ``(..., L)``.

    Returns:
        The same shape, contiguous.
    """
    if values.shape[-1] >= VECTOR or values.device.type != "cpu":
        return values.softmax(-1)
    rows = values.reshape(-1, values.shape[-1])
    return rows.T.softmax(0).T.contiguous().view(values.shape)


def _promote(value: object) -> object:
    if isinstance(value, Tensor) and value.is_floating_point():
        return at_least_float32(value)
    return value
