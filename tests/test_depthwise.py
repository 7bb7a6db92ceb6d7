from __future__ import annotations

import pytest
import torch
from torch import nn

from dscnet.models.backbones import create_backbone
from dscnet.models.depthwise import DilatedDepthwise, is_dilated_depthwise, use_fast_depthwise


def conv(kernel=(3, 5), dilation=(2, 3), padding=(2, 6), channels=4) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(
        channels, channels, kernel, padding=padding, dilation=dilation, groups=channels, bias=False
    )


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding"),
    [((3, 5), (2, 3), (2, 6)), ((5, 5), (2, 2), (4, 4)), ((3, 3), (1, 4), (1, 4))],
)
@pytest.mark.parametrize("size", [(17, 16), (4, 3), (1, 1)])
def test_output_and_gradients_are_those_of_torch(kernel, dilation, padding, size, monkeypatch):
    plain = conv(kernel, dilation, padding).double()
    fast = nn.Sequential(conv(kernel, dilation, padding).double())
    use_fast_depthwise(fast)
    calls = []
    by_phases = DilatedDepthwise.by_phases
    monkeypatch.setattr(DilatedDepthwise, "by_phases", lambda *a: calls.append(1) or by_phases(*a))
    image = torch.randn(2, 4, *size, dtype=torch.float64)
    results = []
    for module in (plain, fast):
        own = image.clone().requires_grad_()
        output = module(own)
        # Or the slow path would be compared with itself.
        assert bool(calls) == (module is fast)
        (output**2).sum().backward()
        results.append((output, own.grad, next(module.parameters()).grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_frozen_weights_and_frozen_images():
    fast = nn.Sequential(conv())
    use_fast_depthwise(fast)
    fast[0].weight.requires_grad_(False)
    image = torch.randn(1, 4, 12, 12, requires_grad=True)
    fast(image).sum().backward()
    assert image.grad is not None
    assert fast[0].weight.grad is None
    fast[0].weight.requires_grad_(True)
    fast(image.detach()).sum().backward()
    assert fast[0].weight.grad is not None


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2, stride=2),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2, bias=True),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2, bias=False, padding="same"),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2, bias=False, padding=5),
        nn.Conv2d(4, 4, 3, groups=4, dilation=2, bias=False),
        nn.Conv2d(4, 4, 4, groups=4, dilation=2, bias=False, padding=3),
        nn.ReLU(),
    ],
)
def test_other_modules_stay(other):
    assert not is_dilated_depthwise(other)


def test_a_backbone_has_them_and_its_names_stay():
    backbone = create_backbone(output_stride=16, weights="none")
    replaced = [name for name, m in backbone.named_modules() if isinstance(m, DilatedDepthwise)]
    assert replaced
    assert {f"{name}.weight" for name in replaced} <= backbone.state_dict().keys()
    assert not any(is_dilated_depthwise(module) for module in backbone.modules())
