"""Depthwise convolution whose gradients are as fast as its forward pass on CPUs.

PyTorch's CPU backend lacks two fast paths, which took half of a training step of EfficientNet-lite0
at output stride 16:

- gradients of a dilated convolution. Pixels only interact within a phase (equal coordinates modulo
  the dilation), so the phases are treated as a batch of smaller images under the same kernel
  without dilation;
- the weight gradient of kernels wider than three columns, six times as slow as narrower ones. It is
  computed for at most three columns at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Pair = tuple[int, int]

FAST_COLUMNS = 3
"""Widest kernel whose weight gradient has a fast path (findings/depthwise_weight_gradient.sh)."""


def depthwise_conv2d(
    image: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    """Convolve each channel with its own kernel, like ``torch.nn.functional.conv2d``.

    Args:
        image: ``(B, C, H, W)``.
        weight: ``(C, 1, kh, kw)``.
        bias: ``(C,)``, or None.
        stride: Vertical and horizontal.
        padding: Zeros above and below, left and right.

    Returns:
        ``(B, C, h, w)``, differentiable once.
    """
    output: Tensor = _Depthwise.apply(image, weight, bias, stride, padding)
    return output


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(image, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return (
            _image_gradient(gradient, image, weight, ctx.stride, ctx.padding)
            if wanted[0]
            else None,
            _weight_gradient(gradient, image, weight, ctx.stride, ctx.padding)
            if wanted[1]
            else None,
            gradient.sum((0, 2, 3)) if wanted[2] else None,
            None,
            None,
        )


def _image_gradient(
    gradient: Tensor, image: Tensor, weight: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    if gradient.shape == image.shape:
        # A size-preserving convolution with the kernel turned by 180 degrees: the forward path.
        return functional.conv2d(gradient, weight.flip(2, 3), None, 1, padding, 1, len(weight))
    return _gradients(gradient, image, weight, stride, padding, (True, False))[0]


def _weight_gradient(
    gradient: Tensor, image: Tensor, weight: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    down, across = padding
    if weight.shape[2] > image.shape[2]:
        image, down = functional.pad(image, (0, 0, down, down)), 0
    first = max(0, weight.shape[3] - FAST_COLUMNS) // 2
    last = first + FAST_COLUMNS
    middle = weight[..., first:last]
    left = across - first
    read = (gradient.shape[3] - 1) * stride[1] + middle.shape[3]
    if left >= 0 and 0 <= image.shape[3] + 2 * left - read < stride[1]:
        sides, columns = (down, left), image
    else:
        sides, columns = (down, 0), functional.pad(image, (left, read - left - image.shape[3]))
    parts = [_gradients(gradient, columns, middle, stride, sides, (False, True))[1]]
    for column in (*reversed(range(first)), *range(last, weight.shape[3])):
        part = _column_gradient(gradient, image, weight, stride, (down, across), column)
        parts = [part, *parts] if column < first else [*parts, part]
    return torch.cat(parts, 3)


def _column_gradient(
    gradient: Tensor, image: Tensor, weight: Tensor, stride: Pair, padding: Pair, column: int
) -> Tensor:
    """Gradient of one column of the kernel, ``(C, 1, kh, 1)``, from where it meets the image."""
    offset, step = column - padding[1], stride[1]
    begin = -(min(offset, 0) // step)
    end = min(gradient.shape[3], (image.shape[3] - 1 - offset) // step + 1)
    part = weight[..., column : column + 1]
    if begin >= end:
        return torch.zeros_like(part)
    met = image[..., begin * step + offset : (end - 1) * step + offset + 1 : step]
    sides = (stride[0], 1), (padding[0], 0)
    return _gradients(gradient[..., begin:end], met, part, *sides, (False, True))[1]


def _gradients(
    gradient: Tensor,
    image: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Pair,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """PyTorch's gradients for the image and the weight; the one that is not wanted is None."""
    result = torch.ops.aten.convolution_backward(
        gradient,
        image,
        weight,
        None,
        stride,
        padding,
        (1, 1),
        False,
        (0, 0),
        len(weight),
        (*wanted, False),
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
