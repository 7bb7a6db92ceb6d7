"""Depthwise convolution whose gradients are as fast as its forward pass on CPUs.

PyTorch's CPU backend lacks two fast paths, which matter most in a training step of
EfficientNet-lite0 at output stride 16:

- the weight gradient of kernels wider than three columns, several times as slow as narrower ones.
  It is computed for at most three columns at a time;
- gradients of a dilated convolution. Pixels only interact within a phase (equal coordinates modulo
  the dilation), so the phases can be treated as a batch of smaller images under the same kernel
  without dilation. Where that leaves phases of a few pixels, the weight gradient is computed for
  one element of the kernel at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Pair = tuple[int, int]

FAST_COLUMNS = 3
"""Widest kernel whose weight gradient has a fast path (findings/depthwise_weight_gradient.sh)."""


def depthwise_conv2d(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> Tensor:
    """Convolve each channel with its own kernel, like ``torch.nn.functional.conv2d``.

    Args:
        image: ``(B, C, H, W)``.
        weight: ``(C, 1, kh, kw)``.
        bias: ``(C,)``, or None.
        stride: Vertical and horizontal.
        padding: Zeros above and below, left and right.
        dilation: Vertical and horizontal.

    Returns:
        ``(B, C, h, w)``, differentiable once.
    """
    output: Tensor = _Depthwise.apply(image, weight, bias, Geometry(stride, padding, dilation))
    return output


class Geometry(NamedTuple):
    """Options of a convolution, vertical and horizontal."""

    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.geometry = geometry
        return functional.conv2d(image, weight, bias, *geometry, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        of_image, of_weight, of_bias, _ = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        known = (gradient, image, weight, ctx.geometry)
        return (
            _image_gradient(*known) if of_image else None,
            _weight_gradient(*known) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
        )


def _image_gradient(gradient: Tensor, image: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if gradient.shape == image.shape and geometry.stride == (1, 1):
        # A size-preserving convolution with the kernel turned by 180 degrees: the forward path.
        return functional.conv2d(gradient, weight.flip(2, 3), None, *geometry, len(weight))
    return _gradients(gradient, image, weight, geometry, (True, False))[0]


def _weight_gradient(gradient: Tensor, image: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if max(geometry.dilation) > 1:
        rows, columns = (range(side) for side in weight.shape[2:])
        elements = [
            _element_gradient(gradient, image, weight, geometry, row, column)
            for row in rows
            for column in columns
        ]
        return torch.cat(elements, 2).view_as(weight)
    (down, across), stride = geometry.padding, geometry.stride
    if weight.shape[2] > image.shape[2]:
        # A kernel taller than the image has no fast path either.
        image, down = functional.pad(image, (0, 0, down, down)), 0
    first = max(0, weight.shape[3] - FAST_COLUMNS) // 2
    last = first + FAST_COLUMNS
    middle = weight[..., first:last]
    left = across - first
    read = (gradient.shape[3] - 1) * stride[1] + middle.shape[3]
    if left >= 0 and 0 <= image.shape[3] + 2 * left - read < stride[1]:
        sides, columns_read = (down, left), image
    else:
        right = read - left - image.shape[3]
        sides, columns_read = (down, 0), functional.pad(image, (left, right))
    of_middle = _gradients(gradient, columns_read, middle, Geometry(stride, sides), (False, True))
    outer = [
        _element_gradient(gradient, image, weight, Geometry(stride, (down, across)), None, column)
        for column in (*range(first), *range(last, weight.shape[3]))
    ]
    return torch.cat([*outer[:first], of_middle[1], *outer[first:]], 3)


def _element_gradient(
    gradient: Tensor,
    image: Tensor,
    weight: Tensor,
    geometry: Geometry,
    row: int | None,
    column: int,
) -> Tensor:
    """Gradient of one element of the kernel, or of all of a column, where they meet the image.

    Returns:
        ``(C, 1, 1 or kh, 1)``.
    """
    met, part = slice(None), weight[..., column : column + 1]
    rows, columns = (met, met), _meeting(gradient, image, geometry, 1, column)
    stride, padding = (geometry.stride[0], 1), (geometry.padding[0], 0)
    if row is not None:
        rows, part = _meeting(gradient, image, geometry, 0, row), part[:, :, row : row + 1]
        stride, padding = (1, 1), (0, 0)
    output = gradient[:, :, rows[0], columns[0]]
    if output.numel() == 0:
        return torch.zeros_like(part)
    read = image[:, :, rows[1], columns[1]]
    return _gradients(output, read, part, Geometry(stride, padding), (False, True))[1]


def _meeting(
    gradient: Tensor, image: Tensor, geometry: Geometry, axis: int, element: int
) -> tuple[slice, slice]:
    """Where an element of the kernel meets the image: positions in the output and the image."""
    step, length = geometry.stride[axis], image.shape[2 + axis]
    offset = element * geometry.dilation[axis] - geometry.padding[axis]
    begin = -(min(offset, 0) // step)
    end = max(begin, min(gradient.shape[2 + axis], (length - 1 - offset) // step + 1))
    first = begin * step + offset
    return slice(begin, end), slice(first, max(first, (end - 1) * step + offset + 1), step)


def _gradients(
    gradient: Tensor,
    image: Tensor,
    weight: Tensor,
    geometry: Geometry,
    needed: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """PyTorch's gradients for the image and the weight; the one not needed is None."""
    result = torch.ops.aten.convolution_backward(
        gradient,
        image,
        weight,
        None,
        *geometry,
        False,
        (0, 0),
        len(weight),
        (*needed, False),
    )
    return result[0], result[1]


def to_phases(image: Tensor, dilation: Pair) -> Tensor:
    """Split an image into its phases.

    Args:
        image: ``(B, C, H, W)``, padded with zeros at the bottom and on the right to multiples of
            the dilation.
        dilation: Vertical and horizontal.

    Returns:
        ``(B * down * across, C, ceil(H / down), ceil(W / across))``, channels-last.
    """
    batch, channels, height, width = image.shape
    down, across = dilation
    padded = functional.pad(image, (0, -width % across, 0, -height % down))
    rows, columns = padded.shape[2] // down, padded.shape[3] // across
    # Channels-last throughout: only whole pixels are moved.
    pixels = padded.permute(0, 2, 3, 1).reshape(batch, rows, down, columns, across, channels)
    phases = pixels.permute(0, 2, 4, 1, 3, 5).reshape(-1, rows, columns, channels)
    return phases.permute(0, 3, 1, 2)


def from_phases(phases: Tensor, dilation: Pair, size: Pair) -> Tensor:
    """Reassemble the image of ``size`` (height and width) from :func:`to_phases`."""
    down, across = dilation
    total, channels, rows, columns = phases.shape
    pixels = phases.permute(0, 2, 3, 1).reshape(-1, down, across, rows, columns, channels)
    whole = pixels.permute(0, 3, 1, 4, 2, 5).reshape(-1, rows * down, columns * across, channels)
    return whole[:, : size[0], : size[1]].permute(0, 3, 1, 2)
