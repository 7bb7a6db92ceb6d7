from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dscnet.models.affinitynet import AffinityNet
from dscnet.models.backbones import create_backbone


class Taps(nn.Module):
    """A backbone of three strided convolutions with the maps of a real one."""

    channels = (3, 5, 7)

    def __init__(self, strides=(1, 1, 1)):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride, 1)
            for a, b, stride in zip((3, 3, 5), self.channels, strides, strict=True)
        )

    def forward(self, image):
        maps = []
        for conv in self.convs:
            image = conv(image)
            maps.append(image)
        return tuple(maps)


def elu(x):
    return torch.where(x > 0, x, x.exp() - 1)


def test_features_are_the_published_ones(generator):
    net = AffinityNet(Taps()).double()
    image = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    low, mid, high = net.backbone(image)
    expected = torch.zeros(2, 448, 4, 5, dtype=torch.float64)
    weights = [layer.weight[:, :, 0, 0] for layer in (net.squeeze_low, net.squeeze_mid)]
    weights += [net.squeeze_high.weight[:, :, 0, 0]]
    for b in range(2):
        for y in range(4):
            for x in range(5):
                maps = (low[b, :, y, x], mid[b, :, y, x], high[b, :, y, x])
                squeezed = [elu(w @ tap) for w, tap in zip(weights, maps, strict=True)]
                joined = net.mix.weight[:, :, 0, 0] @ torch.cat(squeezed)
                expected[b, :, y, x] = elu(joined)
    torch.testing.assert_close(net(image).features, expected)


def test_layers_have_the_published_names_shapes_and_starts():
    net = AffinityNet(Taps())
    assert [name for name, _ in net.named_children()] == [
        "backbone",
        "squeeze_low",
        "squeeze_mid",
        "squeeze_high",
        "mix",
    ]
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters() if "backbone" not in name}
    assert shapes == {
        "squeeze_low.weight": (64, 3, 1, 1),
        "squeeze_mid.weight": (128, 5, 1, 1),
        "squeeze_high.weight": (256, 7, 1, 1),
        "mix.weight": (448, 448, 1, 1),
    }
    assert float(net.squeeze_high.weight.detach().std()) == pytest.approx((2 / 7) ** 0.5, rel=0.1)
    assert float(net.mix.weight.detach().abs().max()) == pytest.approx(
        4 * (6 / 896) ** 0.5, rel=0.01
    )


def test_taps_are_resized_to_the_last(generator):
    net = AffinityNet(Taps((2, 2, 1)))
    image = torch.randn(1, 3, 16, 24, generator=generator)
    low, mid, high = net.backbone(image)
    assert net(image).features.shape == (1, 448, *high.shape[-2:])
    small = F.interpolate(low, high.shape[-2:], mode="bilinear", align_corners=True)
    same = AffinityNet(Taps())
    same.load_state_dict(net.state_dict())
    same.backbone.forward = lambda image: (small, mid, high)
    torch.testing.assert_close(net(image).features, same(image).features)


def test_the_backbone_is_trained_too():
    net = AffinityNet(Taps())
    net(torch.randn(1, 3, 6, 6)).features.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.backbone.parameters())


def test_weights_of_a_backbone_fit_at_another_stride():
    coarse, fine = (
        create_backbone(output_stride=stride, weights="none", frozen_stages=2) for stride in (16, 8)
    )
    fine.load_state_dict(coarse.state_dict())
    net = AffinityNet(fine).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 40, 51)).features.shape == (1, 448, 5, 7)
