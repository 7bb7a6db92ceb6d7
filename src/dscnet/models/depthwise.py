"""Dilated depthwise convolution whose gradient is as fast as its forward pass on CPUs.

PyTorch's CPU library has no fast path for the input gradient of a dilated depthwise convolution:
at output stride 16 it took a quarter of a training step of EfficientNet-lite0. With stride 1 that
gradient is itself such a convolution, by the mirrored kernel, and its forward pass is fast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class _DilatedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return functional.conv2d(image, weight, None, 1, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        image_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            reach = [d * (k - 1) for d, k in zip(ctx.dilation, weight.shape[2:], strict=True)]
            full = [r - p for r, p in zip(reach, ctx.padding, strict=True)]
            image_grad = functional.conv2d(
                grad, weight.flip(2, 3), None, 1, full, ctx.dilation, len(weight)
            )
        if ctx.needs_input_grad[1]:
            weight_grad = torch.ops.aten.convolution_backward(
                *(grad, image, weight, None, (1, 1), ctx.padding, ctx.dilation),
                *(False, (0, 0), len(weight), (False, True, False)),
            )[1]
        return image_grad, weight_grad, None, None


class DilatedDepthwise(nn.Conv2d):
    """A drop-in for the convolutions that :func:`suits` accepts; same names, same numbers."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)``."""
        fast = (
            input.device.type == "cpu"
            and input.requires_grad
            and torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
        )
        if not fast:
            return super().forward(input)
        output: Tensor = _DilatedDepthwise.apply(input, self.weight, self.padding, self.dilation)
        return output


def suits(module: nn.Module) -> bool:
    """Whether a module is a plain dilated depthwise convolution with stride 1."""
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels
        and max(module.dilation) > 1
        and set(module.stride) == {1}
        and module.bias is None
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and all(
            p <= d * (k - 1)
            for p, d, k in zip(module.padding, module.dilation, module.kernel_size, strict=True)
        )
    )


def quicken(net: nn.Module) -> None:
    """Replace, in place, every convolution of a network that :func:`suits` accepts."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if suits(child):
                assert isinstance(child, nn.Conv2d)
                setattr(parent, name, _copy(child))


def _copy(conv: nn.Conv2d) -> DilatedDepthwise:
    copy = DilatedDepthwise(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=False,
        device="meta",
    )
    copy.weight = conv.weight
    copy.train(conv.training)
    return copy
