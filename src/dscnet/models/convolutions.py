"""Backbone convolutions that do the same as timm's in fewer operations.

:func:`use_fast_convolutions` replaces those of a backbone with frozen batch normalisation in place.
Parameters and buffers keep their names, so that weights are read and written as before.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.padding import get_same_padding, pad_same
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from dscnet.models.depthwise import Pair, depthwise_conv2d, from_phases, to_phases


class FastConv2d(nn.Conv2d):
    """A convolution with the frozen batch normalisation after it folded in.

    ``norm(conv(x))`` with fixed statistics is one convolution with scaled weights and a bias: it
    saves a pass over the output, and another one in the backward pass.

    Attributes:
        norm: The batch normalisation, a module of its own elsewhere in the network; None = none.
        same: Whether to pad like TensorFlow's ``SAME``.
    """

    norm: _BatchNorm | None
    same: bool

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)``, and normalise."""
        folds = folding_saves_time(input)
        weight, bias = self.folded() if folds else (self.weight, self.bias)
        padding = self.padding
        if self.same:
            input, weight, padding = self._pad_same(input, weight)
        if self.is_depthwise and has_fast_gradients(input):
            return self._depthwise(input, weight, bias, padding)  # type: ignore[arg-type]
        output = functional.conv2d(
            input, weight, bias, self.stride, padding, self.dilation, self.groups
        )
        return output if folds else self._normalised(output)

    def _normalised(self, output: Tensor) -> Tensor:
        norm = self.norm
        if norm is None:
            return output
        statistics = (norm.running_mean, norm.running_var)
        return functional.batch_norm(output, *statistics, norm.weight, norm.bias, eps=norm.eps)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias that include the batch normalisation."""
        norm = self.norm
        if norm is None:
            return self.weight, self.bias
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        centre = norm.running_mean if self.bias is None else norm.running_mean - self.bias
        bias = -centre * scale
        if norm.bias is not None:
            bias = bias + norm.bias
        return self.weight * scale[:, None, None, None], bias

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved on its own, with explicit padding."""
        own = self.groups == self.in_channels == self.out_channels > 1
        return own and not isinstance(self.padding, str)

    def undilated(self, phases: Tensor) -> Tensor:
        """Convolve the phases of a dilated depthwise convolution that keeps the size."""
        weight, bias = self.folded()
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        return depthwise_conv2d(phases, weight, bias, (1, 1), padding)

    @property
    def keeps_size(self) -> bool:
        """Whether zero padding of ``dilation * (kernel - 1) / 2`` at stride 1 keeps the size."""
        if isinstance(self.padding, str):
            return self.padding == "same" and set(self.stride) == {1}
        return set(self.stride) == {1} and all(
            2 * p == d * (k - 1) and k % 2 == 1
            for p, d, k in zip(self.padding, self.dilation, self.kernel_size, strict=True)
        )

    def _depthwise(
        self, image: Tensor, weight: Tensor, bias: Tensor | None, padding: Pair
    ) -> Tensor:
        dilation = _pair(self.dilation)
        if self.keeps_size and 1 < max(dilation) < max(self.kernel_size):
            size = (image.shape[2], image.shape[3])
            return from_phases(self.undilated(to_phases(image, dilation)), dilation, size)
        return depthwise_conv2d(image, weight, bias, _pair(self.stride), padding, dilation)

    def _pad_same(self, image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Pair]:
        """Pad the kernel, which is much smaller than the image.

        ``SAME`` may need one row more at the bottom than at the top. A kernel with a row of zeros
        added at the top gives the same with symmetric padding.
        """
        if max(self.dilation) > 1 or torch.compiler.is_compiling():
            options = (list(self.kernel_size), list(self.stride), list(self.dilation))
            return pad_same(image, *options), weight, (0, 0)
        down, across = (
            get_same_padding(side, kernel, stride, 1)
            for side, kernel, stride in zip(
                image.shape[-2:], self.kernel_size, self.stride, strict=True
            )
        )
        grown = functional.pad(weight, (across % 2, 0, down % 2, 0))
        return image, grown, (-(-down // 2), -(-across // 2))


class PhasedInvertedResidual(InvertedResidual):
    """An inverted residual block that is split into phases as a whole in training.

    All but its depthwise convolution treats pixels separately, and the block's input has a sixth of
    the channels of that convolution's.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(B, C, H, W)``."""
        conv = self.conv_dw
        assert isinstance(conv, FastConv2d)
        dilation, size = _pair(conv.dilation), (x.shape[2], x.shape[3])
        # Phases of equal size only: the convolution pads others, after the expansion.
        if not has_fast_gradients(x) or size[0] % dilation[0] or size[1] % dilation[1]:
            whole: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return whole
        phases = to_phases(x, dilation)
        hidden = self.bn2(conv.undilated(self.bn1(self.conv_pw(phases))))
        result = self.bn3(self.conv_pwl(hidden))
        return from_phases(result + phases if self.has_skip else result, dilation, size)


def folding_saves_time(image: Tensor) -> bool:
    """Whether passes over maps cost more than operations: on CPUs, and in compiled code."""
    return image.device.type == "cpu" or torch.compiler.is_compiling()


def has_fast_gradients(image: Tensor) -> bool:
    """Whether gradients are needed, and computed by PyTorch's CPU backend without autocast."""
    return (
        torch.is_grad_enabled()  # first: networks are traced without gradients
        and image.device.type == "cpu"
        and image.requires_grad
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def use_fast_convolutions(net: nn.Module, *, fold: bool = True) -> None:
    """Replace the convolutions and ReLU6 activations of a network, in place.

    Args:
        net: The network.
        fold: Whether its batch normalisation is always used in evaluation mode, so that it can be
            folded into the convolutions.
    """
    norms = _norms_after(net) if fold else {}
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if _can_be_replaced(child):
                setattr(parent, name, _fast(child, norms.get(child)))
            if type(child) is nn.ReLU6 and child.inplace:
                setattr(parent, name, FastReLU6())
    for norm in norms.values():
        norm.__class__ = _AbsorbedAct if isinstance(norm, BatchNormAct2d) else _Absorbed
    for block in net.modules():
        if type(block) is InvertedResidual and _can_be_phased(block):
            block.__class__ = PhasedInvertedResidual


class FastReLU6(nn.Module):
    """ReLU6 in place, whose gradient needs the output only.

    PyTorch's keeps a copy of the input instead, as large as the output.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Clamp to [0, 6]."""
        if torch.compiler.is_compiling():
            return functional.relu6(input)
        output: Tensor = _ReLU6.apply(input)
        return output


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        output = input.clamp_(0, 6)
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        result: Tensor = torch.ops.aten.hardtanh_backward(gradient, output, 0, 6)
        return result


class _Absorbed(nn.BatchNorm2d):
    """Batch normalisation that the convolution before it has applied."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class _AbsorbedAct(BatchNormAct2d):
    """The activation that is left of timm's batch normalisation with activation."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.drop(x))
        return result


class _Tracer(fx.Tracer):
    """Records calls of convolutions and of batch normalisation as such."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = isinstance(m, nn.Conv2d | _BatchNorm)
        return leaf or super().is_leaf_module(m, module_qualified_name)


def _norms_after(net: nn.Module) -> dict[nn.Module, nn.Module]:
    """The batch normalisation that alone uses a convolution's output, by convolution."""
    try:
        graph = _Tracer().trace(net)
    except Exception:  # A network that decides by its input's values or shape: nothing is folded.
        return {}
    modules = dict(net.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    module_of = {node: modules[str(node.target)] for node in calls}
    times = Counter(module_of.values())
    pairs = [(node, next(iter(node.users))) for node in calls if len(node.users) == 1]
    return {
        module_of[conv]: module_of[norm]
        for conv, norm in pairs
        if norm in module_of
        and _can_be_replaced(module_of[conv])
        and type(module_of[norm]) in (nn.BatchNorm2d, BatchNormAct2d)
        and times[module_of[conv]] == times[module_of[norm]] == 1
    }


def _can_be_replaced(module: nn.Module) -> bool:
    return type(module) in (nn.Conv2d, Conv2dSame) and module.padding_mode == "zeros"


def _can_be_phased(block: InvertedResidual) -> bool:
    conv = block.conv_dw
    separate = (block.aa, block.se, block.drop_path)
    return (
        isinstance(conv, FastConv2d)
        and not conv.same
        and conv.is_depthwise
        and conv.keeps_size
        and max(conv.dilation) > 1
        and block.conv_s2d is None
        and all(isinstance(module, nn.Identity) for module in separate)
        and block.conv_pw.kernel_size == block.conv_pwl.kernel_size == (1, 1)
    )


def _fast(conv: nn.Module, norm: nn.Module | None) -> FastConv2d:
    assert isinstance(conv, nn.Conv2d)
    fast = FastConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        bias=False,
        device="meta",
    )
    fast.weight, fast.bias = conv.weight, conv.bias
    fast.same = isinstance(conv, Conv2dSame)
    # Not a submodule: the network has it in its own place.
    object.__setattr__(fast, "norm", norm)
    return fast.train(conv.training)


def _pair(values: tuple[int, ...]) -> Pair:
    return values[0], values[1]
