"""Networks rewritten for inference: convolution, normalisation and activation in one operation.

Each of them alone reads and writes a whole feature map, which takes as long as the convolution
itself where maps are large and channels few.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.padding import get_same_padding
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dscnet.models.convolutions import FastConv2d, FastReLU6

_ACTIVATIONS = {nn.Identity: "none", nn.ReLU: "relu", nn.ReLU6: "hardtanh", FastReLU6: "hardtanh"}
"""oneDNN's name of each activation that a convolution can apply to its output."""


class FusedConv2d(nn.Module):
    """A convolution with batch normalisation in evaluation mode and an activation.

    Args:
        conv: The convolution, with zero padding or TensorFlow's ``SAME``.
        norm: The normalisation after it; None = none.
        activation: One of ``none``, ``relu`` and ``hardtanh`` (ReLU6).
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, norm: _BatchNorm | None, activation: str) -> None:
        super().__init__()
        # PyTorch's own choice for small batches on one thread is another, slower library. The
        # operation is that of its compiler, not part of its public interface.
        self.with_onednn = hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        weight, bias = _folded(conv, norm)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.same = bool(getattr(conv, "same", isinstance(conv, Conv2dSame)))
        self.shape: tuple[Any, ...] = (
            list(conv.padding),
            list(conv.stride),
            list(conv.dilation),
            conv.groups,
        )
        self.activation = activation

    def forward(self, image: Tensor) -> Tensor:
        """Convolve ``(B, C, H, W)``, normalise and activate."""
        padding, *shape = self.shape
        weight, bias = self.weight, self.bias
        if self.same:
            weight, padding = self._padded_kernel((image.shape[-2], image.shape[-1]))
        if self.with_onednn and image.device.type == "cpu" and image.dtype == torch.float32:
            bounds = [0.0, 6.0] if self.activation == "hardtanh" else []
            output: Tensor = torch.ops.mkldnn._convolution_pointwise(
                image, weight, bias, padding, *shape, self.activation, bounds, ""
            )
            return output
        output = torch.conv2d(image, weight, bias, shape[0], padding, shape[1], shape[2])
        if self.activation == "relu":
            return output.relu_()
        return output.clamp_(0, 6) if self.activation == "hardtanh" else output

    def _padded_kernel(self, size: tuple[int, int]) -> tuple[Tensor, list[int]]:
        """Kernel and symmetric padding that are equivalent to ``SAME`` padding.

        ``SAME`` may need one row more at the bottom than at the top, as does symmetric padding with
        a row of zeros at the top of the kernel.
        """
        _, stride, dilation, _ = self.shape
        needed = [
            get_same_padding(side, kernel, step, spread)
            for side, kernel, step, spread in zip(
                size, self.weight.shape[-2:], stride, dilation, strict=True
            )
        ]
        down, across = (total % 2 for total in needed)
        grown = functional.pad(self.weight, (across, 0, down, 0))
        return grown, [-(-total // 2) for total in needed]


def fused(net: nn.Module) -> nn.Module:
    """Rewrite a network for inference, with the same output up to rounding.

    Args:
        net: A network in evaluation mode that ``torch.fx`` can trace. It is not changed.

    Returns:
        The rewritten network, for inference only; ``net`` itself if it cannot be traced.
    """
    try:
        # Some networks take other ways when gradients are needed.
        with torch.no_grad():
            graph = _Tracer().trace(net)
    except Exception:  # A network that decides by its input's values or shape.
        return net
    modules = dict(net.named_modules())
    for node in list(graph.nodes):
        if node.op == "call_module" and _can_be_fused(modules[node.target]):
            _fuse(node, modules)
    return fx.GraphModule(modules, graph).eval()


class _Tracer(fx.Tracer):
    """Records calls of single layers, and of batch normalisation with activation as one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        single = isinstance(m, nn.Conv2d | _BatchNorm) or not any(m.children())
        return single or super().is_leaf_module(m, module_qualified_name)


def _can_be_fused(module: nn.Module) -> bool:
    known = type(module) in (nn.Conv2d, Conv2dSame) or isinstance(module, FastConv2d)
    return (
        known
        and isinstance(module, nn.Conv2d)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _fuse(node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Replace a convolution and what follows it by one module, in the graph and ``modules``."""
    conv, norm, activation = modules[str(node.target)], None, "none"
    assert isinstance(conv, nn.Conv2d)
    name = str(node.target)
    after = _only_user(node)
    if after is not None and isinstance(found := modules[str(after.target)], _BatchNorm):
        norm = found
        if isinstance(norm, BatchNormAct2d):
            # Dropout inside it is off; its activation follows as one of the others.
            after.target = f"{after.target}.act"
        else:
            after = _merge(node, after)
    if after is not None and type(found := modules[str(after.target)]) in _ACTIVATIONS:
        activation = _ACTIVATIONS[type(found)]
        _merge(node, after)
    node.target = f"{name}.fused"
    modules[node.target] = FusedConv2d(conv, norm, activation)


def _only_user(node: fx.Node) -> fx.Node | None:
    """The call of a module that alone uses a node's output; None if there is none."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op == "call_module" else None


def _merge(node: fx.Node, after: fx.Node) -> fx.Node | None:
    """Remove the only user of a node, and return the next one."""
    after.replace_all_uses_with(node)
    node.graph.erase_node(after)
    return _only_user(node)


def _folded(conv: nn.Conv2d, norm: _BatchNorm | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution that include the normalisation after it."""
    weight, bias = conv.folded() if isinstance(conv, FastConv2d) else (conv.weight, conv.bias)
    if norm is None or (isinstance(conv, FastConv2d) and conv.norm is norm):
        return weight.detach(), None if bias is None else bias.detach()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    fused_weight, fused_bias = fuse_conv_bn_weights(
        weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return fused_weight.detach(), fused_bias.detach()
